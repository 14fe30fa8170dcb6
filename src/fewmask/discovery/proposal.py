"""The proposed settings for training on a detected dataset, each with its reason, and the configuration with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fewmask.data.inputs import input_kind
from fewmask.data.layouts.listing import Index
from fewmask.discovery.detected import DetectedDataset
from fewmask.discovery.splits import Splits
from fewmask.strict_yaml import dump_line

ENCODER = "tu-mobilenetv2_100"
LARGEST_CROP = 256
CACHED = 1_000_000_000
"""The largest size in bytes of images and masks for which a cache in memory is proposed."""


@dataclass(frozen=True)
class Proposal:
    """A key of the configuration, its value, and the reason."""

    key: str
    value: Any
    why: str


def propose(dataset: DetectedDataset, listing: Index, splits: Splits) -> list[Proposal]:
    """Propose encoder, crop, steps, method and other settings that fit the images."""
    kinds = []
    for path in [*listing.images.values()][:200]:
        try:
            kinds.append(input_kind(path, listing.input))
        except ValueError:
            continue
    labelled = [s for s in splits.stems["train"] if s in listing.masks]
    pool = len(splits.stems["train"]) - len(labelled)
    height, width = (min((getattr(k, side) for k in kinds), default=LARGEST_CROP) for side in ("height", "width"))
    crop = [max(32, min(LARGEST_CROP, side // 16 * 16)) for side in (height, width)]
    batch = max(1, min(8, len(labelled)))
    proposals = [
        Proposal(
            "model.encoder", ENCODER, "small enough for a CPU; add `weights: imagenet` to fetch pretrained weights, "
            "which photographs need",
        ),
        Proposal("train.crop", crop, f"the smallest image is {width}×{height}"),
        Proposal("train.batch_size", batch, f"{len(labelled)} labelled images in train"),
        Proposal("train.steps", "auto", "each labelled pixel 12 times, unless validation stops improving before"),
        Proposal(
            "train.class_weights", {"exponent": 0.5},
            "rare classes count more; with 30 masks this gains 4 points of test mIoU on CamVid, 1 on LabelMeFacade",
        ),
        Proposal("method", "auto", f"chosen by results for {len(labelled):,} masks and {pool:,} images without a mask"),
    ]  # fmt: skip
    size = sum(k.width * k.height * 4 for k in kinds) / max(1, len(kinds)) * len(listing.images)
    if dataset.masks != "pixels" and size < CACHED:
        proposals.append(Proposal("train.cache", "memory", f"masks are drawn once; all take {size / 1e6:,.0f} MB"))
    return proposals


def needs_turning(listing: Index, dataset: DetectedDataset) -> bool:
    """Whether masks fit the images only after the images were turned by their orientation tags."""
    votes = Counter[bool]()
    for stem, path in listing.images.items():
        if listing.reader is None or stem not in listing.masks or sum(votes.values()) >= 20:
            continue
        try:
            kind = input_kind(path, listing.input)
            if kind.orientation > 4 and kind.width != kind.height:
                mask = listing.reader(stem, listing.masks[stem], lambda kind=kind: (kind.height, kind.width))  # type: ignore[misc]
                votes[mask.shape == (kind.width, kind.height)] += 1
        except ValueError:
            continue
    return votes[True] > votes[False]


def configuration(name: str, domain: Mapping[str, Any], proposals: Sequence[Proposal]) -> str:
    """The YAML of a configuration with these settings of its one domain, with the reasons as comments."""
    lines = [f"name: {dump_line(name)}", "domains:", f"  {dump_line(name)}:"]
    lines += [f"    {key}: {dump_line(value)}" for key, value in domain.items()]
    tree: dict[str, list[Proposal]] = {}
    for proposal in proposals:
        head, _, _ = proposal.key.partition(".")
        tree.setdefault(head, []).append(proposal)
    for head, inside in tree.items():
        if inside[0].key == head:
            lines.append(f"{head}: {dump_line(inside[0].value)}  # {inside[0].why}")
            continue
        lines.append(f"{head}:")
        lines += [f"  {p.key.partition('.')[2]}: {dump_line(p.value)}  # {p.why}" for p in inside]
    return "\n".join(lines) + "\n"
