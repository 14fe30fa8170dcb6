"""DICOM and NIfTI: slices as images, values by slope and window, and predictions on the grid of the volume.

Shapes: H×W pixels of a slice · X,Y,Z voxels of a volume.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from ondisk import ENCODER, NARROW, run_python, write_config
from pydicom.encaps import encapsulate
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, JPEGLSLossless, RLELossless
from typer.testing import CliRunner

from fewmask.cli import app
from fewmask.config import CamvidDomain, FolderDomain, InputSettings
from fewmask.data.doctor import check_domains
from fewmask.data.inputs import input_kind, read_input, read_values
from fewmask.data.layouts import load_domain
from fewmask.data.stretch import settle_stretch
from fewmask.engine.image_files import find_images

AFFINE = np.array([[-0.7, 0, 0, 90], [0, 0.7, 0, -120], [0, 0, 2.5, -40], [0, 0, 0, 1]])
STORED = np.arange(12 * 10, dtype=np.uint16).reshape(12, 10) * 7


def wants(form: str, **more: Any) -> InputSettings:
    return InputSettings.model_validate({"format": form, **more})


def write_dicom(path: Path, pixels: np.ndarray = STORED, z: float | None = None, **more: Any) -> Path:
    """A file of one grey frame of 12 stored bits; with `z` a slice of a series at that height."""
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID, data.Modality = CTImageStorage, pydicom.uid.generate_uid(), "CT"
    data.SeriesInstanceUID = "1.2.3" if z is not None else pydicom.uid.generate_uid()
    data.Rows, data.Columns = pixels.shape[:2]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    if z is not None:
        data.ImageOrientationPatient, data.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [5, 6, z]
    data.PixelData = pixels.astype(np.uint16).tobytes()
    for name, value in more.items():
        setattr(data, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def write_nifti(path: Path, voxels: np.ndarray, affine: np.ndarray = AFFINE, **header: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(voxels, affine)
    for name, value in header.items():
        image.header[name] = value
    nibabel.save(image, path)
    return path


def volume(seed: int, slices: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (X,Y,Z) int16 and ids: three classes of different brightness, and air in the first slice."""
    rng = np.random.default_rng(seed)
    ids = np.kron(rng.integers(0, 3, (5, 4, slices)), np.ones((8, 8, 1), int)).astype(np.uint8)
    ids[:16, :8] = [[[1]], [[2]]][seed % 2]
    voxels = (np.array([-900, 40, 700])[ids] + rng.integers(-30, 30, ids.shape)).astype(np.int16)
    voxels[..., 0], ids[..., 0] = -1000, 0
    return voxels, ids


