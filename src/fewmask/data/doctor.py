"""The data doctor finds the faults of a configuration's domains in one pass over their files.

Shapes: H×W pixels of an image or mask.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import numpy as np

from fewmask.config import DomainSettings, ScenesDomain
from fewmask.config.scale import SMALL, scaled
from fewmask.data.domain import SPLITS, Domain, FileSource
from fewmask.data.fingerprints import fingerprints
from fewmask.data.inputs import read_input, remarks
from fewmask.data.kinds import TURN_PIXELS
from fewmask.data.layouts import Index, Problem, index_to_check, load_domain
from fewmask.data.masks import size_of
from fewmask.data.reading import Picture, upright
from fewmask.labels import NOT_LABELLED, VOID, LabelSpace, Mask

# Two thumbnails are almost the same below this root mean square difference (of 255). Across the splits of CamVid and
# MSRC-v2 the nearest two are 14 and 10 apart; a JPEG compressed anew is below 1, the next frame of a still camera 4.
NEAR = 6.0

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Statistics:
    """The contents of a domain. Shares are fractions of all pixels of its masks, and their sum is 1."""

    layout: str
    splits: Mapping[str, int]
    """Images by split."""
    masks: int
    """Images of the splits that have a mask."""
    in_part: int
    """Masks of which some pixels are labelled and some are not."""
    labelled: int
    """Images of train that are labelled in a run with these settings."""
    sizes: Mapping[str, int]
    """Images by size, written width×height, the most frequent size first."""
    pixels: Mapping[str, float]
    """Share of each class."""
    occurs: Mapping[str, int]
    """Masks that hold the class."""
    not_labelled: float
    void: float


@dataclass(frozen=True)
class Report:
    """The doctor's findings. `problems` holds errors before warnings. Within each, problems of a whole dataset come
    first, then those of lines of its lists, then those of files, in the order of the domains."""

    problems: tuple[Problem, ...]
    statistics: Mapping[str, Statistics]

    @property
    def errors(self) -> tuple[Problem, ...]:
        """Problems that make a run fail or its scores wrong."""
        return tuple(p for p in self.problems if p.severity == "error")

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """Problems that may be intended."""
        return tuple(p for p in self.problems if p.severity == "warning")

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "errors": [{"where": p.where, "value": p.value, "fix": p.fix} for p in self.errors],
            "warnings": [{"where": p.where, "value": p.value, "fix": p.fix} for p in self.warnings],
            "statistics": {name: asdict(s) for name, s in self.statistics.items()},
        }


@dataclass(frozen=True)
class _Target:
    """One domain to check. `space` is None where its classes could not be read."""

    name: str
    settings: DomainSettings
    listing: Index | None
    """None for procedural scenes, which have no files."""
    domain: Domain | None
    space: LabelSpace | None
    splits: Mapping[str, tuple[str, ...]]

    @property
    def stems(self) -> tuple[str, ...]:
        """The stems to open: images of the splits, and masks without an image, whose pixels may be wrong too."""
        strays = () if self.listing is None else sorted(self.listing.masks.keys() - self.listing.images.keys())
        return tuple(dict.fromkeys(chain(*self.splits.values(), strays)))

    def where(self, stem: str) -> str:
        if self.listing is not None:
            return str(self.listing.images[stem])
        assert self.domain is not None
        return self.domain.source.where(stem)


@dataclass(frozen=True)
class _ImageCheck:
    """The result of the check of one image and its mask."""

    domain: str
    stem: str
    problems: tuple[Problem, ...]
    size: tuple[int, int] | None = None
    """Width and height of the image."""
    digest: bytes | None = None
    """Hash of the decoded pixels. It finds copies under any name and in any lossless format."""
    thumbnail: np.ndarray | None = None
    """(768,) uint8, the image at 16×16. It finds copies that were compressed again."""
    ids: np.ndarray | None = None
    """(256,) pixels of the mask by its raw id."""
    counts: np.ndarray | None = None
    """(256,) pixels of the mask by its value in 0 … C−1, 254, 255; ids outside the space are left out."""


def check_domains(
    domains: Mapping[str, DomainSettings],
    labelled: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    asks: bool = False,
) -> Report:
    """Check every domain and list all problems. Never raises for a fault of the data, and changes no file.

    `labelled` and `seed` are those of the run. Classes that its labelled images lack are reported. A class that no mask
    has is an error, unless people will be asked (`asks`) or the domain's `absent` names it. `progress` is called with
    the number of checked images and the number of all images. Images in no split are not opened.
    """
    targets = {name: _target(name, settings) for name, settings in domains.items()}
    work = [(p, stem) for p in targets.values() for stem in p.stems]
    checks: dict[str, dict[str, _ImageCheck]] = {name: {} for name in targets}
    # Decoding and hashing leave the interpreter's lock, so threads use all cores.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        futures = [pool.submit(_check_image, target, stem) for target, stem in work]
        for done, future in enumerate(as_completed(futures), 1):
            each = future.result()
            checks[each.domain][each.stem] = each
            if progress is not None:
                progress(done, len(work))
    problems: list[Problem] = []
    statistics = {}
    for name, target in targets.items():
        problems += target.listing.problems if target.listing else ()
        # In the order of the splits, whichever thread was first.
        ordered = [checks[name][stem] for p, stem in work if p is target]
        problems += chain.from_iterable(each.problems for each in ordered)
        drawn, drawn_problems = _draw(target, labelled, seed)
        problems += drawn_problems
        problems += _missing_classes(target, checks[name], drawn, asks)
        problems += _near_copies(target, checks[name])
        problems += _scale(target, ordered)
        statistics[name] = _statistics(target, ordered, drawn)
    problems += _copies(targets, checks)
    problems.sort(key=lambda p: (p.severity, p.reach))  # stable: "error" before "warning", the whole before its parts
    return Report(tuple(problems), statistics)


check = check_domains  # scripts outside of this repository call it by this name


def _target(name: str, settings: DomainSettings) -> _Target:
    if isinstance(settings, ScenesDomain):
        domain = load_domain(name, settings)
        return _Target(name, settings, None, domain, domain.space, domain.splits)
    listing = index_to_check(settings)
    if listing.space is None:
        return _Target(name, settings, listing, None, None, listing.splits)
    source = FileSource(listing.root, listing.images, listing.masks, listing.space)
    domain = Domain(name, listing.space, source, listing.splits, listing.labelled)
    return _Target(name, settings, listing, domain, listing.space, listing.splits)


def _check_image(target: _Target, stem: str) -> _ImageCheck:
    """Read one image and its mask, if it has one."""
    if target.listing is None:
        assert target.domain is not None
        scene, mask = target.domain.image(stem), target.domain.mask(stem)
        size = (scene.shape[1], scene.shape[0])
        by_value = np.bincount(mask.reshape(-1), minlength=256)
        return _ImageCheck(target.name, stem, (), size, *fingerprints(scene), counts=by_value)
    problems: list[Problem] = []
    ids: np.ndarray | None = None
    picture: Picture | None = None
    raw: Mask | None = None
    counts: np.ndarray | None = None
    image_path, mask_path = target.listing.images.get(stem), target.listing.masks.get(stem)
    try:
        picture = read_input(image_path, target.listing.input) if image_path else None
    except ValueError as error:
        assert image_path is not None
        problems.append(Problem.of(error, image_path))
    tag, turns = picture.kind.orientation if picture else 1, target.listing.upright
    image = (upright(picture.pixels, tag) if turns else picture.pixels) if picture else None
    try:
        read = target.listing.reader if mask_path else None
        raw = read(stem, mask_path, lambda: size_of(image)) if read and mask_path else None
    except ValueError as error:
        assert mask_path is not None
        problems.append(Problem.of(error, mask_path))
    if image is not None and raw is not None and image.shape[:2] != raw.shape:
        (h, w), (mask_h, mask_w) = image.shape[:2], raw.shape
        turned = (
            ", as if turned: orientation tags of cameras are not applied" if (w, h) == raw.shape and not turns else ""
        )
        value = f"the mask is {mask_w}×{mask_h} pixels, its image {image_path} is {w}×{h}{turned}"
        again = "export the mask again at the image's size"
        fix = f"{TURN_PIXELS}, set `orientation: apply`, or {again}" if turned and tag != 1 else again
        problems.append(Problem(str(mask_path), value, fix))
    for cell in remarks(picture.kind, target.listing.input) if picture else ():
        if not (turns and cell.fix.startswith(TURN_PIXELS)):
            problems.append(Problem(str(image_path), cell.how, cell.fix, "warning"))
    if raw is not None and target.space is not None:
        ids = np.bincount(raw.reshape(-1), minlength=256)
        counts, unknown = _by_value(ids, target.space)
        if unknown:
            named = ", ".join(f"{i} ({n} pixels)" for i, n in unknown.items())
            fix = "add them to the classes or to the void ids, or fix the mask"
            problems.append(Problem(str(mask_path), f"ids outside the label space: {named}", fix))
        elif not counts[: target.space.num_classes].any():
            fix = "label some of it, or remove the mask so that the image counts as unlabelled"
            problems.append(Problem(str(mask_path), "the mask has no pixel of any class", fix, "warning"))
    if image is None:
        return _ImageCheck(target.name, stem, tuple(problems), ids=ids, counts=counts)
    size, medical = (image.shape[1], image.shape[0]), target.listing.input.format != "pictures"
    return _ImageCheck(target.name, stem, tuple(problems), size, *fingerprints(image, medical), ids, counts)


def _by_value(by_id: np.ndarray, space: LabelSpace) -> tuple[np.ndarray, dict[int, int]]:
    """Convert pixels by raw id (256,) to pixels by mask value (256,). Ids that the space lacks are returned apart."""
    counts = np.zeros(256, dtype=np.int64)
    unknown = {}
    ids = np.flatnonzero(by_id).astype(np.uint8)
    for raw in ids:
        if space.unknown_ids(np.array([raw])):
            unknown[int(raw)] = int(by_id[raw])
        else:
            counts[space.encode(np.array([[raw]]))[0, 0]] += by_id[raw]
    return counts, unknown


def _draw(target: _Target, labelled: int | None, seed: int) -> tuple[tuple[str, ...], list[Problem]]:
    """The labelled images of a run, by the run's own draw."""
    if target.domain is None:
        return (), []
    if labelled is not None and labelled > len(target.domain.labelled) > 0:
        value = f"{labelled} labelled images asked for, but train has {len(target.domain.labelled)} masks"
        return target.domain.labelled, [Problem(f"domain {target.name}", value, "lower labelled.images")]
    if labelled is None or not target.domain.labelled:
        return target.domain.labelled, []
    return target.domain.with_labelled(labelled, seed).labelled, []


