"""`fewmask init`: from a folder as somebody has it to a configuration that passes `check`, or what cannot be told."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from command import Fewmask
from PIL import Image

from fewmask.class_list import read_class_list
from fewmask.config import read_config
from fewmask.data.doctor import check_domains
from fewmask.data.layouts import load_domain
from fewmask.discovery.names import find_names
from fewmask.discovery.tree import Tree
from fewmask.labels import VOID

H, W = 48, 64
COUNT = 12
COLOURS = np.array([[0, 0, 0], [200, 30, 40], [20, 160, 60]], np.uint8)


def ids_of(number: int) -> np.ndarray:
    """Two shapes on a background, elsewhere in each image."""
    mask = np.zeros((H, W), np.uint8)
    mask[8:24, 4 + number : 24 + number] = 1
    mask[28:40, 30 - number : 50 - number] = 2
    return mask


def photo(path: Path, number: int, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (H, W, 3), dtype=np.uint8)
    coarse = np.kron(pixels[: H // 8, : W // 8], np.ones((8, 8, 1), np.uint8))
    Image.fromarray((coarse // 2 + pixels // 2).astype(np.uint8)).save(path, **options)  # type: ignore[arg-type]
    return path


def mask(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def boxes(number: int) -> list[tuple[str, list[list[int]]]]:
    return [
        ("cat", [[4 + number, 8], [24 + number, 8], [24 + number, 24], [4 + number, 24]]),
        ("dog", [[30 - number, 28], [50 - number, 28], [50 - number, 40], [30 - number, 40]]),
    ]


# ── Folders as people have them ──────────────────────────────────────────────────────────────────────────────────────


def images_and_labels(root: Path) -> None:
    for n in range(COUNT):
        photo(root / f"images/a{n}.jpg", n)
        if n < 8:
            mask(root / f"labels/a{n}.png", ids_of(n))
    (root / "classes.txt").write_text("ground\ncat\ndog\n", encoding="utf-8")


def nested_images_and_masks(root: Path) -> None:
    for n in range(COUNT):
        photo(root / f"data/set/images/a{n}.png", n)
        mask(root / f"data/set/masks/a{n}.png", ids_of(n))


def img_and_ann(root: Path) -> None:
    for n in range(COUNT):
        photo(root / f"ds/img/a{n}.jpg", n)
        mask(root / f"ds/ann/a{n}.jpg.png", COLOURS[ids_of(n)])


def side_by_side(root: Path) -> None:
    for n in range(COUNT):
        photo(root / f"a{n}.jpg", n)
        mask(root / f"a{n}.png", ids_of(n))


def with_suffix(root: Path) -> None:
    for n in range(COUNT):
        photo(root / f"a{n}.png", n)
        mask(root / f"a{n}_mask.png", ids_of(n))
    (root / "Thumbs.db").write_bytes(b"x")


def both_suffixes(root: Path) -> None:
    for n in range(COUNT):
        photo(root / f"{n}_sat.jpg", n)
        mask(root / f"{n}_mask.png", COLOURS[ids_of(n)])
    (root / "class_dict.csv").write_text("name,r,g,b\nground,0,0,0\ncat,200,30,40\ndog,20,160,60\n", encoding="utf-8")


def by_split(root: Path) -> None:
    for n in range(COUNT):
        split = "train" if n < 8 else "valid" if n < 10 else "test"
        photo(root / f"{split}/images/a{n}.jpg", n)
        mask(root / f"{split}/masks/a{n}.png", ids_of(n))


def split_below(root: Path) -> None:
    for n in range(COUNT):
        split = "train" if n < 8 else "val"
        photo(root / f"images/{split}/a{n}.jpg", n)
        mask(root / f"labels/{split}/a{n}.png", ids_of(n))


def black_and_white(root: Path) -> None:
    for n in range(COUNT):
        photo(root / f"images/a{n}.jpg", n)
        mask(root / f"masks/a{n}.png", ((ids_of(n) == 1) * 255).astype(np.uint8))


def a_folder_a_class(root: Path) -> None:
    for n in range(COUNT):
        photo(root / f"images/a{n}.jpg", n)
        for value, name in ((1, "cat"), (2, "dog")):
            mask(root / f"masks/{name}/a{n}.png", ((ids_of(n) == value) * 255).astype(np.uint8))


def palettes_of_voc(root: Path) -> None:
    for n in range(COUNT):
        photo(root / f"JPEGImages/a{n}.jpg", n)
        image = Image.fromarray(np.where(ids_of(n) == 2, 255, ids_of(n)).astype(np.uint8))
        image.putpalette([(7 * i + c) % 256 for i in range(256) for c in range(3)])
        (root / "SegmentationClass").mkdir(exist_ok=True)
        image.save(root / f"SegmentationClass/a{n}.png")
    lists = root / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("".join(f"a{n}\n" for n in range(8)), encoding="utf-8")
    (lists / "val.txt").write_text("".join(f"a{n}\n" for n in range(8, COUNT)), encoding="utf-8")


def masks_of_cvat(root: Path) -> None:
    for n in range(COUNT):
        photo(root / f"JPEGImages/a{n}.jpg", n)
        mask(root / f"SegmentationClass/a{n}.png", COLOURS[ids_of(n)])
    text = "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:200,30,40::\ndog:20,160,60::\n"
    (root / "labelmap.txt").write_text(text, encoding="utf-8")


def xml_of_cvat(root: Path) -> None:
    shapes = []
    for n in range(COUNT):
        photo(root / f"images/a{n}.jpg", n)
        inside = "".join(
            f'<polygon label="{name}" points="{";".join(f"{x},{y}" for x, y in points)}" z_order="0"/>'
            for name, points in boxes(n)
        )
        shapes.append(f'<image id="{n}" name="a{n}.jpg" width="{W}" height="{H}">{inside}</image>')
    (root / "annotations.xml").write_text(f"<annotations>{''.join(shapes)}</annotations>", encoding="utf-8")


def json_of_coco(root: Path) -> None:
    data: dict[str, list[dict[str, object]]] = {"images": [], "annotations": [], "categories": []}
    data["categories"] = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}, {"id": 9, "name": "cow"}]
    for n in range(COUNT):
        photo(root / f"images/a{n}.jpg", n)
        data["images"].append({"id": n, "file_name": f"a{n}.jpg", "width": W, "height": H})
        for name, points in boxes(n):
            flat = [number for point in points for number in point]
            data["annotations"].append(
                {
                    "id": len(data["annotations"]),
                    "image_id": n,
                    "category_id": 1 + (name == "dog"),
                    "segmentation": [flat],
                }
            )
    (root / "annotations").mkdir()
    (root / "annotations/instances.json").write_text(json.dumps(data), encoding="utf-8")


def json_of_labelme(root: Path) -> None:
    for n in range(COUNT):
        photo(root / f"a{n}.jpg", n)
        shapes = [{"label": name, "points": points, "shape_type": "polygon"} for name, points in boxes(n)]
        data = {"imagePath": f"a{n}.jpg", "imageHeight": H, "imageWidth": W, "shapes": shapes, "imageData": None}
        if n < 8:
            (root / f"a{n}.json").write_text(json.dumps(data), encoding="utf-8")


def texts_of_yolo(root: Path) -> None:
    for n in range(COUNT):
        split = "train" if n < 8 else "val"
        photo(root / f"images/{split}/a{n}.jpg", n)
        lines = [
            f"{int(name == 'dog')} " + " ".join(f"{x / W:.6f} {y / H:.6f}" for x, y in points)
            for name, points in boxes(n)
        ]
        path = root / f"labels/{split}/a{n}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines), encoding="utf-8")
    (root / "data.yaml").write_text("names: [cat, dog]\nnc: 2\n", encoding="utf-8")


def json_of_label_studio(root: Path) -> None:
    tasks = []
    for n in range(COUNT):
        photo(root / f"images/a{n}.jpg", n)
        results = [
            {
                "type": "polygonlabels",
                "original_width": W,
                "original_height": H,
                "value": {"points": [[100 * x / W, 100 * y / H] for x, y in points], "polygonlabels": [name]},
            }
            for name, points in boxes(n)
        ]
        tasks.append(
            {"id": n, "data": {"image": f"/data/upload/1/0123abcd-a{n}.jpg"}, "annotations": [{"result": results}]}
        )
    (root / "project-1.json").write_text(json.dumps(tasks), encoding="utf-8")


def our_own(root: Path) -> None:
    for n in range(COUNT):
        photo(root / f"images/a{n}.jpg", n)
        mask(root / f"labels/a{n}.png", ids_of(n))
    (root / "classes.yaml").write_text("ignore: [0]\nclasses: {1: cat, 2: dog}\n", encoding="utf-8")


Build = Callable[[Path], None]
LAYOUTS: dict[Build, tuple[int, int, list[str]]] = {
    our_own: (12, 12, ["cat", "dog"]),
    images_and_labels: (12, 8, ["ground", "cat", "dog"]),
    nested_images_and_masks: (12, 12, ["class 0", "class 1", "class 2"]),
    img_and_ann: (12, 12, ["background", "colour 14a03c", "colour c81e28"]),
    side_by_side: (12, 12, ["class 0", "class 1", "class 2"]),
    with_suffix: (12, 12, ["class 0", "class 1", "class 2"]),
    both_suffixes: (12, 12, ["ground", "cat", "dog"]),
    by_split: (12, 12, ["class 0", "class 1", "class 2"]),
    split_below: (12, 12, ["class 0", "class 1", "class 2"]),
    black_and_white: (12, 12, ["background", "foreground"]),
    a_folder_a_class: (12, 12, ["background", "cat", "dog"]),
    palettes_of_voc: (12, 12, ["background", "foreground"]),
    masks_of_cvat: (12, 12, ["background", "cat", "dog"]),
    xml_of_cvat: (12, 12, ["background", "cat", "dog"]),
    json_of_coco: (12, 12, ["background", "cat", "dog", "cow"]),
    json_of_label_studio: (12, 12, ["background", "cat", "dog"]),
    json_of_labelme: (12, 8, ["background", "cat", "dog"]),
    texts_of_yolo: (12, 12, ["cat", "dog", "background"]),
}


@pytest.mark.parametrize("build", LAYOUTS, ids=lambda build: build.__name__)
def test_a_common_folder_becomes_a_configuration_that_passes_check(
    build: Build, tmp_path: Path, fewmask: Fewmask, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, masks, names = LAYOUTS[build]
    build(tmp_path / "their data")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "their data").rglob("*")}
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    done = fewmask("init", "../their data", "--name", "mine", "--json")
    summary = json.loads(done.out)
    assert done.code == 0, (summary, done.err)
    assert summary["check"]["errors"] == []
    assert (summary["images"], summary["masks"], summary["without_mask"]) == (images, masks, images - masks)
    assert list(summary["classes"].values()) == names
    assert list(read_class_list(Path("classes.yaml")).names) == names
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "their data").rglob("*")} == before
    config = read_config(Path("mine.yaml"))
    assert summary["proposals"]["method"]["value"] == "auto"
    domain = load_domain("mine", config.domains["mine"])
    assert domain.splits["val"]
    first = next(s for s in domain.splits["train"] if domain.source.has_mask(s))
    number = int("".join(c for c in first.rpartition("/")[2] if c.isdigit()))
    assert_drawn(domain.mask(first), ids_of(number), domain.space.names)


def assert_drawn(mask: np.ndarray, ids: np.ndarray, names: tuple[str, ...]) -> None:
    """The mask has the two shapes of the image, whatever their classes are called."""
    for value in (0, 1, 2):
        values = np.unique(mask[ids == value])
        assert len(values) == 1
        assert (values[0] in (0, VOID)) or values[0] < len(names)


def test_the_three_commands_pass(tmp_path: Path, fewmask: Fewmask, monkeypatch: pytest.MonkeyPatch) -> None:
    json_of_labelme(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    done = fewmask("init", "data", "--yes", "--out", "runs-of-mine")
    assert done.code == 0, done.err
    assert "12 images, 8 masks, 4 images without a mask" in done.out
    assert "0 errors" in done.out
    assert fewmask("check", "runs-of-mine/data.yaml").code == 0


def test_nothing_is_overwritten(tmp_path: Path, fewmask: Fewmask, monkeypatch: pytest.MonkeyPatch) -> None:
    images_and_labels(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "classes.yaml").write_text("mine", encoding="utf-8")
    done = fewmask("init", "data", "--yes")
    assert done.code == 2
    assert "classes.yaml: exists already" in done.err
    assert (tmp_path / "classes.yaml").read_text(encoding="utf-8") == "mine"
    assert not (tmp_path / "data.yaml").exists()
    monkeypatch.chdir(tmp_path / "data")
    assert "where init writes nothing" in fewmask("init", ".", "--yes").err


def few_masks(root: Path) -> None:
    for n in range(3):
        photo(root / f"images/a{n}.jpg", n)


def masks_of_jpeg(root: Path) -> None:
    for n in range(COUNT):
        photo(root / f"images/a{n}.jpg", n)
        mask(root / f"masks/a{n}.jpg", ids_of(n) * np.uint8(100))


def instances(root: Path) -> None:
    for n in range(COUNT):
        photo(root / f"images/a{n}.jpg", n)
        mask(root / f"masks/a{n}.png", np.arange(H * W, dtype=np.uint16).reshape(H, W).astype(np.uint8) // 2)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda root: root.mkdir(), "no images in it"),
        (few_masks, "3 images, and no masks that belong to them"),
        (masks_of_jpeg, "the mask is a JPEG"),
        (instances, "different ids"),
    ],
)
def test_what_cannot_be_told_is_said(build: Build, message: str, tmp_path: Path, fewmask: Fewmask) -> None:
    build(tmp_path / "data")
    done = fewmask("init", tmp_path / "data", "--yes", "--out", tmp_path / "out")
    assert done.code == 2
    assert message in done.err
    assert not (tmp_path / "out").exists()


def test_splits_that_are_drawn_cut_no_series_and_part_no_copies(tmp_path: Path, fewmask: Fewmask) -> None:
    root = tmp_path / "data"
    for drive in range(8):
        for frame in range(3):
            photo(root / f"images/drive{drive}_{frame:04d}.png", 10 * drive + frame)
            mask(root / f"labels/drive{drive}_{frame:04d}.png", ids_of(frame))
    photo(root / "images/copy_x.png", 31)  # of drive 3
    done = fewmask("init", root, "--yes", "--out", tmp_path)
    assert done.code == 0, done.out
    domain = load_domain("d", read_config(tmp_path / "data.yaml").domains["data"])
    drives = {split: {stem.split("_")[0] for stem in stems} for split, stems in domain.splits.items()}
    assert drives["val"]
    assert drives["test"]
    assert not (drives["train"] & drives["val"] or drives["train"] & drives["test"] or drives["val"] & drives["test"])
    assert not check_domains({"d": read_config(tmp_path / "data.yaml").domains["data"]}).errors


def test_masks_that_fit_the_turned_images_turn_them(tmp_path: Path, fewmask: Fewmask) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for n in range(COUNT):
        photo(tmp_path / f"data/images/a{n}.jpg", n, exif=exif)
        mask(tmp_path / f"data/labels/a{n}.png", np.ascontiguousarray(np.rot90(ids_of(n), -1)))
    summary = json.loads(fewmask("init", tmp_path / "data", "--json", "--out", tmp_path).out)
    assert summary["orientation"] == "apply"
    assert not summary["check"]["errors"]
    domain = load_domain("d", read_config(tmp_path / "data.yaml").domains["data"])
    assert domain.image(domain.splits["train"][0]).shape[:2] == (W, H)


@pytest.mark.parametrize("name", ["2024", "müllers sehr langer Ordner mit Namen " * 3])
def test_any_folder_can_be_named(name: str, tmp_path: Path, fewmask: Fewmask) -> None:
    root = tmp_path / "data" / name.strip()
    images_and_labels(root)
    done = fewmask("init", root, "--yes", "--out", tmp_path / "data")
    assert done.code == 0, done
    (config,) = [path for path in (tmp_path / "data").glob("*.yaml") if path.name != "classes.yaml"]
    assert next(iter(read_config(config).domains.values())).root.samefile(root)  # type: ignore[attr-defined]


def test_a_dangling_link_is_in_the_way(tmp_path: Path, fewmask: Fewmask) -> None:
    images_and_labels(tmp_path / "data")
    (tmp_path / "classes.yaml").symlink_to(tmp_path / "nowhere" / "x")
    done = fewmask("init", tmp_path / "data", "--yes", "--out", tmp_path)
    assert done.code == 2 and "classes.yaml: exists already" in done.err


def test_lines_of_splits_that_are_left_out_are_told(tmp_path: Path, fewmask: Fewmask) -> None:
    images_and_labels(tmp_path / "data")
    (tmp_path / "data/train.txt").write_text("a0\na1\na2\na3\nmissing\n", encoding="utf-8")
    (tmp_path / "data/val.txt").write_text("a0\na1\na4\n", encoding="utf-8")
    done = fewmask("init", tmp_path / "data", "--yes", "--out", tmp_path / "out")
    assert "1 of their lines name no image; 2 of their lines repeat an image" in done.out


@pytest.mark.parametrize(
    ("text", "by_colour", "colours"),
    [
        (
            "unlabeled 0 0 0\nstatic 0 0 0\nroad 128 64 128\n",
            {(128, 64, 128): "road"},
            {0: (0, 0, 0), 1: (0, 0, 0), 2: (128, 64, 128)},
        ),
        ("7,road,1,2,3\n9,car,4,5,6\n", {(1, 2, 3): "road", (4, 5, 6): "car"}, {7: (1, 2, 3), 9: (4, 5, 6)}),
    ],
)
def test_a_colour_of_two_names_is_of_neither(
    text: str, by_colour: dict[object, str], colours: dict[int, object], tmp_path: Path
) -> None:
    (tmp_path / "classes.txt").write_text(text, encoding="utf-8")
    (names,) = find_names(Tree.scan(tmp_path))
    assert (names.by_colour, names.colours) == (by_colour, colours)


@pytest.mark.parametrize("text", ["a0.jpg\na1.jpg\n", "7,road,1,2,3\n7,car,4,5,6\n"])
def test_lists_of_something_else_name_no_class(text: str, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text(text, encoding="utf-8")
    assert find_names(Tree.scan(tmp_path)) == []


def of_numbers(folder: Path, shape: tuple[int, ...], kind: type[np.generic]) -> None:
    """Images of numbers, in TIFF, or in PNG where `shape` has one channel, and their masks."""
    for n in range(COUNT):
        pixels = np.random.default_rng(n).random((*shape, H // 8, W // 8)).repeat(8, -1).repeat(8, -2)
        pixels = np.moveaxis((pixels * 3000).astype(kind), 0, -1)
        (folder / "images").mkdir(parents=True, exist_ok=True)
        if shape[0] > 1:
            tifffile.imwrite(folder / f"images/a{n}.tif", pixels, photometric="minisblack", planarconfig="contig")
        else:
            Image.fromarray(pixels[..., 0]).save(folder / f"images/a{n}.png")
        mask(folder / f"masks/a{n}.png", ids_of(n))


@pytest.mark.parametrize(
    ("count", "kind", "channels", "depth"),
    [
        (1, np.uint16, ["grey"], 16),
        (2, np.uint8, ["channel-1", "channel-2"], 8),
        (4, np.int16, ["channel-1", "channel-2", "channel-3", "channel-4"], 16),
        (5, np.float32, [f"channel-{n}" for n in range(1, 6)], "float"),
    ],
)
def test_channels_and_depth_are_those_of_the_images(
    count: int, kind: type[np.generic], channels: list[str], depth: object, tmp_path: Path, fewmask: Fewmask
) -> None:
    of_numbers(tmp_path / "data", (count,), kind)
    done = fewmask("init", tmp_path / "data", "--yes", "--name", "mine", "--out", tmp_path / "out")
    assert done.code == 0, done
    assert f"channels: {', '.join(channels)}" in done.out
    domain = read_config(tmp_path / "out/mine.yaml").domains["mine"]
    assert (list(domain.channels), domain.depth, domain.stretch) == (channels, depth, None)  # type: ignore[union-attr]
    image = load_domain("mine", domain).image("a3")
    assert image.shape == (H, W, count) and image.max() > 200


def test_images_that_nothing_reads_are_left_to_check(tmp_path: Path, fewmask: Fewmask) -> None:
    """Neither one kind of numbers nor files that are no images end in a traceback."""
    of_numbers(tmp_path / "data", (4,), np.uint16)
    for n in range(0, COUNT, 2):
        (tmp_path / f"data/images/a{n}.tif").write_bytes(b"II*\0 no image")
    done = fewmask("init", tmp_path / "data", "--yes", "--out", tmp_path / "out")
    assert done.code == 2 and "images/a0.tif" in done.out
    assert "depth" not in (tmp_path / "out/data.yaml").read_text(encoding="utf-8")


def test_without_a_terminal_it_asks_for_yes(tmp_path: Path, fewmask: Fewmask) -> None:
    images_and_labels(tmp_path / "data")
    assert "give --yes" in fewmask("init", tmp_path / "data", "--out", tmp_path).err


def test_it_needs_no_torch(tmp_path: Path) -> None:
    images_and_labels(tmp_path / "data")
    code = (
        "import sys\nfrom pathlib import Path\nfrom fewmask.discovery import discover, write\n"
        f"write(discover(Path({str(tmp_path / 'data')!r})), 'a', Path({str(tmp_path)!r}))\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
