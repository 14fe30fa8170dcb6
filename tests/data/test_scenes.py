"""The procedural scenes: fully determined, all classes present, and not to be solved by colour alone."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys

import numpy as np
import pytest
from sklearn.tree import DecisionTreeClassifier

from fewmask.config import ScenesDomain
from fewmask.data import scenes
from fewmask.labels import VOID, shared_classes

KINDS = tuple(scenes.CLASSES)
SIZE = (96, 128)


@pytest.fixture(scope="module", params=KINDS)
def many(request):
    """A kind and 48 of its scenes: images (48,H,W,3), masks (48,H,W)."""
    images, masks = zip(*(scenes.render(request.param, 7, i, SIZE) for i in range(48)), strict=True)
    return request.param, np.stack(images), np.stack(masks)


def digest(kind: str, seed: int, index: int, size: tuple[int, int]) -> str:
    image, mask = scenes.render(kind, seed, index, size)
    return hashlib.sha256(image.tobytes() + mask.tobytes()).hexdigest()


@pytest.mark.parametrize("kind", KINDS)
def test_a_scene_is_a_function_of_its_arguments(kind):
    first = digest(kind, 3, 5, SIZE)
    digest(kind, 3, 6, SIZE)
    np.random.default_rng().random()  # what others draw changes nothing
    assert digest(kind, 3, 5, SIZE) == first
    others = {digest(kind, 3, 6, SIZE), digest(kind, 4, 5, SIZE), digest(kind, 3, 5, (95, 128))}
    assert len(others | {first}) == 4


def test_a_scene_is_the_same_in_another_process():
    program = (
        "import hashlib; from fewmask.data import scenes\n"
        "for kind in scenes.CLASSES:\n"
        "    image, mask = scenes.render(kind, 3, 5, (96, 128))\n"
        "    print(hashlib.sha256(image.tobytes() + mask.tobytes()).hexdigest())\n"
    )
    elsewhere = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert elsewhere.split() == [digest(kind, 3, 5, SIZE) for kind in KINDS]


@pytest.mark.parametrize("size", [(1, 1), (17, 31), (96, 128), (64, 200), (200, 64)])
@pytest.mark.parametrize("kind", KINDS)
def test_any_size(kind, size):
    image, mask = scenes.render(kind, 0, 1, size)
    assert image.shape == (*size, 3) and image.dtype == np.uint8
    assert mask.shape == size and mask.dtype == np.uint8


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_scene_at_twice_the_size(kind):
    """The same things at the same places: of the pixels with a class in both, nearly all have the same one."""
    for index in range(4):
        small = scenes.render(kind, 0, index, (48, 64))[1]
        large = scenes.render(kind, 0, index, (96, 128))[1][::2, ::2]
        labelled = (small != VOID) & (large != VOID)
        assert labelled.mean() > 0.8
        assert (small == large)[labelled].mean() > 0.9


def test_masks_hold_classes_and_void_alone(many):
    kind, _, masks = many
    count = scenes.space(kind).num_classes
    assert ((masks < count) | (masks == VOID)).all()
    assert 0.001 < (masks == VOID).mean() < 0.1, "borders are void, and little else"


def test_every_class_occurs_often_enough_to_be_learnt(many):
    kind, _, masks = many
    for index, name in enumerate(scenes.CLASSES[kind]):
        here = (masks == index).mean((1, 2))
        assert (here > 0.001).mean() > 0.25, f"{name} is seen in too few images"
        assert 0.004 < here.mean() < 0.6, f"{name} has {here.mean():.2%} of the pixels"


def test_scenes_differ_and_are_well_exposed(many):
    _, images, _ = many
    assert len({image.tobytes() for image in images}) == len(images)
    means = images.mean((1, 2, 3))
    assert means.std() > 15, "all hours look alike"
    assert (images.std((1, 2, 3)) > 8).all(), "a picture without contrast"


def test_colour_alone_does_not_tell_the_class(many):
    """A decision tree on a pixel's colour, trained on half of the scenes, scores far below what context can reach."""
    kind, images, masks = many
    colours, labels = images.reshape(2, -1, 3), masks.reshape(2, -1)
    take = [np.flatnonzero(half != VOID)[::23] for half in labels]
    tree = DecisionTreeClassifier(max_depth=12, min_samples_leaf=5, class_weight="balanced", random_state=0)
    tree.fit(colours[0][take[0]], labels[0][take[0]])
    predicted, true, count = tree.predict(colours[1][take[1]]), labels[1][take[1]], len(scenes.CLASSES[kind])
    table = np.bincount(true.astype(int) * count + predicted, minlength=count * count).reshape(count, count)
    iou = table.diagonal() / (table.sum(0) + table.sum(1) - table.diagonal())
    assert iou.mean() < 0.35