def _missing_classes(
    target: _Target, checks: Mapping[str, _ImageCheck], drawn: tuple[str, ...], asks: bool
) -> Iterator[Problem]:
    """Find the classes without a pixel in the labelled images. No head can learn them, and their IoU will be 0."""
    where, meant = f"domain {target.name}", frozenset(getattr(target.settings, "absent", ()))
    if target.space is None or not drawn:
        return
    if unknown := sorted(meant - set(target.space.names)):
        yield Problem(
            where, f"`absent` names {', '.join(unknown)}, which its classes lack", "write names of its classes"
        )
    counts, everywhere = _sum(checks[stem] for stem in drawn), _sum(checks.values())
    nowhere = [name for i, name in enumerate(target.space.names) if not everywhere[i] and name not in meant]
    white = _white(checks.values())
    for position, name in enumerate(target.space.names):
        value = f"class {name!r} is in none of the {len(drawn)} labelled images"
        if everywhere[position] and not counts[position]:
            fix = "it cannot be learnt: raise labelled.images, take another seed, or label images that show it"
            yield Problem(where, value, fix, "warning")
        elif name in nowhere and len(nowhere) == 1 and white and VOID not in target.space.raw_ids:
            value += f" and in no other mask, and 255 fills {100 * white:.1f} % of the pixels"
            again = " and take 255 out of `ignore`" if VOID in target.space.void_ids else ""
            yield Problem(where, value, f"are these 0/255 masks? Write `255: {name}` in classes.yaml{again}")
        elif name in nowhere:
            fix = f"take it out of the classes, label images that show it, or write `absent: [{name}]` if intended"
            yield Problem(where, f"{value} and in no other mask", fix, "warning" if asks else "error")


