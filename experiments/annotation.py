"""Measure annotation effort: actions per square with each tool, and clicks with guesses that learn.

    python experiments/annotation.py RUN … [--parts squares learning] [--out results/annotation.json]

Each run is a finished training of one domain, such as that of a few masks early in a campaign. The annotator is a
program that has the ground truth and works with the labelling page's tools. It calls the server side of the tools, and
it repeats the page's rules for thresholds on scores and for filling areas. In each step it paints the largest wrong
piece with the tool that corrects most pixels per action, until 95 % of the labelled pixels are right. As on the page,
an action is a class key, a tool key, a click, a drag, a turn of the wheel after a click, or the Enter that saves. A
drag is a stroke of the brush, a stroke over superpixels, or a box for smart select. With the automatic class, a class
key is needed only where the page's class is not the right one.

squares     of 60×60 pixels, in images of validation at their own size; with each tool alone and with all of them,
            painted from nothing and from the guess; a brush's stroke where a tool corrects nothing; the table counts
            the squares of all runs
learning    the squares of 30×30 pixels with the lowest confidence of the network, in images of the pool at half their
            size, in the page's order; with the network's guesses, and with guesses refitted after every answer

Shapes: H×W pixels of an image · h×w pixels of a square.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import cv2
import numpy as np
import torch

from fewmask.acquisition.regions import parse_regions
from fewmask.annotation.page import segments
from fewmask.annotation.page.ahead import Ahead
from fewmask.annotation.page.answer_index import in_order
from fewmask.annotation.page.features import Features
from fewmask.annotation.page.guesses import Predictor
from fewmask.annotation.page.head import Expected, expected
from fewmask.annotation.page.learning import Learner, labelled
from fewmask.annotation.page.smart_select import Frame, Point, Prompt, Scores, select
from fewmask.annotation.questions import Question
from fewmask.data.domain import Domain
from fewmask.engine.guess import predictor
from fewmask.engine.run import hardware, load_config, load_domains, versions
from fewmask.files import write_json
from fewmask.labels import NOT_LABELLED, Mask

ENOUGH = 0.95
PARTS = ["squares", "learning"]
SEVERAL = 3
"""Classes of a square, at least: what has fewer is a key or two."""
MOST = 80
"""Actions after which a square is given up."""
REACHES = (0, 30, -24, 60)
"""Of smart select, in scores: as proposed, or some turns of the wheel further."""


# ── The annotator ────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, eq=False)
class Square:
    """A square that is asked for, and the outputs of the page's tools for it."""

    truth: Mask
    """(h,w); what is not labelled is of no account."""
    picture: np.ndarray
    select: Callable[[Prompt], Scores]
    likely: Expected
    """What the automatic class goes by."""


@dataclass(frozen=True)
class Done:
    actions: int
    right: float
    shown: Mask


@dataclass(frozen=True, eq=False)
class Option:
    tool: str
    area: np.ndarray
    """(h,w) bool: what it paints."""
    cost: int
    at: tuple[int, int] | None = None
    """The pixel of the click; None for a box or a polygon."""