def test_shared_and_private_classes():
    spaces = {kind: scenes.space(kind) for kind in KINDS}
    shared = shared_classes(spaces)
    for kind, space in spaces.items():
        assert shared[kind], f"{kind} shares nothing"
        assert set(space.names) - shared[kind], f"{kind} has nothing of its own"
    colours: dict[str, set] = {}
    for space in spaces.values():
        for name, colour in zip(space.names, space.colours, strict=True):
            colours.setdefault(name, set()).add(colour)
    assert all(len(shades) == 1 for shades in colours.values()), "a class has one colour everywhere"
    assert len({colour for shades in colours.values() for colour in shades}) == len(colours)


def settings(**changes) -> ScenesDomain:
    return ScenesDomain(
        **{"layout": "scenes", "kind": "rooms", "train": 4, "val": 2, "test": 3, "size": (24, 32), **changes}
    )


def test_a_domain_of_scenes():
    domain = scenes.domain("flat", settings())
    assert domain.name == "flat" and domain.space == scenes.space("rooms")
    assert {split: len(stems) for split, stems in domain.splits.items()} == {"train": 4, "val": 2, "test": 3}
    assert domain.labelled == domain.splits["train"]
    everything = [stem for stems in domain.splits.values() for stem in stems]
    assert len({domain.image(stem).tobytes() for stem in everything}) == 9, "splits share an image"
    assert all(domain.source.has_mask(stem) for stem in everything)
    stem = domain.splits["val"][1]
    assert stem in domain.source.where(stem)
    image, mask = scenes.render("rooms", 0, scenes.scene_index(stem), (24, 32))
    assert np.array_equal(domain.image(stem), image) and np.array_equal(domain.mask(stem), mask)


def test_the_splits_size_moves_no_scene():
    """A longer training split leaves validation and test as they were, so that their scores stay comparable."""
    short, long = scenes.domain("a", settings()), scenes.domain("a", settings(train=50, val=9))
    for split, stems in short.splits.items():
        for i, stem in enumerate(stems):
            assert np.array_equal(short.image(stem), long.image(long.splits[split][i]))
    indices = [scenes.scene_index(stem) for stems in long.splits.values() for stem in stems]
    assert len(set(indices)) == len(indices)


@pytest.mark.parametrize("kind", KINDS)
def test_by_day_it_is_brighter_than_by_night(kind):
    """And either light shows all that the kind has."""
    by = {light: [scenes.render(kind, 0, i, (48, 64), light) for i in range(12)] for light in ("day", "night")}
    day, night = (np.array([image.mean() for image, _ in scene]) for scene in by.values())
    assert day.mean() > night.mean() + 25
    assert day.min() > np.median(night)
    for scene in by.values():
        assert set(range(scenes.space(kind).num_classes)) <= {c for _, mask in scene for c in np.unique(mask)}


def test_a_domain_has_its_light():
    dark = scenes.domain("late", settings(light="night"))
    stem = dark.splits["val"][0]
    assert np.array_equal(dark.image(stem), scenes.render("rooms", 0, scenes.scene_index(stem), (24, 32), "night")[0])
    assert not np.array_equal(dark.image(stem), scenes.domain("ever", settings()).image(stem))


def test_what_a_domain_hands_out_may_be_changed():
    domain = scenes.domain("flat", settings())
    stem = domain.splits["train"][0]
    image, mask = domain.image(stem), domain.mask(stem)
    kept = image.copy(), mask.copy()
    image[:], mask[:] = 0, 0
    assert np.array_equal(domain.image(stem), kept[0]) and np.array_equal(domain.mask(stem), kept[1])


def test_a_domain_travels_to_a_worker():
    domain = scenes.domain("flat", settings())
    copy = pickle.loads(pickle.dumps(domain))  # noqa: S301 — our own bytes
    assert copy == domain
    stem = domain.splits["test"][0]
    assert np.array_equal(copy.image(stem), domain.image(stem))


def test_an_unknown_kind_names_the_known_ones():
    with pytest.raises(ValueError, match="no scenes of kind 'seaside'; there are streets, rooms, countryside"):
        scenes.render("seaside", 0, 0, SIZE)
