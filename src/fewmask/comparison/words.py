"""A comparison in words and as a Markdown table. Points are hundredths of IoU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fewmask.comparison.pairs import MEANS
from fewmask.comparison.statistics import LEVEL
from fewmask.plurals import count

NAMES = {"miou": "mIoU", "miou_shared": "shared", "miou_private": "private"}
# By number of seeds, the simulated coverage of the bootstrap interval in % where seeds are most of the variance: see
# docs/comparing.md.
TOO_NARROW = {2: 50, 3: 74, 4: 79, 5: 83}

SIMILAR_IMAGES = "It is too narrow where images are alike, as the frames of a video are."
"""The limit of an interval over images: it draws images as if they were independent."""


def points(value: float | None, sign: str = "") -> str:
    return "–" if value is None else f"{100 * value:{sign}.1f}".replace("-", "−")


def interval(ends: list[float] | None) -> str:
    return "–" if ends is None else f"{points(ends[0], '+')} … {points(ends[1], '+')}"


def rows(pair: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """(domain, figure, difference) of a comparison, the mean over domains first."""
    if len(pair["domains"]) > 1:
        yield "mean", "mIoU", pair["avg_miou"]
    for name, scores in pair["domains"].items():
        yield from ((name, NAMES[key], scores[key]) for key in MEANS if key in scores)
        yield from ((name, label, d) for label, d in scores["iou"].items() if d["difference"] is not None)


def verdict(d: Mapping[str, Any]) -> str:
    """The verdict in a word; with a star if the interval excludes zero but the difference does not pass Holm's test."""
    if d["verdict"] != "within noise":
        return str(d["verdict"])
    return "noise*" if d["p"] < 1 - LEVEL else "noise"


def sentence(pair: Mapping[str, Any]) -> str:
    """The headline: the difference of b and a in the mean over domains, the verdict, and the number of seeds."""
    d, a, b = pair["avg_miou"], pair["a"], pair["b"]
    verdict = {
        "higher": f"{b} is better, beyond noise",
        "lower": f"{b} is worse, beyond noise",
        "within noise": "within noise",
    }.get(d["verdict"], "one seed cannot tell a difference from noise")
    ends = f" ({interval(d['interval'])})" if d["interval"] is not None else ""
    meaning = f"{b} − {a} in points of mIoU{', with the 95 % interval' if ends else ''}"
    return f"{points(d['difference'], '+')}{ends}: {verdict}. {meaning}, {count(len(pair['seeds']), 'seed')}."


def assumptions(pair: Mapping[str, Any]) -> list[str]:
    """The assumptions behind the intervals, and their scope."""
    seeds, classes = len(pair["seeds"]), sum(len(scores["iou"]) for scores in pair["domains"].values())
    lines = [
        {
            "seeds and images": "The paired interval includes the variance over seeds and over images: it holds for "
            "other seeds and for other images of the same kind.",
            "seeds": "The paired interval includes the variance over seeds only: it holds for other seeds on the same "
            "images.",
            "images": "The interval includes the variance over images only: it holds for these networks, not for the "
            "methods.",
            "nothing": "There is no interval: there is one seed, and the runs have no counts of images.",
        }[pair["basis"]]
    ]
    if pair["basis"] in ("seeds and images", "images"):
        lines[0] += f" {SIMILAR_IMAGES}"
    if seeds > 1:
        lines.append("The t interval assumes roughly normal differences by seed; the verdict is based on it.")
    if seeds in TOO_NARROW:
        lines.append(
            f"With {seeds} seeds the bootstrap interval is too narrow if seeds are most of the variance: it contains "
            f"the true difference in {TOO_NARROW[seeds]} of 100 cases, not in 95."
        )
    if seeds > 1 and classes > 1:
        lines.append(
            f"By chance alone, one in twenty of the {classes} classes would differ. Verdicts on domains, means and "
            "classes therefore use Holm's correction; noise* marks an interval without zero that does not pass it."
        )
    return lines


def markdown(result: Mapping[str, Any]) -> str:
    """A table of the methods with mean ± sample standard deviation in points, and of the differences from the first
    method with 95 % intervals, bold if beyond noise. Headlines and warnings follow.

    The table has the domains of all methods. A dash marks a domain that a method lacks, and the mean of a method that
    lacks one."""
    methods = result["methods"]
    domains = list(dict.fromkeys(name for method in methods for name in method["domains"]))
    private = [n for n in domains if any(method["domains"].get(n, {}).get("miou_private") for method in methods)]
    several = len(domains) > 1
    columns = [(name, "miou") for name in domains] + [(None, "avg_miou")] * several
    columns += [(name, "miou_private") for name in private]
    head = [*domains, *["mean"] * several, *(f"private {n}" for n, key in columns if key == "miou_private")]
    lines = ["| " + " | ".join(map(cell, ["method", "seeds", *head, "minutes a run"])) + " |"]
    lines.append("|---" * (len(head) + 3) + "|")

    def figure(part: Mapping[str, Any], name: str | None, key: str) -> Any:
        if name is None:
            return part[key] if len(part["domains"]) == len(domains) else None
        return part["domains"].get(name, {}).get(key)

    for method in methods:
        cells = [plus_minus(figure(method, *column)) for column in columns]
        minutes = f"{method['seconds']['mean'] / 60:.1f}" if method["seconds"] else "–"
        lines.append("| " + " | ".join([f"`{cell(method['name'])}`", str(len(method["runs"])), *cells, minutes]) + " |")
    for pair in result["comparisons"]:
        cells = [change(figure(pair, *column)) for column in columns]
        name = f"`{cell(pair['b'])}` − `{cell(pair['a'])}`"
        lines.append("| " + " | ".join([name, str(len(pair["seeds"])), *cells, ""]) + " |")
    remarks = [
        line for pair in result["comparisons"] for line in (sentence(pair), *assumptions(pair), *pair["warnings"])
    ]
    return "\n".join([*lines, "", *(f"- {line}" for line in dict.fromkeys([*remarks, *result["warnings"]]))]) + "\n"


def plus_minus(spread: Mapping[str, float | None] | None) -> str:
    if spread is None:
        return "–"
    return points(spread["mean"]) + (f" ± {points(spread['sd'])}" if spread["sd"] is not None else "")


def change(d: Mapping[str, Any] | None) -> str:
    if d is None:
        return "–"
    text = f"{points(d['difference'], '+')} ({interval(d['interval'])})"
    return f"**{text}**" if d["verdict"] in ("higher", "lower") else text


def cell(text: str) -> str:
    """Text with the characters escaped that end a cell of a table."""
    return text.replace("|", r"\|").replace("`", "ʼ")
