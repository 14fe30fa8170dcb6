"""Predicted masks in the forms of other programs: COCO, LabelMe and GeoJSON, each exact to the pixel.

Shapes: H×W pixels of an image · P points.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from fewmask.annotation.coco import write_instances
from fewmask.data.nifti import as_volume
from fewmask.data.reading import read_mask
from fewmask.data.volumes import SLICE, slice_of
from fewmask.engine.image_files import Item
from fewmask.files import Written, write_bytes, write_json
from fewmask.labels import LabelSpace, Mask
from fewmask.paths import below

Form = Literal["png", "coco", "labelme", "geojson", "nifti"]
FORMS: tuple[Form, ...] = ("png", "coco", "labelme", "geojson", "nifti")


# The file or the folder of each form, in the folder of a prediction.
FORM_PATHS: dict[Form, str] = {"coco": "coco.json", "labelme": "labelme", "geojson": "geojson", "nifti": "nifti"}


def older_forms(out: Path, written: Sequence[str]) -> list[Path]:
    """The forms in a folder that belong to an earlier prediction; `written` are those of the present one."""
    paths = [below(out, path) for form, path in FORM_PATHS.items() if form not in written]
    return [path for path in paths if path.exists()]


def write_form(out: Path, items: Sequence[Item], space: LabelSpace, form: Form) -> Path | None:
    """Write the masks below `out/masks` in another form, and return the path: `coco.json`, or the folder `labelme/` or
    `geojson/` with a file for each image, or `nifti/` with one for each volume. None for "png", the form of the masks.

    Raises ValueError where a file has changed since it was written, since somebody may have corrected it.
    """
    if form == "png":
        return None
    with Written(out, "ours").guard():
        return _write(out, items, space, form)


def _write(out: Path, items: Sequence[Item], space: LabelSpace, form: Form) -> Path:
    if form == "coco":
        masks = ((item.name.as_posix(), _mask(out, item, space)) for item in items)
        names = {item.name.as_posix(): f"{item.name.as_posix()}{item.path.suffix}" for item in items}
        write_instances(out / "coco.json", space, masks, names=names)
        return out / "coco.json"
    if form == "nifti":
        _write_volumes(out, items)
        return below(out, form)
    for item in items:
        mask = _mask(out, item, space)
        if form == "labelme":
            path = below(out, "labelme", item.name.as_posix(), ending=".json")
            image = Path(os.path.relpath(item.path.resolve(), path.parent.resolve())).as_posix()
            write_json(path, _labelme(mask, space, image))
        else:
            write_json(below(out, "geojson", item.name.as_posix(), ending=".geojson"), _geojson(mask, space))
    return below(out, form)


def check_form(form: Form, items: Sequence[Item], several: bool) -> None:
    """Raises ValueError for a form that the masks of these images cannot have. `several`: each image may be predicted
    with the classes of another domain."""
    sliced = [item for item in items if item.path.suffix == SLICE]
    if form == "labelme" and sliced:
        raise ValueError(f"--as labelme: {sliced[0].path} is a slice, which LabelMe cannot open; take --as nifti")
    if form == "nifti" and len(sliced) < len(items):
        raise ValueError("--as nifti: the images are not slices of NIfTI volumes; leave it out, or give such volumes")
    if form == "nifti" and several:
        raise ValueError("--as nifti: slices of one volume may get different domains; choose one by --domain")


def _write_volumes(out: Path, items: Sequence[Item]) -> None:
    """A volume of the dataset's ids for each volume of images, on its grid."""
    volumes: dict[Path, list[Item]] = {}
    for item in sorted(items, key=lambda item: slice_of(item.path)):
        volumes.setdefault(item.path.parent, []).append(item)
    for file, slices in volumes.items():
        name = slices[0].name.as_posix().rpartition("_")[0]
        ending = ".nii.gz" if file.suffix.lower() == ".gz" else ".nii"
        masks = (read_mask(below(out, "masks", item.name.as_posix(), ending=".png")) for item in slices)
        write_bytes(below(out, "nifti", name, ending=ending), as_volume(masks, file))


def _mask(out: Path, item: Item, space: LabelSpace) -> Mask:
    path = below(out, "masks", item.name.as_posix(), ending=".png")
    return space.encode(read_mask(path), path)


