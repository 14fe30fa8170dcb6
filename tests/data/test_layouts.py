"""Every layout on its published tree, its tables, and the size that images are brought to."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import trees
from PIL import Image
from pydantic import ValidationError

from fewmask.config import (
    CamvidDomain,
    CityscapesDomain,
    DomainSettings,
    FolderDomain,
    IddDomain,
    ScenesDomain,
    SunrgbdDomain,
    VocDomain,
)
from fewmask.data.domain import FileSource
from fewmask.data.layouts import cityscapes, idd, index, load_domain, sunrgbd, voc
from fewmask.labels import VOID

# ── Tables, against facts from elsewhere ─────────────────────────────────────────────────────────────────────────────


def test_cityscapes_table() -> None:
    space = cityscapes.SPACE
    assert space.num_classes == 19
    # The usual ids of the field: every train id by its label id.
    assert [space.raw_ids[raw] for raw in (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23)] == list(range(11))
    assert [space.raw_ids[raw] for raw in (24, 25, 26, 27, 28, 31, 32, 33)] == list(range(11, 19))
    assert space.names[0] == "road"
    assert space.names[18] == "bicycle"
    assert space.colours[space.index("road")] == (128, 64, 128)
    assert space.colours[space.index("car")] == (0, 0, 142)
    assert set(space.raw_ids) | space.void_ids == set(range(34))  # every id is a class or void


@pytest.mark.parametrize(("level", "classes"), [(3, 26), (1, 7)])
def test_idd_tables(level: int, classes: int) -> None:
    by_label, by_level = idd.space(level, raw=True), idd.space(level, raw=False)
    assert by_label.names == by_level.names
    assert by_label.num_classes == classes
    assert len(set(by_label.names)) == classes
    assert set(by_label.raw_ids) | by_label.void_ids == set(range(40))
    assert set(by_level.raw_ids) == set(range(classes))
    # Ids are ordered by level, so neither level ever falls as the label id grows.
    assert list(by_label.raw_ids.values()) == sorted(by_label.raw_ids.values())


def test_idd_classes_by_the_names_of_their_labels() -> None:
    fine, coarse = idd.space(3, raw=True), idd.space(1, raw=True)

    def named(space: object, raw: int) -> str:
        assert space in (fine, coarse)
        chosen = fine if space is fine else coarse
        return chosen.names[chosen.raw_ids[raw]]

    # A class of level 3 is named after one of its labels.
    labels = {raw: name for name, raw, *_ in idd.LABELS}
    for position, name in enumerate(fine.names):
        assert name in {labels[raw] for raw, c in fine.raw_ids.items() if c == position}
    assert named(fine, 1) == "drivable fallback"  # parking
    assert named(fine, 7) == "person"  # animal
    assert named(fine, 17) == "vehicle fallback"  # train
    assert named(fine, 31) == "bridge"  # tunnel
    assert [named(coarse, raw) for raw in (0, 3, 8, 11, 26, 32, 33)] == list(idd.LEVEL1)
    assert coarse.colours[coarse.index("sky")] == (70, 130, 180)
    assert fine.colours[fine.index("autorickshaw")] == (255, 204, 54)


def test_sunrgbd_tables() -> None:
    fine, coarse = sunrgbd.SPACES[37], sunrgbd.SPACES[13]
    assert (fine.num_classes, coarse.num_classes) == (37, 13)
    for space in (fine, coarse):
        assert set(space.raw_ids) == set(range(1, 38))
        assert space.void_ids == {0}
    # class13Mapping, whose classes count from 1: bed, books, ceiling, chair, floor, furniture, objects, picture, …
    table = [12, 5, 6, 1, 4, 9, 10, 12, 13, 6, 8, 6, 13, 10, 6, 13, 6, 7, 7, 5, 7, 3, 2, 6, 11]
    table += [7, 7, 7, 7, 7, 7, 6, 7, 7, 7, 7, 7]
    assert [coarse.raw_ids[raw] + 1 for raw in range(1, 38)] == table
    assert (fine.names[0], fine.names[21], fine.names[36]) == ("wall", "ceiling", "bag")
    assert coarse.names[coarse.raw_ids[6]] == "sofa"


def test_voc_table() -> None:
    space = voc.SPACE
    assert space.num_classes == 21
    assert dict(space.raw_ids) == {i: i for i in range(21)}
    assert (space.names[0], space.names[15], space.names[20]) == ("background", "person", "tvmonitor")
    assert (space.colours[1], space.colours[15]) == ((128, 0, 0), (192, 128, 128))
    assert space.colours[20] == (0, 64, 128)
    assert voc.palette_colour(255) == (224, 224, 192)  # the border's


# ── Trees ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def loads(settings: DomainSettings, splits: dict[str, int], warnings: int = 0) -> None:
    """The tree has no fault, and every image and mask of it is read."""
    file_index = index(settings)
    assert file_index.errors == ()
    assert len(file_index.problems) == warnings, [str(p) for p in file_index.problems]
    domain = load_domain("d", settings)
    assert {split: len(stems) for split, stems in domain.splits.items()} == splits
    assert domain.labelled == tuple(s for s in domain.splits["train"] if domain.source.has_mask(s))
    for stems in domain.splits.values():
        for stem in stems:
            assert domain.image(stem).shape == (*trees.SIZE, 3)
            if domain.source.has_mask(stem):
                assert set(np.unique(domain.mask(stem))) <= {*range(domain.space.num_classes), VOID}


def test_folder(tmp_path: Path) -> None:
    root = trees.folder(tmp_path)
    loads(FolderDomain(root=root), {"train": 4, "val": 1, "test": 1})
    domain = load_domain("d", FolderDomain(root=root))
    assert domain.labelled == ("train0", "train1", "train2")
    assert domain.unlabelled == ("pool0",)
    assert domain.mask("train0")[0, :4].tolist() == [0, 1, 1, VOID]
    assert domain.source.where("train0") == "images/train0.jpg"
    with pytest.raises(ValueError, match=r"pool0\.jpg: it has no mask"):
        domain.mask("pool0")


@pytest.mark.parametrize("ending", ["JPG", "jpeg", "png", "bmp", "tif", "webp"])
def test_folder_takes_any_image_format(tmp_path: Path, ending: str) -> None:
    root = trees.folder(tmp_path)
    (root / "images/train0.jpg").unlink()
    trees.picture(root / f"images/train0.{ending}")
    loads(FolderDomain(root=root), {"train": 4, "val": 1, "test": 1})


def test_folder_split_files_keep_their_order_and_may_have_blank_lines(tmp_path: Path) -> None:
    root = trees.folder(tmp_path)
    (root / "splits/train.txt").write_bytes(b"\xef\xbb\xbftrain2\r\n\r\n  train0 \r\npool0\r\ntrain1")
    assert load_domain("d", FolderDomain(root=root)).splits["train"] == ("train2", "train0", "pool0", "train1")


def test_folder_without_splits_says_what_to_write(tmp_path: Path) -> None:
    root = trees.folder(tmp_path, test=0)
    for name in ("train", "val"):
        (root / f"splits/{name}.txt").unlink()
    (root / "splits").rmdir()
    with pytest.raises(ValueError, match=r"train\.txt: not found; write one stem a line.*val_from_train: 0\.2"):
        load_domain("d", FolderDomain(root=root))
    assert len(index(FolderDomain(root=root)).errors) == 1  # the images are looked at as they would be with a list
    assert len(index(FolderDomain(root=root)).splits["train"]) == 5
    settings = FolderDomain(root=root, val_from_train=0.25)
    domain = load_domain("d", settings)
    assert len(domain.splits["val"]) == 1
    assert domain.source.has_mask(domain.splits["val"][0])  # never an unlabelled one
    assert sorted(domain.splits["train"] + domain.splits["val"]) == sorted(domain.source.images)  # type: ignore[attr-defined]


def test_folder_does_not_hold_out_beside_a_val_list(tmp_path: Path) -> None:
    file_index = index(FolderDomain(root=trees.folder(tmp_path), val_from_train=0.5))
    assert any("val_from_train is 0.5 too" in str(p) for p in file_index.errors)


@pytest.mark.parametrize("one_line", [False, True], ids=["pair a line", "all in one line"])
def test_camvid(tmp_path: Path, one_line: bool) -> None:
    settings = CamvidDomain(layout="camvid", root=trees.camvid(tmp_path, one_line))
    loads(settings, {"train": 2, "val": 1, "test": 2})
    domain = load_domain("camvid", settings)
    assert domain.splits["train"] == ("0001TP_006690", "0001TP_006720")
    first_ids = domain.mask("0001TP_006690").reshape(-1)[:12].tolist()
    assert first_ids == [*range(11), VOID]
    assert (domain.space.names[0], domain.space.names[3], domain.space.names[10]) == ("sky", "road", "bicyclist")


def test_camvid_image_of_train_without_mask_is_unlabelled(tmp_path: Path) -> None:
    root = trees.camvid(tmp_path)
    (root / "trainannot/0001TP_006720.png").unlink()
    (root / "valannot/0016E5_07959.png").unlink()
    file_index = index(CamvidDomain(layout="camvid", root=root))
    assert file_index.labelled == ("0001TP_006690",)
    assert [p.where for p in file_index.errors] == [str(root / "val/0016E5_07959.png")]


def test_camvid_paths_that_leave_the_root(tmp_path: Path) -> None:
    root = trees.camvid(tmp_path / "CamVid")
    trees.picture(tmp_path / "secret.png")
    trees.lines(root / "val.txt", "/SegNet/CamVid/../secret.png /SegNet/CamVid/valannot/0016E5_07959.png")
    assert any("leads out of the root" in str(p) for p in index(CamvidDomain(layout="camvid", root=root)).errors)


def test_cityscapes(tmp_path: Path) -> None:
    root = trees.cityscapes(tmp_path)
    settings = CityscapesDomain(layout="cityscapes", root=root)
    loads(settings, {"train": 4, "val": 2, "test": 0})
    domain = load_domain("cs", settings)
    mask = domain.mask("aachen_000000_000019").reshape(-1)[:34]
    assert (mask[7], mask[33], mask[0]) == (0, 18, VOID)
    (root / "gtFine/train/aachen/aachen_000001_000019_gtFine_labelIds.png").unlink()
    assert load_domain("cs", settings).unlabelled == ("aachen_000001_000019",)


def test_cityscapes_holds_out_whole_cities_and_tests_on_the_official_val(tmp_path: Path) -> None:
    settings = CityscapesDomain(layout="cityscapes", root=trees.cityscapes(tmp_path), val_from_train=0.25)
    domain = load_domain("cs", settings)
    assert domain.splits["test"] == ("frankfurt_000000_000294", "munster_000000_000019")
    cities = {split: {stem.split("_")[0] for stem in domain.splits[split]} for split in ("train", "val")}
    assert cities["val"]
    assert not cities["train"] & cities["val"]
    assert cities["train"] | cities["val"] == {"aachen", "bochum", "zurich"}
    assert load_domain("another name", settings).splits == domain.splits


@pytest.mark.parametrize(
    ("kind", "level", "ids"),
    [
        ("labelids", 1, 40),
        ("labelids", 3, 40),
        ("labellevel1Ids", 1, 8),
        ("labellevel3Ids", 3, 27),
        ("lite", 1, 8),
    ],
)
def test_idd(tmp_path: Path, kind: str, level: int, ids: int) -> None:
    settings = IddDomain.model_validate({"layout": "idd", "root": trees.idd(tmp_path, kind), "level": level})
    loads(settings, {"train": 4, "val": 1, "test": 0})
    domain = load_domain("idd", settings)
    assert "train_0_000180" in domain.splits["train"]  # frames are numbered anew in every drive
    mask = domain.mask("train_0_000180").reshape(-1)[:ids]
    assert mask[-1] == VOID
    assert mask[mask < VOID].max() == domain.space.num_classes - 1


def test_idd_prefers_masks_of_the_level_and_refuses_half_of_them(tmp_path: Path) -> None:
    root = trees.idd(tmp_path, "labelids")
    trees.idd(tmp_path, "labellevel3Ids")
    settings = IddDomain(layout="idd", root=root, level=3)
    assert load_domain("idd", settings).space == idd.space(3, raw=False)
    (root / "gtFine/train/1/000000_gtFine_labellevel3Ids.png").unlink()
    (error,) = index(settings).errors
    assert error.where.endswith("1/000000_gtFine_labelids.png")
    assert "--id-type level3Id" in error.fix


def test_idd_with_polygons_alone_says_how_to_make_masks(tmp_path: Path) -> None:
    file_index = index(IddDomain(layout="idd", root=trees.idd(tmp_path, "polygons"), level=1))
    assert any("createLabels.py with --id-type level1Id" in p.fix for p in file_index.errors)


def test_idd_holds_out_whole_drives(tmp_path: Path) -> None:
    settings = IddDomain(layout="idd", root=trees.idd(tmp_path), val_from_train=0.3)
    domain = load_domain("idd", settings)
    drives = {split: {stem.split("_")[1] for stem in domain.splits[split]} for split in ("train", "val")}
    assert not drives["train"] & drives["val"]
    assert drives["train"] | drives["val"] == {"0", "1", "2"}
    assert domain.splits["test"] == ("val_119_000000",)


@pytest.mark.parametrize("classes", [13, 37])
def test_sunrgbd(tmp_path: Path, classes: int) -> None:
    data = {"layout": "sunrgbd", "root": trees.sunrgbd(tmp_path), "classes": classes, "val_from_train": 0.3}
    settings = SunrgbdDomain.model_validate(data)
    loads(settings, {"train": 2, "val": 1, "test": 2})
    domain = load_domain("sun", settings)
    assert domain.splits["test"] == ("img-000001", "img-005050")
    held = {*domain.splits["train"], *domain.splits["val"]}
    assert held == {"img-005051", "img-005052", "img-010335"}  # train's image 5285 is the last label
    assert domain.source.where("img-010335") == "SUNRGBD-train_images/img-005285.jpg"
    assert domain.mask("img-000001").reshape(-1)[0] == VOID


def test_voc(tmp_path: Path) -> None:
    root = trees.voc(tmp_path)
    loads(VocDomain(layout="voc", root=root), {"train": 3, "val": 2, "test": 0})
    domain = load_domain("voc", VocDomain(layout="voc", root=root, val_from_train=0.3))
    assert domain.splits["test"] == ("2007_000033", "2007_000042")
    assert (len(domain.splits["train"]), len(domain.splits["val"])) == (2, 1)
    assert domain.mask("2007_000042").reshape(-1)[:22].tolist() == [*range(21), VOID]


def test_scenes_are_a_domain_too() -> None:
    settings = ScenesDomain(layout="scenes", kind="streets", size=(24, 32), train=3, val=2, test=1)
    domain = load_domain("s", settings)
    assert {split: len(stems) for split, stems in domain.splits.items()} == {"train": 3, "val": 2, "test": 1}
    assert domain.image(domain.splits["val"][0]).shape == (24, 32, 3)


ALL: dict[str, type] = {
    "folder": FolderDomain,
    "camvid": CamvidDomain,
    "cityscapes": CityscapesDomain,
    "idd": IddDomain,
    "sunrgbd": SunrgbdDomain,
    "voc": VocDomain,
}


@pytest.mark.parametrize("layout", ALL)
def test_a_wrong_root_is_one_error_that_says_what_it_should_be(tmp_path: Path, layout: str) -> None:
    file_index = index(ALL[layout](layout=layout, root=tmp_path / "gone"))
    assert [str(p) for p in file_index.problems] == [
        f"{tmp_path / 'gone'}: no such folder; {file_index.problems[0].fix}"
    ]
    assert "set `root` to" in file_index.problems[0].fix
    empty = index(ALL[layout](layout=layout, root=tmp_path))
    assert any("set `root` to" in p.fix for p in empty.errors)


def test_load_domain_lists_every_error_of_the_listing_in_one(tmp_path: Path) -> None:
    root = trees.folder(tmp_path)
    trees.picture(root / "images/train0.png")
    trees.mask(root / "labels/orphan.png")
    trees.lines(root / "splits/val.txt", "val0", "gone", "../up", "train1", "val0.jpg")
    with pytest.raises(ValueError, match=r"^domain mine:\n") as error:
        load_domain("mine", FolderDomain(root=root))
    for part in (
        "same stem as",
        "'orphan'",
        "'gone' has no image",
        "'../up' leads out",
        "also in train",
        "'val0' is listed twice",
    ):
        assert part in str(error.value)


# ── Size ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of a few pixels may become smaller still: what is tested is how, not whether that is sensible."""
    monkeypatch.setattr("fewmask.config.scale.SMALLEST", 1)


