"""fewmask's parts in a loop of one's own: datasets of a domain, batches of tensors, and the example that uses them."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from ondisk import config, two_domains, write_domain

import fewmask
from fewmask.config import FolderDomain
from fewmask.data.batches import Steps
from fewmask.data.domain import Domain
from fewmask.data.parts import with_parts
from fewmask.engine.run import load_domains
from fewmask.labels import NOT_LABELLED
from fewmask.methods import build

EXAMPLE = Path(__file__).parents[1] / "examples" / "own_loop.py"


def test_the_example_runs_and_is_short(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) <= 80
    loss = runpy.run_path(str(EXAMPLE))["main"](2)
    assert np.isfinite(loss)
    *steps, last = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in steps] == ["step 0", "step 1"]
    assert last.startswith("squares worth asking for: [")


@pytest.fixture
def domain(tmp_path: Path) -> Domain:
    write_domain(tmp_path / "a", train=3, pool=2, val=2, test=1)
    return fewmask.load_domain("a", FolderDomain(root=tmp_path / "a"))


def test_a_split_is_a_dataset_of_images_and_masks(domain: Domain) -> None:
    lengths = {split: len(domain.dataset(split)) for split in ("train", "unlabelled", "val", "test")}
    assert lengths == {"train": 3, "unlabelled": 2, "val": 2, "test": 1}
    image, mask = domain.dataset("val")[1]
    assert (image.dtype, mask.dtype) == (torch.uint8, torch.uint8)
    assert np.array_equal(image.permute(1, 2, 0), domain.image("val1"))
    assert np.array_equal(mask, domain.mask("val1"))
    assert all((mask == NOT_LABELLED).all() for _, mask in domain.dataset("unlabelled"))
    loaded = list(torch.utils.data.DataLoader(domain.dataset("train"), batch_size=3))
    assert [part.shape for part in loaded[0]] == [(3, 3, 40, 48), (3, 40, 48)]
    with pytest.raises(ValueError, match="no images in split 'trian'; it has train, val, test"):
        domain.dataset("trian")


def test_an_image_that_is_labelled_in_part_is_in_both(domain: Domain, tmp_path: Path) -> None:
    from PIL import Image

    mask = domain.mask("train1")
    mask[:20] = NOT_LABELLED
    Image.fromarray(mask).save(tmp_path / "a" / "labels" / "train1.png")
    partial = with_parts({"a": domain})["a"]
    assert len(partial.dataset("train")) == 3
    pool = partial.dataset("unlabelled")
    answered = [bool((mask != NOT_LABELLED).any()) for _, mask in pool]
    assert (len(pool), sum(answered)) == (3, 1)


def test_a_transform_makes_the_items(domain: Domain) -> None:
    items = domain.dataset("test", lambda image, mask: (image.shape, mask.shape))
    assert items[0] == ((40, 48, 3), (40, 48))


def test_a_mask_of_another_size_is_named(domain: Domain, tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(np.zeros((5, 6), np.uint8)).save(tmp_path / "a" / "labels" / "val0.png")
    with pytest.raises(ValueError, match=r"val0.* is 48×40 but its mask 6×5; make them equal"):
        domain.dataset("val")[0]


def test_tensors_make_the_batch_of_a_run(tmp_path: Path) -> None:
    """The batches of a run, made again of their tensors alone."""
    two_domains(tmp_path)
    settings = config(tmp_path, "entropy-min")
    domains = load_domains(settings)
    method = build(settings.method, domains, 4)
    batch = Steps(domains, settings.train, method.phases(4), (1, 4), 32, seed=0)[1][0]
    again = fewmask.Batch.from_tensors(
        batch.image, batch.label, batch.domain, domains=2, pool=batch.pool, strides=(1, 4), multiple=32
    )
    assert torch.equal(again.has_label, batch.has_label)
    assert torch.equal(again.has_unlabelled, batch.has_unlabelled)
    for stride in (1, 4):
        assert torch.equal(again.counts[stride].table(), batch.counts[stride].table())
    alone = fewmask.Batch.from_tensors(batch.image[:2], batch.label[:2])
    assert (alone.pool, alone.names, alone.rows().keys()) == (2, ("row 0", "row 1"), {0})