def _white(checks: Iterable[_ImageCheck]) -> float:
    """The fraction of all mask pixels whose raw id is 255."""
    ids = sum((each.ids for each in checks if each.ids is not None), np.zeros(256, dtype=np.int64))
    return float(ids[VOID] / max(1, ids.sum()))


def _scale(target: _Target, checks: Sequence[_ImageCheck]) -> Iterator[Problem]:
    """Report a `size` that makes images too small, or almost too small."""
    size = None if isinstance(target.settings, ScenesDomain) else target.settings.size
    small = []
    for width, height in [each.size for each in checks if each.size and size is not None]:
        try:
            left = scaled((height, width), size)
        except ValueError as error:
            yield Problem(f"domain {target.name}", *str(error).rpartition("; ")[::2])
            return
        if min(left) < min(SMALL, height, width):
            small.append(left)
    if small:
        height, width = min(small)
        value = f"`size: {size}` leaves less than {SMALL} a side of {len(small)} images, down to {width}×{height}"
        fix = "few objects stay visible, and scores at that size mean little; write a larger `size`"
        yield Problem(f"domain {target.name}", value, fix, "warning")


def _copies(targets: Mapping[str, _Target], checks: Mapping[str, Mapping[str, _ImageCheck]]) -> Iterator[Problem]:
    """Find images with the same pixels under different names. Copies across splits of a domain make its score too
    high."""
    places: dict[bytes, list[tuple[str, str, str]]] = defaultdict(list)
    for name, target in targets.items():
        for split in SPLITS:
            for stem in target.splits[split]:
                digest = checks[name][stem].digest
                if digest is not None:
                    places[digest].append((name, split, stem))
    for copies in places.values():
        # The first copy (train before val before test) is the original; each further one is a problem.
        first = copies[0]
        for other in copies[1:]:
            (name, split, stem), (other_name, other_split, other_stem) = first, other
            if (name, stem) == (other_name, other_stem):
                continue  # one file in two splits, which the listing reports
            where = targets[other_name].where(other_stem)
            value = f"same pixels as {targets[name].where(stem)}"
            if name == other_name and split != other_split:
                value += f", which is in {split} while this is in {other_split}"
                yield Problem(where, value, "keep the two in one split, or remove one")
            elif name == other_name:
                yield Problem(where, f"{value}, both in {split}", "remove one, or it counts twice", "warning")
            elif (split == "train") != (other_split == "train"):
                value += f", {split} of domain {name} while this is {other_split} of domain {other_name}"
                yield Problem(where, value, "one model sees both: take it out of train", "warning")