def write_scans(root: Path, ending: str = ".nii.gz") -> Path:
    """Four volumes with ids, whose lists name whole volumes."""
    for i in range(4):
        voxels, ids = volume(i)
        write_nifti(root / f"images/scan{i}{ending}", voxels)
        write_nifti(root / f"labels/scan{i}{ending}", ids)
    (root / "splits").mkdir()
    for split, names in {"train": ["scan0", "scan1"], "val": ["scan2"], "test": [f"scan3{ending}"]}.items():
        (root / f"splits/{split}.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    (root / "classes.yaml").write_text("classes: {0: background, 1: organ, 2: bone}\n", encoding="utf-8")
    return root


def of_nifti(root: Path, **more: Any) -> FolderDomain:
    return FolderDomain.model_validate({"root": root, "format": "nifti", "masks": "nifti", **more})


# ── Settings ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_settings_of_medical_images_have_defaults_and_refuse_what_does_not_fit() -> None:
    settings = wants("dicom", window=[40, 400])
    assert (settings.channels, settings.depth) == (("intensity",), "float")
    assert settle_stretch(settings, []).stretch == ((-160.0, 240.0),)
    assert InputSettings.model_validate(settle_stretch(settings, []).model_dump()).stretch == ((-160.0, 240.0),)
    for wrong, message in (
        ({"format": "nifti", "depth": 16}, "remove `depth`"),
        ({"format": "dicom", "channels": ["a", "b"]}, "write one name"),
        ({"window": [40, 400]}, "pictures have none"),
        ({"format": "dicom", "window": [40, 0]}, "greater than 0"),
        ({"format": "dicom", "window": [40, 400], "stretch": [[0, 1]]}, "remove one of the two"),
    ):
        with pytest.raises(ValueError, match=message):
            InputSettings.model_validate(wrong)
    with pytest.raises(ValueError, match="camvid has pictures; remove `format`"):
        CamvidDomain.model_validate({"layout": "camvid", "root": ".", "format": "dicom"})
    assert "format" not in repr(InputSettings(channels=("a",)))  # predictions of older versions stay valid


# ── DICOM ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_dicom_is_rescaled_and_monochrome1_is_inverted(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", RescaleSlope=2, RescaleIntercept=-1024)
    values, kind = read_values(path, wants("dicom"))
    np.testing.assert_array_equal(values[..., 0], STORED * 2.0 - 1024)
    assert (kind.height, kind.width) == (12, 10)
    assert input_kind(path, wants("dicom")) == kind
    white = write_dicom(tmp_path / "b.dcm", PhotometricInterpretation="MONOCHROME1", RescaleIntercept=5)
    np.testing.assert_array_equal(read_values(white, wants("dicom"))[0][..., 0], 4095.0 - STORED + 5)


def test_dicom_of_signed_values_in_monochrome1(tmp_path: Path) -> None:
    signed = (STORED.astype(np.int16) - 300) & 0xFFF
    path = write_dicom(tmp_path / "a.dcm", signed, PixelRepresentation=1, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(read_values(path, wants("dicom"))[0][..., 0], -1.0 - (STORED.astype(int) - 300))


@pytest.mark.parametrize("colours", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(("function", "white"), [("LINEAR", 499), ("LINEAR_EXACT", 500)])
def test_the_window_of_a_file(function: str, white: int, colours: str, tmp_path: Path) -> None:
    path = write_dicom(
        tmp_path / "a.dcm", WindowCenter=[300, 1], WindowWidth=[400, 2], VOILUTFunction=function, BitsStored=10,
        HighBit=9, PhotometricInterpretation=colours,
    )  # fmt: skip
    shown = np.clip((STORED - 100.0) / (white - 100), 0, 1) * 255
    expected = np.rint(255 - shown if colours == "MONOCHROME1" else shown)
    settings = settle_stretch(wants("dicom", window="file"), [])
    assert np.abs(read_input(path, settings).pixels[..., 0] - expected).max() <= 1
    bare = write_dicom(tmp_path / "b.dcm")
    with pytest.raises(ValueError, match=r"b\.dcm: it states no window; write `window`"):
        read_input(bare, settings)


def test_the_window_of_the_settings(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", WindowCenter=1, WindowWidth=2)
    pixels = read_input(path, settle_stretch(wants("dicom", window=[300, 400]), [])).pixels[..., 0]
    np.testing.assert_array_equal(pixels, np.rint(np.clip((STORED - 100.0) / 400, 0, 1) * 255))


def test_compressed_dicom_is_read_or_refused_by_name(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm")
    data = pydicom.dcmread(path)
    data.compress(RLELossless)
    data.save_as(tmp_path / "rle.dcm")
    np.testing.assert_array_equal(read_values(tmp_path / "rle.dcm", wants("dicom"))[0][..., 0], STORED)
    other = pydicom.dcmread(path)
    other.file_meta.TransferSyntaxUID = JPEGLSLossless
    other.PixelData = encapsulate([b"\xff\xd8\xff\xf7" + bytes(60)])
    other.save_as(tmp_path / "jpegls.dcm")
    with pytest.raises(ValueError, match=r"jpegls\.dcm: its pixels are compressed as JPEG-LS Lossless .*; decompress"):
        read_values(tmp_path / "jpegls.dcm", wants("dicom"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, r"of colours \(RGB\); save it as PNG"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, r"of colours \(PALETTE COLOR\)"),
        ({"NumberOfFrames": 7}, "of 7 frames; save each"),
        ({"ModalityLUTSequence": [pydicom.Dataset()]}, "given by a table"),
        ({"Rows": 60000, "Columns": 60000}, "claims 60000×60000 pixels"),
        ({"Rows": 13}, "truncated or damaged"),
    ],
)
def test_what_dicom_refuses(more: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", **more)
    with pytest.raises(ValueError, match=rf"a\.dcm: .*{message}"):
        read_values(path, wants("dicom"))


def test_files_that_are_no_dicom(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(b"no dicom")
    with pytest.raises(ValueError, match=r"a\.dcm: not a DICOM file"):
        read_values(tmp_path / "a.dcm", wants("dicom"))
    with pytest.raises(ValueError, match=r"b\.dcm: cannot be read"):
        read_values(tmp_path / "b.dcm", wants("dicom"))
    whole = write_dicom(tmp_path / "c.dcm").read_bytes()
    (tmp_path / "c.dcm").write_bytes(whole[:-20])
    with pytest.raises(ValueError, match=r"c\.dcm: truncated or damaged"):
        read_values(tmp_path / "c.dcm", wants("dicom"))


def test_a_series_is_ordered_by_position(tmp_path: Path) -> None:
    for name, z in (("IM3", 2.5), ("IM1", 7.5), ("IM2.dcm", -5.0)):  # two without an ending
        write_dicom(tmp_path / "in/p1/ct" / name, STORED + np.uint16(10 * z + 100), z)
    write_dicom(tmp_path / "in/p1/ct/scout.dcm")
    write_dicom(tmp_path / "in/xray.dcm")
    (tmp_path / "in/note.txt").write_text("x", encoding="utf-8")
    found = find_images(tmp_path / "in", wants("dicom"))
    assert {item.name.as_posix(): item.path.name for item in found.items} == {
        "p1/ct_000": "IM2.dcm", "p1/ct_001": "IM3", "p1/ct_002": "IM1", "p1/ct/scout": "scout.dcm", "xray": "xray.dcm",
    }  # fmt: skip
    assert found.left_out == ["note.txt"]
    assert [i.name.name for i in find_images(tmp_path / "in/p1/ct", wants("dicom")).items][-3:] == [
        "ct_000", "ct_001", "ct_002",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"z": 0.0}, "two slices at one position"),
        ({"z": 1.0, "ImageOrientationPatient": [0, 1, 0, 0, 0, 1]}, "slices of two orientations"),
    ],
)
def test_a_series_without_an_order_is_refused(more: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_dicom(tmp_path / "ct/a.dcm", z=0.0)
    write_dicom(tmp_path / "ct/b.dcm", **more)
    with pytest.raises(ValueError, match=rf"ct: {message}"):
        find_images(tmp_path, wants("dicom"))


def test_two_series_in_a_folder_are_refused(tmp_path: Path) -> None:
    for i in range(4):
        write_dicom(tmp_path / f"ct/{i}.dcm", z=float(i), SeriesInstanceUID=f"1.2.{i % 2}")
    with pytest.raises(ValueError, match="ct: slices of 2 series; move each series"):
        find_images(tmp_path, wants("dicom"))


def test_a_domain_of_dicom_with_a_png_for_each_slice(tmp_path: Path) -> None:
    import cv2

    for i in range(4):
        for z in range(3):
            write_dicom(tmp_path / f"images/p{i}/{9 - z}.dcm", STORED + 13 * i + 5 * z, float(z))
            (tmp_path / f"labels/p{i}").parent.mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / f"labels/p{i}_{z:03d}.png"), (STORED > 300).astype(np.uint8))
    (tmp_path / "classes.yaml").write_text("classes: {0: background, 1: organ}\n", encoding="utf-8")
    settings = FolderDomain.model_validate({"root": tmp_path, "format": "dicom", "val_from_train": 0.25})
    assert not check_domains({"ct": settings}, None, 0).errors
    domain = load_domain("ct", settings)
    assert len({stem.rpartition("_")[0] for stem in domain.splits["val"]}) == 1
    assert [len(domain.splits[split]) for split in ("train", "val")] == [9, 3]
    image, mask = domain.pair(domain.labelled[0])
    assert (image.shape, mask.shape) == ((12, 10, 1), (12, 10))


# ── NIfTI ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_slice_is_read_exactly(ending: str, tmp_path: Path) -> None:
    voxels, _ = volume(0)
    path = write_nifti(tmp_path / f"a{ending}", voxels, scl_slope=2, scl_inter=-3, cal_min=-100, cal_max=300)
    stored = np.asarray(nibabel.load(path).dataobj)
    items = find_images(tmp_path, wants("nifti")).items
    assert [item.name.name for item in items] == [f"a_{i:03d}" for i in range(6)]
    assert items[2].size == (40, 32)
    for number, item in enumerate(items):
        np.testing.assert_allclose(read_values(item.path, wants("nifti"))[0][..., 0], stored[..., number].T)
    shown = read_input(items[3].path, settle_stretch(wants("nifti", window="file"), [])).pixels[..., 0]
    np.testing.assert_allclose(shown, np.clip((stored[..., 3].T + 100) / 400, 0, 1) * 255, atol=0.51)


def test_a_voxel_of_several_numbers_gives_channels(tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).normal(0, 1, (6, 5, 3, 2)).astype(np.float32)
    write_nifti(tmp_path / "a.nii", voxels)
    (item, *_) = find_images(tmp_path, wants("nifti", channels=["t1", "t2"])).items
    np.testing.assert_array_equal(read_values(item.path, wants("nifti", channels=["t1", "t2"]))[0],
                                  voxels[:, :, 0].transpose(1, 0, 2))  # fmt: skip
    with pytest.raises(ValueError, match=r"a\.nii: 2 numbers a voxel, and the domain's `channels` are 1"):
        find_images(tmp_path, wants("nifti"))


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_damaged_volume_is_an_error(ending: str, tmp_path: Path) -> None:
    path = write_nifti(tmp_path / f"a{ending}", np.random.default_rng(0).integers(0, 999, (40, 30, 5)).astype(np.int16))
    slices = find_images(tmp_path, wants("nifti")).items
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ValueError, match=r"slice: truncated or damaged"):
        read_values(slices[-1].path, wants("nifti"))
    path.write_bytes(b"x" * 500)
    with pytest.raises(ValueError, match=r"a\.nii(\.gz)?: truncated or damaged"):
        find_images(tmp_path, wants("nifti"))


def test_a_domain_of_volumes_is_checked_and_keeps_volumes_together(tmp_path: Path) -> None:
    root = write_scans(tmp_path)
    report = check_domains({"ct": of_nifti(root)}, None, 0)
    assert not report.errors, report.errors
    assert report.statistics["ct"].splits == {"train": 12, "val": 6, "test": 6}
    domain = load_domain("ct", of_nifti(root))
    voxels, ids = volume(1)
    image, mask = domain.pair("scan1_004")
    np.testing.assert_array_equal(mask, ids[..., 4].T)
    assert domain.input.stretch is not None
    low, high = domain.input.stretch[0]
    expected = np.clip((voxels[..., 4].T - low) / (high - low), 0, 1) * 255
    np.testing.assert_allclose(image[..., 0], expected, atol=0.51)


def test_volumes_of_ids_that_do_not_fit_are_errors(tmp_path: Path) -> None:
    root = write_scans(tmp_path)
    _, ids = volume(0)
    write_nifti(root / "labels/scan0.nii.gz", ids[:-1])
    write_nifti(root / "labels/scan1.nii.gz", ids, np.diag([-1, 1, 1, 1]) @ AFFINE)
    write_nifti(root / "labels/scan2.nii.gz", ids + np.float32(0.5))
    write_nifti(root / "labels/scan9.nii.gz", ids)
    texts = "\n".join(map(str, check_domains({"ct": of_nifti(root)}, None, 0).errors))
    for expected in (
        "scan0.nii.gz: 39×32×6 voxels, its image",
        "scan1.nii.gz: its affine is not that of its image",
        "scan2.nii.gz/000.slice: 0.5 at column 0, row 0 is no id",
        "scan9.nii.gz: a volume of ids without an image 'scan9'",
    ):
        assert expected in texts
    pictures = FolderDomain.model_validate({"root": root, "masks": "nifti"})
    assert "`masks: nifti` for images of another format" in str(check_domains({"ct": pictures}, None, 0).errors)


def test_endings_tell_images_from_masks_in_one_folder(tmp_path: Path) -> None:
    for i in range(3):
        voxels, ids = volume(i)
        write_nifti(tmp_path / f"c{i}_ct.nii.gz", voxels)
        write_nifti(tmp_path / f"c{i}_seg.nii.gz", ids)
    (tmp_path / "classes.yaml").write_text("classes: {0: background, 1: organ, 2: bone}\n", encoding="utf-8")
    settings = of_nifti(
        tmp_path, images=".", labels=".", image_ending="_ct", label_ending="_seg", val_from_train=0.3
    )  # fmt: skip
    assert not check_domains({"ct": settings}, None, 0).errors
    domain = load_domain("ct", settings)
    assert len(domain.labelled) == 12
    assert {stem[:2] for stem in domain.splits["val"]} & {stem[:2] for stem in domain.splits["train"]} == set()


def test_train_and_predict_a_volume_with_its_affine(tmp_path: Path) -> None:
    root = write_scans(tmp_path / "ct")
    path = write_config(
        tmp_path / "ct.yaml",
        {
            "name": "ct",
            "domains": {
                "ct": {"layout": "folder", "root": str(root), "format": "nifti", "masks": "nifti", "window": [0, 2000]}
            },
            "model": {"encoder": ENCODER, "decoder_options": {**NARROW}, "embedding": {"dim": 8}},
            "method": {"name": "joint"},
            "train": {
                "steps": 2,
                "batch_size": 2,
                "crop": [32, 32],
                "device": "cpu",
                "workers": 0,
                "precision": "fp32",
            },
        },
    )
    run, out = tmp_path / "runs", tmp_path / "out"
    for command in (
        ["check", str(path)],
        ["train", str(path), "--out", str(run)],
        ["predict", str(run), str(root / "images"), "--out", str(out), "--as", "nifti"],
    ):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, (result.output, result.exception)
    written, image = nibabel.load(out / "nifti/scan3.nii.gz"), nibabel.load(root / "images/scan3.nii.gz")
    np.testing.assert_array_equal(written.affine, image.affine)
    assert (written.shape, written.get_data_dtype()) == (image.shape, np.uint8)
    from PIL import Image

    for number in range(6):
        mask = np.asarray(Image.open(out / f"masks/scan3_{number:03d}.png"))
        np.testing.assert_array_equal(np.asarray(written.dataobj)[..., number].T, mask)
    again = CliRunner().invoke(app, ["predict", str(run), str(root / "images"), "--out", str(out), "--as", "labelme"])
    assert "is a slice, which LabelMe cannot open" in str(again.exception or again.output)


# ── Extras ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("form", "library"), [("dicom", "pydicom"), ("nifti", "nibabel")])
def test_without_the_extra_the_error_names_it(form: str, library: str, tmp_path: Path) -> None:
    write_dicom(tmp_path / "a.dcm")
    write_nifti(tmp_path / "a.nii", np.zeros((4, 4, 2), np.uint8))
    code = (
        "import sys; from pathlib import Path; sys.modules[sys.argv[2]] = None\n"
        "from fewmask.config import InputSettings; from fewmask.engine.image_files import find_images\n"
        "find_images(Path(sys.argv[1]), InputSettings(format=sys.argv[3]))"
    )
    done = run_python(code, tmp_path, library, form)
    assert f'is read by {library}; pip install "fewmask[medical]"' in done.stderr


def test_the_libraries_are_loaded_by_the_first_file_alone() -> None:
    code = (
        "import sys, fewmask.data.doctor, fewmask.engine.prediction\n"
        "assert not {'pydicom', 'nibabel'} & set(sys.modules), 'loaded at the start'"
    )
    assert run_python(code).returncode == 0