def annotate(square: Square, start: Mask, tools: Sequence[str], automatic: bool = False) -> Done:
    """Paint over the values shown at the start, until enough pixels are right."""
    truth, shown = square.truth, start.copy()
    valid = truth < NOT_LABELLED
    cut = segments.cut(square.picture) if "superpixel" in tools else None
    actions, value, tool, width = 0, -1, tools[0], -1

    def right(of: Mask) -> float:
        return float((of == truth)[valid].mean()) if valid.any() else 1.0

    while right(shown) < ENOUGH and actions < MOST:
        wrong = valid & (shown != truth)
        piece, wanted = _largest(wrong, truth)
        depth = cv2.distanceTransform(np.pad(piece, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
        y, x = (int(v) for v in np.unravel_index(depth.argmax(), depth.shape))
        options: list[Option] = []
        if "whole" in tools:
            options.append(Option("whole", np.ones_like(piece), 1, (y, x)))
        if "fill" in tools:
            options.append(Option("fill", _connected(shown == shown[y, x], y, x), 1, (y, x)))
        if cut is not None:
            options.append(Option("superpixel", cut == cut[y, x], 1, (y, x)))
            mostly = (np.bincount(cut.ravel(), piece.ravel()) / np.bincount(cut.ravel()) > 0.5)[cut]
            options.append(Option("superpixel", _connected(mostly | (cut == cut[y, x]), y, x), 1, (y, x)))
        if "smart" in tools:
            for prompt in (Prompt(points=[Point(y=y + 0.5, x=x + 0.5)]), Prompt(points=[], frame=_around(piece))):
                scores, at = square.select(prompt), (y, x) if prompt.points else None
                for reach in REACHES:
                    there = scores.values >= min(max(scores.threshold - reach, 1), 255)
                    if at:
                        there[at] = True
                        there = _connected(there, y, x)
                    options.append(Option("smart", there, 1 + (reach != 0), at))
        if "polygon" in tools:
            outlines, _ = cv2.findContours(piece.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            corners = cv2.approxPolyDP(max(outlines, key=len), 1.5, True)
            if len(corners) > 2:
                area = cv2.fillPoly(np.zeros(piece.shape, np.uint8), [corners], 1).astype(bool)
                options.append(Option("polygon", area, len(corners) + 1))
        # A stroke along the middle of the piece, about as wide as the piece, in one pass.
        radius = max(int(0.7 * depth[y, x]), 1)
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius - 1, 2 * radius - 1))
        stroke = cv2.morphologyEx(piece.astype(np.uint8), cv2.MORPH_OPEN, disc, borderValue=0) > 0
        stroke[y, x] = True
        options.append(Option("brush", _connected(stroke, y, x), 1 + (radius != width), (y, x)))
        # The number of pixels that an action corrects, minus the number that it makes wrong.
        good, spoiled = wrong & (truth == wanted), valid & (shown == truth) & (truth != wanted)
        values = [_automatic(square.likely, option, shown) if automatic else value for option in options]
        costs = [o.cost + (v != wanted) + (o.tool != tool) for o, v in zip(options, values, strict=True)]
        gains = [int((o.area & good).sum()) - int((o.area & spoiled).sum()) for o in options]
        best = max(range(len(options)), key=lambda n, gains=gains, costs=costs: gains[n] / costs[n])
        if "brush" not in tools and any(gain > 0 for gain in gains[:-1]):
            best = max(range(len(options) - 1), key=lambda n, gains=gains, costs=costs: gains[n] / costs[n])
        chosen = options[best]
        width = radius if chosen.tool == "brush" else width
        shown[chosen.area] = wanted
        actions, value, tool = actions + costs[best], wanted, chosen.tool
    return Done(actions + 1, right(shown), shown)


def _automatic(likely: Expected, option: Option, shown: Mask) -> int:
    """The class that the page chooses for an area: see `valueFor` of annotator.js. For a stroke of the brush its first
    pixel decides."""
    area = option.area
    if option.tool == "brush" or not area.any():
        area = np.zeros_like(area)
        area[option.at or (0, 0)] = True
    refused = np.bincount(shown[area]).argmax() if option.at is None else shown[option.at]
    return int(np.bincount(np.where(likely.label == refused, likely.second, likely.label)[area]).argmax())


def _around(piece: np.ndarray) -> Frame:
    """The box around a piece."""
    rows, columns = np.nonzero(piece)
    return Frame(top=rows.min(), left=columns.min(), bottom=rows.max() + 1, right=columns.max() + 1)


def _largest(wrong: np.ndarray, truth: Mask) -> tuple[np.ndarray, int]:
    """The largest wrong piece of one class, and its class."""
    best, found, of = 0, wrong, 0
    for wanted in np.unique(truth[wrong]).tolist():
        pieces = (wrong & (truth == wanted)).astype(np.uint8)
        _, parts, stats, _ = cv2.connectedComponentsWithStats(pieces, connectivity=4)
        part = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
        if stats[part, cv2.CC_STAT_AREA] > best:
            best, found, of = int(stats[part, cv2.CC_STAT_AREA]), parts == part, wanted
    return found, of


def _connected(there: np.ndarray, y: int, x: int) -> np.ndarray:
    """The component that is connected to a pixel by edges."""
    _, parts = cv2.connectedComponents(there.astype(np.uint8), connectivity=4)
    return np.asarray(parts == parts[y, x])


# ── Actions per square ───────────────────────────────────────────────────────────────────────────────────────────────

ALL = ("smart", "fill", "whole", "superpixel", "polygon", "brush")
ROWS = {
    "polygons": (False, ("polygon",), False),
    "brush": (False, ("brush",), False),
    "superpixels": (False, ("superpixel",), False),
    "smart select": (False, ("smart",), False),
    "guess, fill and superpixels": (True, ("fill", "whole", "superpixel"), False),
    "guess and smart select": (True, ("smart",), False),
    "guess and all tools": (True, ALL, False),
    "guess, all tools and the automatic class": (True, ALL, True),
}
"""Whether the guess is shown, the tools, and whether the class is automatic."""
BEST = "guess, all tools and the automatic class"


def squares(domain: Domain, found: Predictor, images: int, each: int, classes: list[int]) -> dict[str, list[Done]]:
    """Every row's actions for the same squares: of every image some with several classes of which at least half is
    labelled. Appends the number of classes of each square to `classes`."""
    assert found.encode is not None and found.head is not None
    stems, head = domain.splits["val"], found.head(domain.name)
    done: dict[str, list[Done]] = {row: [] for row in ROWS}
    for stem in stems[:: max(len(stems) // images, 1)][:images]:
        image, mask = domain.image(stem), domain.mask(stem)
        features, guess = found.encode(domain.name, image), found.predict(domain.name, image)[0]
        tiles = parse_regions("squares:60").tile(image)
        windows = [(box, np.s_[box[0] : box[2], box[1] : box[3]]) for box in map(tiles.box, range(tiles.count))]
        windows = [(b, w) for b, w in windows if mask[w].size == 3600 and (mask[w] < NOT_LABELLED).mean() > 0.5]
        several = [one for one in windows if len(np.unique(mask[one[1]][mask[one[1]] < NOT_LABELLED])) >= SEVERAL]
        for box, window in several[:: max(len(several) // each, 1)][:each]:
            classes.append(len(np.unique(mask[window][mask[window] < NOT_LABELLED])))
            square = Square(
                mask[window],
                image[window],
                lambda p, b=box, f=features, i=image: select(f, b, p, i),
                expected(head, features, box, image),
            )
            nothing = np.full((60, 60), NOT_LABELLED, np.uint8)
            for row, (from_guess, tools, automatic) in ROWS.items():
                done[row].append(annotate(square, guess[window] if from_guess else nothing, tools, automatic))
    return done


# ── Guesses that learn ───────────────────────────────────────────────────────────────────────────────────────────────


def learning(domain: Domain, found: Predictor, images: int, each: int) -> dict[str, Any]:
    """Clicks for the same answers, with the network's guesses and with guesses that learn."""
    assert found.encode is not None and found.head is not None
    encode = found.encode
    features: Ahead[Features] = Ahead(encode, lambda one: one.bytes)
    learner = Learner(features, found.head, lambda _: labelled(domain))
    stems = domain.unlabelled[:: max(len(domain.unlabelled) // images, 1)][:images]
    pictures = {stem: domain.image(stem) for stem in stems}
    guesses = {stem: found.predict(domain.name, picture) for stem, picture in pictures.items()}
    asked = []
    for stem in stems:
        regions = parse_regions("squares:30").tile(pictures[stem])
        sure = np.bincount(regions.map.ravel(), guesses[stem][1].ravel()) / regions.pixels
        labels = np.bincount(regions.map.ravel(), domain.mask(stem).ravel() < NOT_LABELLED) / regions.pixels
        for region in [r for r in np.argsort(sure).tolist() if labels[r] > 0.5][:each]:
            asked.append(Question(domain.name, stem, "squares:30", region, regions.box(region), id=len(asked) + 1))
    told: dict[str, list[tuple[int, float]]] = {"without": [], "with": []}
    seconds = []
    for question in in_order(asked):
        picture = pictures[question.stem]
        made = features.get((domain.name, question.stem), lambda p=picture: p)
        square = Square(
            question.window(domain.mask(question.stem)),
            question.window(picture),
            lambda p, q=question, f=made, i=picture: select(f, q.box, p, i),
            learner.likely(question, lambda p=picture: p),
        )
        own = question.window(guesses[question.stem][0])
        learned = learner.expected(question, lambda p=picture: p)
        for name, guess in (("without", own), ("with", own if learned is None else learned.label)):
            done = annotate(square, guess, ALL)
            valid = square.truth < NOT_LABELLED
            told[name].append((done.actions, float((guess == square.truth)[valid].mean())))
        started = time.process_time()
        learner.learn_from(question, lambda values=done.shown: values, lambda p=picture: p)
        learner.settle()
        seconds.append(time.process_time() - started)
    learner.close()
    features.close()
    return {
        "answers": len(asked),
        "images": len(stems),
        "refit_cpu_seconds_median": round(median(seconds), 3),
        **{
            name: {
                "clicks": sum(clicks for clicks, _ in rows),
                "guesses_enough": round(fmean(right >= ENOUGH for _, right in rows), 4),
                "guess_pixels_right": round(fmean(right for _, right in rows), 4),
            }
            for name, rows in told.items()
        },
        "clicks_with_over_without": round(sum(c for c, _ in told["with"]) / sum(c for c, _ in told["without"]), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path("results/annotation.json"))
    parser.add_argument("--images", type=int, default=8, help="of each dataset, for either part")
    parser.add_argument("--each", type=int, default=8, help="squares of each image, for either part")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="The other part of --out stays.")
    given = parser.parse_args()
    result = json.loads(given.out.read_text(encoding="utf-8")) if given.out.exists() else {}
    rows: list[dict[str, Any]] = []
    done: dict[str, list[Done]] = {row: [] for row in ROWS}
    classes: list[int] = []
    measured: list[str] = []
    for run in given.runs:
        config, found = load_config(run), predictor(run)
        if found is None:
            raise SystemExit(f"{run}: not trained yet")
        ((name, domain),) = load_domains(config).items()
        masks, steps = config.labelled.images, config.train.steps
        if "squares" in given.parts:
            for row, more in squares(domain.at(None), found, given.images, given.each, classes).items():
                done[row] += more
            measured.append(f"{name} val, seed {config.seed}: {masks} masks, {steps} steps")
            result |= _table(done, classes, measured)
        if "learning" in given.parts:
            about = {"dataset": name, "seed": config.seed, "masks": masks, "steps": steps, "size": domain.size}
            rows.append(about | learning(domain, found, given.images, given.each))
            result |= _clicks(rows)
        for part in given.parts:
            result.setdefault("commands", {})[part] = shlex.join(_shown(sys.argv))
        made = {"hardware": {**hardware(torch.device("cpu")), "machine": platform.machine()}, "versions": versions()}
        write_json(given.out, result | made)


def _table(by_tool: dict[str, list[Done]], classes: list[int], measured: list[str]) -> dict[str, Any]:
    tools = {
        row: {
            "actions_median": median(one.actions for one in done),
            "actions_mean": round(fmean(one.actions for one in done), 2),
            "at_most_ten": round(fmean(one.actions <= 10 for one in done), 4),
            "pixels_right": round(fmean(one.right for one in done), 4),
        }
        for row, done in by_tool.items()
    }
    count, mean = len(classes), round(fmean(classes), 2)
    return {
        "actions_per_square_median": tools[BEST]["actions_median"],
        "annotator": f"a program that knows the truth, to {ENOUGH:.0%} of the labelled pixels",
        "squares": {"squares": count, "classes_mean": mean, "tools": tools, "measured_on": measured},
    }


def _clicks(rows: list[dict[str, Any]]) -> dict[str, Any]:
    clicks = {name: sum(row[name]["clicks"] for row in rows) for name in ("with", "without")}
    share = round(clicks["with"] / clicks["without"], 4)
    return {"clicks_with_learning_guesses_over_without": share, "learning": rows}


def _shown(arguments: Sequence[str]) -> list[str]:
    """The arguments without the folders of this machine."""
    return [Path(one).name if Path(one).is_absolute() else one for one in arguments]


if __name__ == "__main__":
    main()