def _near_copies(target: _Target, checks: Mapping[str, _ImageCheck]) -> Iterator[Problem]:
    """Find images that look almost like one of an earlier split: a recompressed copy, or the next video frame."""
    earlier: list[_ImageCheck] = []
    split_of: dict[str, str] = {}
    for split in SPLITS:
        here = [checks[stem] for stem in target.splits[split] if checks[stem].thumbnail is not None]
        thumbnails = _thumbnails(earlier)
        for start in range(0, len(here) if earlier else 0, 256):
            block = here[start : start + 256]
            rows = _thumbnails(block)
            squares = (rows**2).sum(axis=1, keepdims=True) + (thumbnails**2).sum(axis=1) - 2 * rows @ thumbnails.T
            for each, nearest in zip(block, squares.argmin(axis=1), strict=True):
                other = earlier[int(nearest)]
                rms = float(((_thumbnails([each]) - thumbnails[nearest]) ** 2).mean() ** 0.5)
                if rms < NEAR and each.digest != other.digest:
                    value = f"almost the same picture as {target.where(other.stem)}, which is in {split_of[other.stem]}"
                    fix = f"keep the two in one split, or the score on {split} is too high"
                    yield Problem(target.where(each.stem), value, fix, "warning")
        earlier += here
        split_of |= {each.stem: split for each in here}


def _thumbnails(checks: Iterable[_ImageCheck]) -> np.ndarray:
    """Thumbnails as rows (N,768) float32, around 0 so that their products keep their digits."""
    rows = [each.thumbnail for each in checks if each.thumbnail is not None]
    return np.array(rows, dtype=np.float32) - 128


def _sum(checks: Iterable[_ImageCheck]) -> np.ndarray:
    """(256,) pixels by mask value, summed over all checks that have a mask."""
    return sum((each.counts for each in checks if each.counts is not None), np.zeros(256, dtype=np.int64))


def _statistics(target: _Target, checks: list[_ImageCheck], drawn: tuple[str, ...]) -> Statistics:
    counts = _sum(checks)
    total = max(1, int(counts.sum()))
    names = target.space.names if target.space else ()
    mask_counts = [each.counts for each in checks if each.counts is not None]
    sizes = Counter(f"{each.size[0]}×{each.size[1]}" for each in checks if each.size)
    return Statistics(
        layout=target.settings.layout,
        splits={split: len(target.splits[split]) for split in SPLITS},
        masks=len(mask_counts),
        in_part=sum(bool(0 < c[NOT_LABELLED] < c.sum()) for c in mask_counts),
        labelled=len(drawn),
        sizes=dict(sizes.most_common()),
        pixels={name: float(counts[i] / total) for i, name in enumerate(names)},
        occurs={name: int(sum(c[i] > 0 for c in mask_counts)) for i, name in enumerate(names)},
        not_labelled=float(counts[NOT_LABELLED] / total),
        void=float(counts[VOID] / total),
    )