@pytest.mark.usefixtures("tiny")
def test_images_and_masks_are_brought_to_the_size_that_is_asked_for(tmp_path: Path) -> None:
    root = trees.camvid(tmp_path)
    mask = trees.mask(root / "trainannot" / "0001TP_006690.png", [*range(11), 11])
    plain = load_domain("a", CamvidDomain(layout="camvid", root=root))
    half = load_domain("a", CamvidDomain(layout="camvid", root=root, size=(3, 4)))
    stem = mask.stem
    mean = plain.image(stem).reshape(3, 2, 4, 2, 3).mean((1, 3))
    assert np.abs(half.image(stem) - mean).max() <= 0.5
    assert half.mask(stem).shape == (3, 4)
    blocks = plain.mask(stem).reshape(3, 2, 4, 2).transpose(0, 2, 1, 3).reshape(3, 4, 4)
    assert (blocks == half.mask(stem)[..., None]).any(-1).all()  # a pixel of each block, never a mixture
    same = load_domain("a", CamvidDomain(layout="camvid", root=root, size=trees.SIZE))
    assert (same.image(stem) == plain.image(stem)).all()
    assert (same.mask(stem) == plain.mask(stem)).all()


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("own", [(6, 8), (8, 6), (1, 9)])
@pytest.mark.parametrize("part", [1.0, 0.5, 0.34, 0.01])
def test_a_part_of_each_images_own_size_keeps_its_shape(tmp_path: Path, own: tuple[int, int], part: float) -> None:
    image, mask = tmp_path / "a.png", trees.mask(tmp_path / "m.png", size=own)
    Image.fromarray(np.zeros((*own, 3), np.uint8)).save(image)
    space = load_domain("a", CamvidDomain(layout="camvid", root=trees.camvid(tmp_path / "camvid"))).space
    source = FileSource(tmp_path, {"a": image}, {"a": mask}, space, part)
    expected = tuple(max(1, round(side * part)) for side in own)
    assert source.image("a").shape[:2] == source.mask("a").shape == expected


@pytest.mark.parametrize("size", [0, 1.5, -0.5, "[4]"])
def test_sizes_that_are_none_are_refused(tmp_path: Path, size: object) -> None:
    with pytest.raises(ValidationError, match="size"):
        CamvidDomain.model_validate({"layout": "camvid", "root": tmp_path, "size": size})


def test_a_mask_of_another_size_than_its_image_stays_an_error_at_any_size(tmp_path: Path) -> None:
    root = trees.camvid(tmp_path)
    path = trees.mask(root / "trainannot" / "0001TP_006690.png", size=(3, 4))
    domain = load_domain("a", CamvidDomain(layout="camvid", root=root, size=(3, 4)))
    with pytest.raises(ValueError, match=re.escape(f"{path}: the mask is 4×3 pixels, its image 8×6; export")):
        domain.mask(path.stem)