def _areas(mask: Mask, space: LabelSpace) -> Iterator[tuple[int, np.ndarray, tuple[int, int]]]:
    """Each connected area of each class: the class, its pixels (h,w) bool in their box, and the box's top and left."""
    for index in range(space.num_classes):
        count, numbers, boxes, _ = cv2.connectedComponentsWithStats((mask == index).astype(np.uint8), connectivity=4)
        for number in range(1, count):
            left, top, width, height = (int(n) for n in boxes[number][:4])
            yield index, numbers[top : top + height, left : left + width] == number, (top, left)


def _labelme(mask: Mask, space: LabelSpace, image: str) -> dict[str, Any]:
    """LabelMe's shapes of type `mask`, one for each connected area; `image` is its path from the file's folder."""
    shapes: list[dict[str, Any]] = []
    for index, inside, (top, left) in _areas(mask, space):
        height, width = inside.shape
        png = cv2.imencode(".png", inside.astype(np.uint8) * 255)[1].tobytes()
        shapes.append(
            {
                "label": space.names[index],
                "points": [[left, top], [left + width - 1, top + height - 1]],
                "group_id": None,
                "description": "",
                "shape_type": "mask",
                "flags": {},
                "mask": base64.b64encode(png).decode(),
            }
        )
    return {
        "version": "5.5.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": image,
        "imageData": None,
        "imageHeight": mask.shape[0],
        "imageWidth": mask.shape[1],
    }


def _geojson(mask: Mask, space: LabelSpace) -> dict[str, Any]:
    """A polygon for each connected area, in pixels from the image's upper left corner, y down."""
    ids = {index: raw for raw, index in sorted(space.raw_ids.items(), reverse=True)}
    features = [
        {
            "type": "Feature",
            "properties": {"class": space.names[index], "id": ids[index]},
            "geometry": {
                "type": "Polygon",
                "coordinates": [(ring + np.array([left, top])).tolist() for ring in rings(inside)],
            },
        }
        for index, inside, (top, left) in _areas(mask, space)
    ]
    return {"type": "FeatureCollection", "features": features}


def rings(inside: np.ndarray) -> list[np.ndarray]:
    """The outlines (P,2) of x, y of an area (h,w) bool along the edges of its pixels, closed: the outer one first, then
    its holes."""
    padded = np.pad(inside, 1)
    steps: dict[tuple[int, int], list[tuple[int, int]]] = {}
    # The sides of pixels at which the area ends, in the direction that has the area on its right.
    for (dy, dx), start, end in (
        ((-1, 0), (0, 0), (1, 0)),
        ((0, 1), (1, 0), (1, 1)),
        ((1, 0), (1, 1), (0, 1)),
        ((0, -1), (0, 1), (0, 0)),
    ):
        neighbour = np.roll(padded, (-dy, -dx), (0, 1))
        for y, x in np.argwhere(padded & ~neighbour).tolist():
            steps.setdefault((x - 1 + start[0], y - 1 + start[1]), []).append((x - 1 + end[0], y - 1 + end[1]))
    outlines = []
    for first in sorted(steps):
        while first in steps:
            ring, position, direction = [first], first, (0, 0)
            while True:
                ends = steps[position]
                # Where two pixels of the area touch at a corner the outline turns left, so that it never touches
                # itself.
                nxt = min(ends, key=lambda e: direction[0] * (e[1] - position[1]) - direction[1] * (e[0] - position[0]))
                ends.remove(nxt)
                if not ends:
                    del steps[position]
                direction, position = (nxt[0] - position[0], nxt[1] - position[1]), nxt
                ring.append(position)
                if position == first:
                    break
            outlines.append(_straight(np.array(ring)))
    return sorted(outlines, key=lambda r: -abs(_area(r)))


def _straight(ring: np.ndarray) -> np.ndarray:
    """A closed outline without the points that lie on a straight line."""
    way = np.diff(ring, axis=0)
    turns = np.any(way != np.roll(way, 1, axis=0), axis=1)
    corners = ring[:-1][turns]
    return np.concatenate([corners, corners[:1]])


def _area(ring: np.ndarray) -> float:
    x, y = ring.T.astype(float)
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2)
