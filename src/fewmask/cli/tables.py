"""Printing results as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table

from fewmask.cli.terminal import out, plain, say
from fewmask.plurals import count, percent

if TYPE_CHECKING:
    from fewmask.data.doctor import Statistics


def print_scores(result: Mapping[str, Any], title: str) -> None:
    """Print the per-class IoU of every domain, from a result of `evaluate` or a run's summary."""
    for name, s in result["domains"].items():
        images = f"{s['split']}, {count(s['images'], 'image')}"
        out.print(f"\n{plain(title)} · {plain(name)} · {images}", style="bold", soft_wrap=True)
        table = Table("class", "IoU, %")
        for label, iou in s["iou"].items():
            table.add_row(plain(label), percent(iou))
        table.add_section()
        table.add_row("mIoU", percent(s["miou"]), style="bold")
        table.add_row("mIoU, absent classes as 0", percent(s["miou_legacy"]), style="dim")
        table.add_row("pixel accuracy", percent(s["pixel_accuracy"]))
        out.print(table)
        if s.get("unreachable"):
            with_zeros = f"the mIoU with these classes as 0 is {percent(s['miou_present'])}"
            say(f"no source class maps to {', '.join(s['unreachable'])}; {with_zeros}")
        if missing := [label for label, iou in s["iou"].items() if iou is None]:
            say(f"these masks have no pixel of {', '.join(missing)}: the mIoU is over the other classes")
        if unseen := result.get("unseen", {}).get(name):
            say(f"none of the labelled masks has a pixel of {', '.join(unseen)}: the network could not learn this")
    say(f"mean mIoU over domains: {percent(result['avg_miou'])}")


def print_heads(result: Mapping[str, Any], title: str) -> None:
    """Print the scores of every head on a domain, and of all heads fused, from a result of `every_head`."""
    heads = result["heads"]
    (name,) = result["domains"]
    out.print(f"\n{title} · {name}", style="bold", soft_wrap=True)
    table = Table("class", *map(plain, heads), caption="–: the class does not occur, or the head lacks it")
    unreachable = set(heads["fused"]["unreachable"])
    for label in (label for label in heads["fused"]["iou"] if label not in unreachable):
        table.add_row(plain(label), *(percent(s["iou"][label]) for s in heads.values()))
    table.add_section()
    table.add_row("mIoU of the head's classes", *(percent(s["miou"]) for s in heads.values()))
    table.add_row("mIoU of these classes", *(percent(s["miou_union"]) for s in heads.values()), style="bold")
    table.add_row("pixel accuracy", *(percent(s["pixel_accuracy"]) for s in heads.values()))
    out.print(table)
    if unreachable:
        say(f"no head has a class for {', '.join(heads['fused']['unreachable'])}")
    images = sum(result["chosen"].values())
    chosen = ", ".join(f"{domain} {number}" for domain, number in result["chosen"].items())
    say(f"best domain: {chosen} of {count(images, 'image')}; {result['ambiguous']} ambiguous")


def statistics_table(s: Statistics) -> Table:
    table = Table("class", "share of pixels", "masks")
    for label, share in s.pixels.items():
        table.add_row(plain(label), percent(share), str(s.occurs.get(label, 0)))
    table.add_section()
    table.add_row("not labelled", percent(s.not_labelled), "")
    table.add_row("void", percent(s.void), "")
    return table


def rounds_table(history: list[dict[str, Any]], unit: str) -> Table:
    """The rounds of a campaign: all labels, mIoU on validation per domain, seconds of scoring the pool and training."""
    domains = list(history[0]["miou"])
    several = ["mean"] if len(domains) > 1 else []
    counted = [] if unit == "pixels" else [f"{unit} in all"]
    table = Table("round", *counted, "pixels in all", *domains, *several, "seconds", title="mIoU on validation, in %")
    for entry in history:
        scores = [entry["miou"][name] for name in domains] + ([entry["avg_miou"]] if several else [])
        labels = [f"{entry['total_cost']:,.0f}"] if counted else []
        labels += [f"{sum(entry['pixels'].values()):,}"]
        seconds = entry["seconds"] + entry["score_pool_seconds"]
        table.add_row(str(entry["round"] + 1), *labels, *map(percent, scores), f"{seconds:.0f}")
    return table
