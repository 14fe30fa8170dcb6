"""Detection of a folder's layout. Each search returns the dataset or None. The first search that finds one wins."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from fewmask.data.masks import BACKGROUND
from fewmask.discovery.detected import DetectedDataset, classes_of_names, classes_of_numbers, classes_of_pixels
from fewmask.discovery.names import find_names
from fewmask.discovery.pixels import Progress, inspect_masks, is_photo
from fewmask.discovery.tree import Pairing, Tree, looks_like_masks, pairings
from fewmask.formats.texts import MAX_TEXT, MIB, json_items, read_bytes, read_json, xml_elements

SAMPLE = 5


def find_dataset(tree: Tree, progress: Progress | None = None) -> DetectedDataset:
    """The dataset of a folder. Raises ValueError that says what could not be determined."""
    if not tree.images:
        raise ValueError(f"{tree.root}: no images in it; give the folder that holds them")
    for search in (_cvat, _label_studio, _coco, _labelme, _yolo, _binary):
        if (dataset := search(tree)) is not None:
            return dataset
    return _pixels(tree, progress)


# ── Annotations ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _cvat(tree: Tree) -> DetectedDataset | None:
    files = []
    labels: Counter[str] = Counter()
    for file in tree.ending_in(".xml"):
        if b"<annotations" not in _head(tree.path(file)):
            continue
        images = [e for e in xml_elements(read_bytes(tree.path(file), MAX_TEXT), tree.path(file)) if e[0][0] == "image"]
        if images:
            files.append(file)
            labels.update(
                attributes.get("label", "") for _, inside in images for kind, attributes in inside if kind != "tag"
            )
    if not files:
        return None
    classes = classes_of_names(sorted(labels), labels, str(files[0]))
    return DetectedDataset(*_annotated(tree, files), "cvat", classes, "polygons and masks of CVAT", notes=_BACKGROUND)


def _label_studio(tree: Tree) -> DetectedDataset | None:
    files = []
    labels: Counter[str] = Counter()
    for file in tree.ending_in(".json"):
        if not _head(tree.path(file)).lstrip(b"\xef\xbb\xbf \n\r\t").startswith(b"["):
            continue
        try:
            tasks = list(json_items(tree.path(file)))
        except ValueError:
            continue  # a file of another kind
        if not tasks or not all("data" in task and isinstance(task.get("annotations"), list) for task in tasks):
            continue
        files.append(file)
        for result in (r for t in tasks for a in t["annotations"] for r in a.get("result", ()) if isinstance(r, dict)):
            labels.update(map(str, result.get("value", {}).get(result.get("type"), ())))
    if not files:
        return None
    classes = classes_of_names(sorted(labels), labels, str(files[0]))
    return DetectedDataset(
        *_annotated(tree, files), "label-studio", classes, "brush and polygons of Label Studio", notes=_BACKGROUND
    )


def _coco(tree: Tree) -> DetectedDataset | None:
    files: list[PurePosixPath] = []
    names: dict[str, None] = {}
    used: set[str] = set()
    for file in tree.ending_in(".json"):
        data = _json(tree.path(file))
        if data is None or not all(isinstance(data.get(k), list) for k in ("images", "annotations", "categories")):
            continue
        annotations = [a for a in data["annotations"] if isinstance(a, dict)]
        if annotations and not all(a.get("segmentation") for a in annotations):
            continue  # these are boxes, captions or keypoints
        files.append(file)
        categories = [c for c in data["categories"] if isinstance(c, dict)]
        category_names = {c.get("id"): str(c.get("name")) for c in categories}
        numbers = Counter(a.get("category_id") for a in annotations)
        used |= {category_names[n] for n in numbers if n in category_names}
        # Exports of Roboflow have a category for the project: no annotation has it, and it is a supercategory.
        parents = {str(c.get("supercategory")) for c in categories if c.get("supercategory") != c.get("name")}
        names |= dict.fromkeys(n for i, n in category_names.items() if numbers[i] or n not in parents)
    if not files:
        return None
    classes = classes_of_names(names, used, str(files[0]))
    return DetectedDataset(
        *_annotated(tree, files), "coco", classes, "polygons and run-length codes of COCO", notes=_BACKGROUND
    )


_BACKGROUND = (f"pixels that are not drawn are {BACKGROUND}; remove that class from classes.yaml to make them void",)


def _annotated(tree: Tree, files: Sequence[PurePosixPath]) -> tuple[str, str, str]:
    """Root, images and labels of annotation files that describe many images each."""
    images = os.path.commonpath([str(image.parent) for image in tree.images])
    if len(files) == 1:
        return ".", images or ".", str(files[0])
    folders = {file.parent for file in files}
    if len({file.name for file in files}) == 1 and all(len(f.parts) == 1 for f in folders):
        return ".", images or ".", f"*/{files[0].name}"
    if len(folders) == 1 and len([f for f in tree.files if f.parent == files[0].parent]) == len(files):
        return ".", images or ".", str(files[0].parent)
    raise ValueError(
        f"{', '.join(map(str, files[:5]))}: several annotation files lie beside other files; move them into a folder "
        "of their own"
    )


def _head(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(MIB)


def _json(path: Path) -> dict[str, Any] | None:
    try:
        return read_json(path)
    except ValueError:
        return None  # a file of another kind


def _labelme(tree: Tree) -> DetectedDataset | None:
    files, labels = [], Counter[str]()
    for file in tree.ending_in(".json"):
        data = _json(tree.path(file))
        if data is not None and isinstance(data.get("shapes"), list) and ("imagePath" in data or "imageHeight" in data):
            files.append(file)
            labels.update(str(s.get("label")) for s in data["shapes"] if isinstance(s, dict))
    pairing = _best(tree, files)
    if pairing is None:
        return None
    names = {n for n in labels if n not in ("__ignore__", "_background_")}
    return _paired(pairing, "labelme", classes_of_names(sorted(names), names, "the shapes"), "polygons of LabelMe")


def _yolo(tree: Tree) -> DetectedDataset | None:
    files, used = [], set[int]()
    stems = {image.stem for image in tree.images}
    for file in tree.ending_in(".txt"):
        if file.stem not in stems:
            continue
        ids = _polygons(tree.path(file))
        if ids is not None:
            files.append(file)
            used |= ids
    pairing = _best(tree, files)
    if pairing is None or not used:
        return None
    names = next((n for n in find_names(tree) if n.by_id and used <= n.by_id.keys()), None)
    classes = classes_of_numbers(names.by_id if names else {}, used, names.file if names else "")
    notes = () if names else (f"no file names the classes {sorted(used)[:20]}: write their names into classes.yaml",)
    return _paired(pairing, "yolo", classes, "polygons of YOLO", notes)


def _polygons(path: Path) -> set[int] | None:
    """The classes in a file of YOLO's polygons; None where the file is of another kind."""
    class_ids = set()
    try:
        for line in read_bytes(path, MAX_TEXT).decode("utf-8-sig").splitlines():
            first, *rest = line.split() or ["0", *"000000"]
            if len(rest) < 6 or len(rest) % 2 or not all(-0.01 <= float(word) <= 1.01 for word in rest):
                return None
            class_ids |= {int(first)} if line.strip() else set()
    except ValueError:
        return None
    return class_ids


