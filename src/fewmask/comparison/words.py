"""What a comparison says, in words and as a Markdown table; points are hundredths of IoU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fewmask.comparison.pairs import MEANS
from fewmask.comparison.statistics import LEVEL
from fewmask.plurals import count

NAMES = {"miou": "mIoU", "miou_shared": "shared", "miou_private": "private"}
# The t interval's and the bootstrap's share of intervals that hold the truth, where seeds are most of the luck:
# simulated, see docs/comparing.md.
TOO_NARROW = {2: 50, 3: 74, 4: 79, 5: 83}


def points(value: float | None, sign: str = "") -> str:
    return "–" if value is None else f"{100 * value:{sign}.1f}".replace("-", "−")


def interval(ends: list[float] | None) -> str:
    return "–" if ends is None else f"{points(ends[0], '+')} … {points(ends[1], '+')}"


def rows(pair: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """(domain, figure, difference) of a comparison, the mean over domains first."""
    if len(pair["domains"]) > 1:
        yield "mean", "mIoU", pair["avg_miou"]
    for name, found in pair["domains"].items():
        yield from ((name, NAMES[key], found[key]) for key in MEANS if key in found)
        yield from ((name, label, d) for label, d in found["iou"].items() if d["difference"] is not None)


def verdict(d: Mapping[str, Any]) -> str:
    """The verdict in a word; with a star where the interval excludes zero, which among so many is luck."""
    if d["verdict"] != "within noise":
        return str(d["verdict"])
    return "noise*" if d["p"] < 1 - LEVEL else "noise"


def sentence(pair: Mapping[str, Any]) -> str:
    """The headline: is b better than a on the mean over domains? The answer comes first, then what it is of."""
    d, a, b = pair["avg_miou"], pair["a"], pair["b"]
    verdict = {
        "higher": f"{b} is better, beyond noise",
        "lower": f"{b} is worse, beyond noise",
        "within noise": "within noise",
    }.get(d["verdict"], "one seed cannot tell a method from its luck")
    ends = f" ({interval(d['interval'])})" if d["interval"] is not None else ""
    of = f"{b} − {a} in points of mIoU{', with the 95 % interval' if ends else ''}"
    return f"{points(d['difference'], '+')}{ends}: {verdict}. {of}, {count(len(pair['seeds']), 'seed')}."


def assumptions(pair: Mapping[str, Any]) -> list[str]:
    """What the intervals rest on, and what they speak of."""
    seeds, classes = len(pair["seeds"]), sum(len(found["iou"]) for found in pair["domains"].values())
    told = [
        {
            "seeds and images": "The interval counts the luck of seeds and of images, paired: it speaks of other "
            "seeds and of other images of the same kind.",
            "seeds": "The interval counts the luck of seeds alone, paired: it speaks of other seeds, on these very "
            "images.",
            "images": "The interval counts the luck of images alone: it speaks of these networks, not of the methods.",
            "nothing": "There is no interval: one seed, and no counts of images.",
        }[pair["basis"]]
    ]
    if seeds > 1:
        told.append("Differences by seed are taken as roughly normal (t interval); the verdict goes by it.")
    if seeds in TOO_NARROW:
        told.append(
            f"With {seeds} seeds the bootstrap's percentiles are too narrow where seeds are most of the luck: they "
            f"hold the truth in {TOO_NARROW[seeds]} of 100 cases, not in 95."
        )
    if seeds > 1 and classes > 1:
        told.append(
            f"Of {classes} classes one in twenty would differ by luck alone: verdicts on domains, parts and classes "
            "are Holm's, and noise* is an interval without zero that does not pass."
        )
    return told


def markdown(result: Mapping[str, Any]) -> str:
    """Methods with mean ± sample standard deviation, in points, and below their differences from the first with the
    95 % interval, bold where beyond noise; then the headlines and what to mind.

    The domains are those of all methods; a dash stands where a method has none, and where its mean is one of fewer
    domains than the others'."""
    methods = result["methods"]
    domains = list(dict.fromkeys(name for method in methods for name in method["domains"]))
    private = [n for n in domains if any(method["domains"].get(n, {}).get("miou_private") for method in methods)]
    several = len(domains) > 1
    columns = [(name, "miou") for name in domains] + [(None, "avg_miou")] * several
    columns += [(name, "miou_private") for name in private]
    head = [*domains, *["mean"] * several, *(f"private {n}" for n, key in columns if key == "miou_private")]
    lines = ["| " + " | ".join(map(cell, ["method", "seeds", *head, "minutes a run"])) + " |"]
    lines.append("|---" * (len(head) + 3) + "|")

    def figure(found: Mapping[str, Any], name: str | None, key: str) -> Any:
        if name is None:
            return found[key] if len(found["domains"]) == len(domains) else None
        return found["domains"].get(name, {}).get(key)

    for method in methods:
        cells = [plus_minus(figure(method, *column)) for column in columns]
        minutes = f"{method['seconds']['mean'] / 60:.1f}" if method["seconds"] else "–"
        lines.append("| " + " | ".join([f"`{cell(method['name'])}`", str(len(method["runs"])), *cells, minutes]) + " |")
    for pair in result["comparisons"]:
        cells = [change(figure(pair, *column)) for column in columns]
        name = f"`{cell(pair['b'])}` − `{cell(pair['a'])}`"
        lines.append("| " + " | ".join([name, str(len(pair["seeds"])), *cells, ""]) + " |")
    told = [line for pair in result["comparisons"] for line in (sentence(pair), *assumptions(pair), *pair["warnings"])]
    return "\n".join([*lines, "", *(f"- {line}" for line in dict.fromkeys([*told, *result["warnings"]]))]) + "\n"


def plus_minus(found: Mapping[str, float | None] | None) -> str:
    if found is None:
        return "–"
    return points(found["mean"]) + (f" ± {points(found['sd'])}" if found["sd"] is not None else "")


def change(d: Mapping[str, Any] | None) -> str:
    if d is None:
        return "–"
    told = f"{points(d['difference'], '+')} ({interval(d['interval'])})"
    return f"**{told}**" if d["verdict"] in ("higher", "lower") else told


def cell(text: str) -> str:
    """Text in a cell of a table."""
    return text.replace("|", r"\|").replace("`", "ʼ")
