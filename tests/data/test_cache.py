"""Images and masks that stay in memory are those of the files, are read once, and change no run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ondisk import assert_same_run, plain, two_domains, write_domain
from PIL import Image

from fewmask.config import FolderDomain
from fewmask.data import domain, masks
from fewmask.data.layouts import load_domain
from fewmask.engine.fit import train
from fewmask.methods import parse_config


@pytest.mark.parametrize("size", [None, 0.5, (20, 30)])
def test_what_is_kept_is_read_once_and_is_what_the_files_hold(
    size: float | tuple[int, int] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = FolderDomain(root=write_domain(tmp_path / "a"), size=size)
    fresh, kept = load_domain("a", settings), load_domain("a", settings, keep=True)
    expected = {stem: (fresh.image(stem), fresh.mask(stem)) for stem in fresh.labelled}
    read: list[Path] = []
    for module, name in ((domain, "read_input"), (masks, "read_mask")):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda path, *more, real=real: (read.append(path), real(path, *more))[1])
    for _ in range(3):
        for stem, (image, mask) in expected.items():
            np.testing.assert_array_equal(kept.image(stem), image)
            np.testing.assert_array_equal(kept.mask(stem), mask)
    assert len(read) == len(set(read)) == 2 * len(expected)
    with pytest.raises(ValueError, match="read-only"):
        kept.image(kept.labelled[0])[0, 0] = 0
    assert kept.with_labelled(1, 0).source == fresh.source


@pytest.mark.parametrize("size", [None, 0.5])
def test_an_image_and_its_mask_are_opened_once_for_a_pair(
    size: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the mask is compared with the size of the image's file."""
    files = load_domain("a", FolderDomain(root=write_domain(tmp_path / "a"), size=size))
    opened: list[Path] = []
    read_bytes = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: (opened.append(path), read_bytes(path))[1])
    for _ in range(2):
        for stem in files.labelled:
            opened.clear()
            files.pair(stem)
            assert len(opened) == len(set(opened)) == 2


def test_a_mask_is_compared_with_its_own_image(tmp_path: Path) -> None:
    root = write_domain(tmp_path / "a")
    files = load_domain("a", FolderDomain(root=root, size=0.5))
    first, second = files.labelled[:2]
    mask = root / "labels" / f"{second}.png"
    Image.open(mask).crop((0, 0, 20, 16)).save(mask)
    files.image(first)
    for _ in range(2):
        with pytest.raises(ValueError, match=f"{second}.png: the mask is 20×16 pixels"):
            files.mask(second)


def test_a_file_that_cannot_be_read_is_an_error_each_time(tmp_path: Path) -> None:
    root = write_domain(tmp_path / "a")
    domain = load_domain("a", FolderDomain(root=root), keep=True)
    stem = domain.labelled[0]
    whole = (root / "images" / f"{stem}.png").read_bytes()
    (root / "images" / f"{stem}.png").write_bytes(whole[:40])
    for _ in range(2):
        with pytest.raises(ValueError, match=stem):
            domain.image(stem)
    (root / "images" / f"{stem}.png").write_bytes(whole)
    assert domain.image(stem).shape[2] == 3


def test_a_run_is_the_same_and_may_be_continued_either_way(tmp_path: Path) -> None:
    data = two_domains(tmp_path / "data")

    def run(folder: Path, cache: str, stop_at: int | None = None) -> None:
        settings = plain(data, "entropy-min", steps=4, checkpoint_every=1, cache=cache)

        def interrupt(event: object) -> None:
            if getattr(event, "step", None) == stop_at and getattr(event, "stage", "") != "evaluate":
                raise KeyboardInterrupt

        train(parse_config(settings), folder, interrupt)

    run(tmp_path / "none", "none")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "memory", "memory", stop_at=2)
    run(tmp_path / "memory", "none")
    assert_same_run(tmp_path / "none", tmp_path / "memory")