def _best(tree: Tree, files: Sequence[PurePosixPath]) -> Pairing | None:
    return next(iter(pairings(tree.images, files)), None)


def _paired(pairing: Pairing, masks: Any, classes: Any, kind: str, notes: tuple[str, ...] = ()) -> DetectedDataset:
    ending = pairing.label_ending if "." not in pairing.label_ending[1:] and pairing.labels != pairing.images else ""
    return DetectedDataset(
        pairing.root, pairing.images, pairing.labels, masks, classes, kind, pairing.image_ending,
        ending or ("" if pairing.label_ending.startswith(".") else pairing.label_ending), (*notes, *_BACKGROUND),
    )  # fmt: skip


# ── Images ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _binary(tree: Tree) -> DetectedDataset | None:
    """Sibling folders named after classes, each with black and white masks of the same images."""
    by_folder: dict[PurePosixPath, list[PurePosixPath]] = {}
    for image in tree.images:
        by_folder.setdefault(image.parent, []).append(image)
    photos = {f for f, files in by_folder.items() if any(is_photo(tree.path(file)) for file in files[:SAMPLE])}
    stems = {file.stem for folder in photos for file in by_folder[folder]}
    by_parent: dict[PurePosixPath, list[PurePosixPath]] = {}
    for folder, files in by_folder.items():
        if folder not in photos and folder.parts and all(file.stem in stems for file in files):
            by_parent.setdefault(folder.parent, []).append(folder)
    for parent, folders in sorted(by_parent.items()):
        classes = [folder for folder in folders if not looks_like_masks(folder.name) or len(folders) > 1]
        if len(classes) < 2 or len(photos) != 1:
            continue
        paths = [tree.path(file) for folder in classes for file in by_folder[folder]][: 4 * SAMPLE]
        if not all(len(facts.ids) + len(facts.colours) <= 2 for facts in (inspect_masks([path]) for path in paths)):
            continue
        (photo,) = photos
        names = [folder.name for folder in classes]
        return DetectedDataset(
            ".", str(photo), str(parent), "binary", classes_of_names(names, names, f"the folders of {parent}"),
            "a folder of black and white masks for each class", notes=_BACKGROUND,
        )  # fmt: skip
    return None


def _pixels(tree: Tree, progress: Progress | None) -> DetectedDataset:
    candidates = pairings(tree.images, tree.images)
    for pairing in candidates[:8]:
        labels = [tree.path(file) for file in pairing.label_files]
        if any(is_photo(path) and path.suffix.lower() not in (".jpg", ".jpeg") for path in labels[:SAMPLE]):
            continue
        if any(path.suffix.lower() in (".jpg", ".jpeg") for path in labels) and not looks_like_masks(
            pairing.labels if pairing.labels != "." else pairing.label_ending
        ):
            continue
        try:
            classes, kind, notes = classes_of_pixels(inspect_masks(labels, progress), find_names(tree))
        except ValueError as error:
            where = tree.path(str(PurePosixPath(pairing.root, pairing.labels)))
            raise ValueError(f"{where}: these files seem to be masks of {pairing.images}, but {error}") from None
        return DetectedDataset(
            pairing.root, pairing.images, pairing.labels, "pixels", classes, kind, pairing.image_ending,
            pairing.label_ending, notes,
        )  # fmt: skip
    raise ValueError(
        f"{tree.root}: {len(tree.images):,} images, and no masks that belong to them by their names; put masks with "
        "the names of their images into a folder `labels` beside a folder `images` (docs/formats.md)"
    )
