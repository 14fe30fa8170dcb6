"""CyCADA's losses against loops, its translators and its discriminators."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import same
from semi_supervised import rng
from torch import Tensor, nn

from fewmask.losses.translation import image_distance, least_squares, semantic_consistency
from fewmask.models.translation import History, PatchDiscriminator, Translator

# ── The losses ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_losses_equal_loops() -> None:
    verdict, mask = torch.randn(2, 5, 6, generator=rng(0)), torch.rand(2, 5, 6, generator=rng(1)) < 0.6
    one, other = (255 * torch.rand(2, 3, 5, 6, generator=rng(seed)) for seed in (2, 3))
    new, old = (3 * torch.randn(2, 4, 5, 6, generator=rng(seed)) for seed in (4, 5))
    real, fake, far, kept = [], [], [], []
    for b in range(2):
        for y in range(5):
            for x in range(6):
                if mask[b, y, x]:
                    v = verdict[b, y, x].item()
                    real.append((v - 1) ** 2)
                    fake.append(v**2)
                    far += [abs(p - q) / 127.5 for p, q in zip(one[b, :, y, x].tolist(), other[b, :, y, x].tolist())]  # noqa: B905
                    scores, best = new[b, :, y, x].tolist(), int(old[b, :, y, x].argmax())
                    kept.append(math.log(sum(math.exp(s) for s in scores)) - scores[best])
    assert least_squares(verdict, True, mask).item() == pytest.approx(sum(real) / len(real), rel=1e-5)
    assert least_squares(verdict, False, mask, 7).item() == pytest.approx(sum(fake) / 7, rel=1e-5)
    assert image_distance(one, other, mask).item() == pytest.approx(sum(far) / len(far), rel=1e-5)
    assert semantic_consistency(new, old, mask).item() == pytest.approx(sum(kept) / len(kept), rel=1e-5)
    assert semantic_consistency(new, old, mask, 9).item() == pytest.approx(sum(kept) / 9, rel=1e-5)


def test_an_empty_mask_gives_zero_with_a_gradient_of_zero() -> None:
    images, none = torch.rand(1, 3, 4, 4, requires_grad=True), torch.zeros(1, 4, 4, dtype=torch.bool)
    for loss in (
        least_squares(images[:, 0], True, none),
        image_distance(images, images.detach() + 1, none),
        semantic_consistency(images, images, none),
    ):
        images.grad = None
        loss.backward()
        assert loss.item() == 0
        assert images.grad is not None
        assert not images.grad.any()


def test_what_was_seen_before_gets_no_gradient() -> None:
    new, old = (torch.randn(1, 3, 4, 4, requires_grad=True) for _ in range(2))
    semantic_consistency(new, old, torch.ones(1, 4, 4, dtype=torch.bool)).backward()
    assert new.grad is not None
    assert new.grad.any()
    assert old.grad is None


# ── The networks ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("relights", [False, True])
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (18, 70)])
def test_a_translator_of_any_size_of_image_draws_from_its_generator_alone(
    size: tuple[int, int], relights: bool
) -> None:
    before = torch.get_rng_state()
    translator = Translator(4, 2, relights, rng(1))
    assert torch.equal(torch.get_rng_state(), before)
    assert same(translator.state_dict(), Translator(4, 2, relights, rng(1)).state_dict())
    image = torch.randint(0, 256, (2, 3, *size), generator=rng(2), dtype=torch.uint8)
    made = translator(image)
    assert made.shape == image.shape
    assert 0 <= made.min() < made.max() <= 255


def test_the_full_size_networks_are_those_of_the_source() -> None:
    """11.4 and 2.8 million weights, as published for CycleGAN at 256×256."""
    assert sum(p.numel() for p in Translator(64, 9, False, rng()).parameters()) == 11_378_179
    assert sum(p.numel() for p in PatchDiscriminator(64, 70, rng()).parameters()) == 2_764_737


def test_relighting_is_a_gain_and_an_offset_for_each_value() -> None:
    translator = Translator(4, 1, True, rng(1))
    for parameter in translator.layers[-1].parameters():  # nothing learnt yet: the image, through the last tanh
        parameter.data.zero_()
    image = torch.randint(0, 256, (2, 3, 21, 34), generator=rng(2), dtype=torch.uint8).float()
    expected = ((image / 127.5 - 1).tanh() + 1) * 127.5
    torch.testing.assert_close(translator(image), expected)
    bias = translator.layers[-1].bias
    assert isinstance(bias, Tensor)
    bias.data = torch.tensor([-0.5, 0.0, 1.0, -0.2, 0.0, 0.3])  # the gains' and the offsets' of red, green and blue
    scaled = image / 127.5 - 1
    by = torch.tensor([0.5, 1.0, 2.0])[:, None, None] * scaled + torch.tensor([-0.2, 0.0, 0.3])[:, None, None]
    torch.testing.assert_close(translator(image), (by.tanh() + 1) * 127.5)


@pytest.mark.parametrize("relights", [False, True])
def test_a_light_has_no_checkerboard(relights: bool) -> None:
    """A grey image leaves a gain that is the same everywhere but at the border, if its doublings are resizes."""
    translator = Translator(4, 0, relights, rng(1))
    inner = translator(torch.full((1, 3, 64, 64), 90))[..., 24:40, 24:40]
    assert (inner.std((-1, -2)).max() < 1e-3) == relights


@pytest.mark.parametrize("patch", [16, 34, 70])
def test_a_verdict_sees_its_patch_and_no_more(patch: int) -> None:
    """In eval of one pixel: the gradient of a cell's verdict reaches so many pixels a side."""
    judge = PatchDiscriminator(4, patch, rng())
    for layer in list(judge.layers):
        if isinstance(layer, nn.Conv2d):
            layer.weight.data.abs_()
    linear = nn.Sequential(*[layer for layer in judge.layers if isinstance(layer, nn.Conv2d)])
    image = torch.ones(1, 3, 160, 160, requires_grad=True)
    cells = linear(image)
    cells[0, 0, cells.shape[2] // 2, cells.shape[3] // 2].backward()
    assert image.grad is not None
    pixels = image.grad[0, 0].nonzero()
    assert (pixels.amax(0) - pixels.amin(0) + 1).tolist() == [patch, patch]
    assert judge(torch.rand(2, 3, 45, 52)).shape == (2, 45, 52)


def test_a_crop_that_is_too_small_for_the_patches_is_named() -> None:
    with pytest.raises(ValueError, match=r"train.crop: 24×64 is too small for patches of 70 pixels; take at least 32"):
        PatchDiscriminator(4, 70, rng())(torch.rand(1, 3, 24, 64))


def test_a_history_shows_old_images_in_place_of_half_of_the_new() -> None:
    history, draw = History(4), rng(3)
    shown, stored = [], []
    for number in range(40):
        image = torch.full((2, 3, 2, 2), 2.0 * number)
        image[1] += 1
        got = history.swap(image, draw)
        assert got.shape == image.shape
        shown += got[:, 0, 0, 0].tolist()
        stored.append(sorted(history.images[:, 0, 0, 0].tolist()))
    assert stored[0] == [0, 0, 0, 1]
    assert stored[1] == [0, 1, 2, 3]
    assert shown[:4] == [0, 1, 2, 3]
    later = [(value, number) for number, value in enumerate(shown)][4:]
    assert all(value <= number for value, number in later)
    old = sum(value < number for value, number in later)
    assert 0.3 < old / len(later) < 0.7
    # None is lost: it has been shown, or is still remembered. Those that were shown at once may be shown again.
    assert {*shown, *stored[-1]} == set(range(80))
    assert all(shown.count(value) == 1 + (value < 4 and value not in stored[-1]) for value in shown)


@pytest.mark.parametrize("places", [0, 3])
def test_a_history_with_fewer_places_than_images(places: int) -> None:
    history, image = History(places), torch.arange(5.0).view(5, 1, 1, 1).expand(5, 3, 2, 2)
    assert torch.equal(history.swap(image, rng()), image)
    got = history.swap(image + 10, rng())
    assert torch.equal(got[places:], image[places:] + 10)
    assert len(history.images) == places
    history.forget()
    assert history.images.numel() == history.added == 0


def test_a_history_is_restored_before_it_knows_the_size() -> None:
    history, draw = History(3), rng()
    for _ in range(3):
        history.swap(255 * torch.rand(2, 3, 4, 5, generator=draw), draw)
    again = History(3)
    again.load_state_dict(history.state_dict())
    assert same(history.state_dict(), again.state_dict())
    image = torch.rand(2, 3, 4, 5)
    assert torch.equal(history.swap(image, rng(7)), again.swap(image, rng(7)))
