"""Label spaces as one, several heads as one, and the domain that fits an image.

Shapes: B images · C feature channels · h×w feature cells · C_k classes of head k · U classes of the union.
"""

from __future__ import annotations

import math
from dataclasses import replace

import helpers
import numpy as np
import pytest
import runfolders
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewmask.engine.generalise import choices, every_head
from fewmask.engine.prototypes import VALUES, load_fused, load_prototypes, make_prototypes, save_prototypes
from fewmask.labels import NOT_LABELLED, VOID, ClassMapping, LabelSpace, LabelUnion, distinct_colour, meanings
from fewmask.models.fusion import (
    ABSENT,
    AUTO,
    FUSED,
    TEMPERATURE,
    Fused,
    Prototypes,
    distance,
    fuse,
    shares,
    similarity,
)
from fewmask.models.universal import UniversalSegmenter, at_stride
from fewmask.runs import RunFolder

# ── The union of label spaces ────────────────────────────────────────────────────────────────────────────────────────


def named(*names: str) -> LabelSpace:
    return LabelSpace(names, tuple(distinct_colour(i) for i in range(len(names))), {i: i for i in range(len(names))})


WORDS = st.sampled_from(["road", "street", "lane", "sky", "air", "cow", "tree"])
SPACES = st.dictionaries(
    st.sampled_from("abcd"), st.lists(WORDS, min_size=1, max_size=5, unique=True).map(lambda n: named(*n)), min_size=1
)
SYNONYMS = st.lists(st.lists(WORDS, min_size=1, max_size=3), max_size=3)


def alike_by_loop(words, synonyms):
    """Partition of the words: pairs are joined until nothing changes."""
    parts = [{w} for w in words]
    changed = True
    while changed:
        changed = False
        for group in [*synonyms]:
            touched = [p for p in parts if p & set(group)]
            if len(touched) > 1:
                parts = [p for p in parts if p not in touched] + [set().union(*touched)]
                changed = True
    return {frozenset(p) for p in parts}


@given(SPACES, SYNONYMS)
def test_classes_are_one_exactly_where_they_mean_the_same(spaces, synonyms):
    union = LabelUnion.build(spaces, synonyms)
    everything = {w for group in synonyms for w in group} | {n for s in spaces.values() for n in s.names}
    parts = alike_by_loop(everything, synonyms)
    used = {n for s in spaces.values() for n in s.names}
    assert {k & used for k in union.aliases} == {p & used for p in parts if p & used}
    for domain, space in spaces.items():
        for name, u in zip(space.names, union.tables[domain], strict=True):
            assert name in union.aliases[u]
    assert len(set(union.space.colours)) == union.space.num_classes  # no two of them look alike


@given(SPACES, SYNONYMS, st.randoms())
def test_the_order_of_domains_and_synonyms_changes_names_alone(spaces, synonyms, random):
    shuffled = random.sample(list(spaces), len(spaces))
    groups = [random.sample(g, len(g)) for g in random.sample(synonyms, len(synonyms))]
    one, other = LabelUnion.build(spaces, synonyms), LabelUnion.build({n: spaces[n] for n in shuffled}, groups)
    assert set(one.aliases) == set(other.aliases)
    for name in spaces:
        assert [one.aliases[u] for u in one.tables[name]] == [other.aliases[u] for u in other.tables[name]]


@given(SPACES, SYNONYMS)
def test_the_union_with_itself_and_with_its_parts_is_itself(spaces, synonyms):
    union = LabelUnion.build(spaces, synonyms)
    again = LabelUnion.build({"union": union.space, **spaces}, synonyms)
    assert again.space == union.space
    assert again.tables == {"union": tuple(range(union.space.num_classes)), **union.tables}


@given(SPACES, SYNONYMS)
def test_a_union_is_mapped_onto_each_of_its_parts_without_a_word(spaces, synonyms):
    union = LabelUnion.build(spaces, synonyms)
    for space in spaces.values():
        if len({next(k for k in union.aliases if n in k) for n in space.names}) < space.num_classes:
            continue  # two of its classes are one in the union: which of them is meant has to be said
        others = {n: None for s in spaces.values() for n in s.names if not _means(union, n, space)}
        mapping = union.onto(space, others)
        assert mapping.reachable == set(range(space.num_classes))
        everything = np.arange(space.num_classes, dtype=np.uint8)[None]
        own = ClassMapping(space, union.space, union.tables[next(n for n, s in spaces.items() if s is space)])
        np.testing.assert_array_equal(mapping.translate(own.translate(everything)), everything)


def _means(union, name, space):
    return any(name in group and group & set(space.names) for group in union.aliases)


def test_a_mapping_translates_masks_and_what_is_missing_is_void():
    mapping = ClassMapping(named("road", "lane", "cat"), named("street", "sky"), (0, 0, -1))
    mask = np.array([[0, 1, 2, NOT_LABELLED, VOID]], np.uint8)
    np.testing.assert_array_equal(mapping.translate(mask), [[0, 0, VOID, NOT_LABELLED, VOID]])


def test_synonyms_of_groups_that_overlap_are_one():
    assert meanings([["a", "b"], ["c", "d"], ["b", "c"]]) == dict.fromkeys("abcd", frozenset("abcd"))


def test_everything_wrong_with_a_mapping_of_the_union_is_listed():
    union = LabelUnion.build({"a": named("road", "sky"), "b": named("lane", "cow")}, [["road", "lane"]])
    target = named("street", "sky", "path")
    with pytest.raises(ValueError, match=r"no class 'dog'.*no class 'ox'.*road: say which") as error:
        union.onto(target, {"dog": None, "cow": "ox"})
    assert "sky: say" not in str(error.value)
    with pytest.raises(ValueError, match="road: path and street; it is one class"):
        union.onto(target, {"road": "street", "lane": "path", "cow": None})
    assert union.onto(target, {"lane": "path", "cow": None}).table == (2, 1, -1)
    assert LabelUnion.build({"a": named("road")}, [["road", "path"]]).onto(target).table == (
        2,
    )  # a synonym of the target


# ── Fusion ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def softmax(values):
    top = max(values)
    powers = [math.exp(v - top) for v in values]
    return [p / sum(powers) for p in powers]


def fuse_by_loop(logits, likeness, tables, weight):
    """The formulas of `models.fusion` for one cell: lists of numbers, loops over heads and classes."""
    size = max(map(max, tables)) + 1
    flat = [(u, math.log(w)) for t, w in zip(tables, weight, strict=True) for u in t]
    mass = softmax(
        [max(s / TEMPERATURE + w for s, (v, w) in zip(likeness, flat, strict=True) if v == u) for u in range(size)]
    )
    scores = []
    for u in range(size):
        above = below = 0.0
        for k, table in enumerate(tables):
            if u not in table:
                continue
            share = sum(mass[v] for v in set(table))
            q = sum(p for p, v in zip(softmax(logits[k]), table, strict=True) if v == u)
            above += weight[k] * share * q
            below += weight[k]
        scores.append(above / below)
    return scores


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.sampled_from([[[0, 1, 2]], [[0, 1], [2, 3, 1]], [[0, 0, 1], [1, 2], [3]]]))
def test_fusion_is_the_formula(seed, tables):
    rng = np.random.default_rng(seed)
    logits = [rng.normal(0, 2, (2, len(t), 2, 3)) for t in tables]
    likeness = rng.uniform(-1, 1, (2, sum(map(len, tables)), 2, 3))
    log_weight = rng.normal(0, 2, (2, len(tables)))
    probabilities = fuse(
        [torch.tensor(part) for part in logits],
        torch.tensor(likeness, dtype=torch.float32),
        [torch.tensor(t) for t in tables],
        torch.tensor(log_weight, dtype=torch.float32),
    ).exp()
    for b, y, x in np.ndindex(2, 2, 3):
        cell = fuse_by_loop([part[b, :, y, x] for part in logits], likeness[b, :, y, x], tables, np.exp(log_weight[b]))
        np.testing.assert_allclose(probabilities[b, :, y, x], cell, rtol=2e-4, atol=1e-7)


def cell(*values):
    return torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)


def test_one_head_alone_says_what_it_says():
    logits = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    scores = fuse([logits], torch.rand(2, 4, 3, 5), [torch.arange(4)], torch.zeros(2, 1))
    torch.testing.assert_close(scores, logits.log_softmax(1))


def test_a_head_is_not_heard_about_a_class_that_it_does_not_have():
    """A second head for a part of the classes, with the same prototypes, leaves the score of the others as it is."""
    mine, near = cell(1.0, 0.2, -0.5), cell(0.1, 0.4, 0.3)
    alone = fuse([mine], near, [torch.arange(3)], torch.zeros(1, 1)).exp()
    near_both = cell(0.1, 0.4, 0.3, 0.1, 0.4)
    both = fuse([mine, cell(3.0, 0.0)], near_both, [torch.arange(3), torch.arange(2)], torch.zeros(1, 2)).exp()
    assert both[0, 2].item() == pytest.approx(alone[0, 2].item())
    assert both[0, 0] > alone[0, 0]


def test_prototypes_decide_between_heads_that_share_no_class():
    tables, logits = [torch.tensor([0, 1]), torch.tensor([2, 3])], [cell(5.0, 0.0), cell(0.0, 0.1)]
    near_second = fuse(logits, cell(-0.5, -0.5, 0.2, 0.6), tables, torch.zeros(1, 2))
    assert near_second.argmax(1).item() == 3
    near_first = fuse(logits, cell(0.6, 0.2, -0.5, -0.5), tables, torch.zeros(1, 2))
    assert near_first.argmax(1).item() == 0


def test_a_head_that_fits_badly_keeps_its_say_where_it_is_alone():
    scores = fuse(
        [cell(0.0, 0.0), cell(0.0, 9.0)],
        cell(0.0, 0.0, 0.0, 0.9),
        [torch.tensor([0, 1]), torch.tensor([0, 2])],
        torch.tensor([[0.0, -300.0]]),
    )
    assert scores.isfinite().all()
    assert scores.exp()[0, 2].item() == pytest.approx(0.5, abs=1e-3)  # it is known where "0" is near, and sure of "2"


def test_similarity_is_the_cosine_around_the_origin_and_absent_classes_are_never_near():
    rng = torch.Generator().manual_seed(3)
    features, origin = torch.randn(2, 4, 3, 2, generator=rng), torch.randn(4, generator=rng)
    vectors = torch.nn.functional.normalize(torch.randn(3, 4, generator=rng), dim=1)
    vectors[1] = 0
    likeness = similarity(features, vectors, origin)
    for b, y, x in np.ndindex(2, 3, 2):
        v = features[b, :, y, x] - origin
        for g in (0, 2):
            assert likeness[b, g, y, x].item() == pytest.approx((v @ vectors[g] / v.norm()).item(), abs=1e-5)
    assert (likeness[:, 1] == ABSENT).all()
    part = shares(likeness)
    cells = [softmax([likeness[1, g, y, x].item() / TEMPERATURE for g in range(3)]) for y, x in np.ndindex(3, 2)]
    np.testing.assert_allclose(part[1], np.mean(cells, 0), atol=1e-5)
    usual = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.0, 0.5]])
    np.testing.assert_allclose(distance(part, usual)[1], [math.dist(part[1], row) for row in usual], atol=1e-5)


# ── Prototypes of a network ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def of():
    return helpers.domains(3, 4, labelled=3)


@pytest.fixture(scope="module")
def network(of):
    return helpers.model(of, seed=4).eval()


def test_prototypes_are_the_mean_features_of_the_labelled_cells(of, network):
    prototypes = make_prototypes(network, of, workers=0, precision="fp32")
    means, cells = {}, {}
    for name, domain in of.items():
        cells[name] = []
        for stem in domain.labelled:
            image = torch.from_numpy(domain.image(stem)).permute(2, 0, 1)[None]
            with torch.no_grad():
                features = network.encode(image)[0]
            label = at_stride(torch.from_numpy(domain.mask(stem))[None], network.stride, network.multiple)[0]
            cells[name].append((features.flatten(1).T, label.flatten()))
        for c in range(domain.space.num_classes):
            chosen = [f for features, label in cells[name] for f, v in zip(features, label, strict=True) if v == c]
            means[name, c] = torch.stack(chosen).double().mean(0)
    origin = torch.stack(list(means.values())).mean(0)
    torch.testing.assert_close(prototypes.origin, origin.float())
    expected = {}
    for (name, c), mean in means.items():
        expected[name, c] = (mean - origin) / (mean - origin).norm()
        torch.testing.assert_close(prototypes.vectors[name][c], expected[name, c].float(), atol=1e-4, rtol=1e-3)
    every = torch.stack(list(expected.values()))
    within = []
    for k, name in enumerate(of):
        parts = []
        for features, _ in cells[name]:
            directions = torch.nn.functional.normalize(features.double() - origin, dim=1)
            parts.append((directions @ every.T / TEMPERATURE).softmax(1).mean(0))
        usual = torch.stack(parts).mean(0)
        np.testing.assert_allclose(prototypes.usual[k], usual, atol=1e-4)
        far = [(part - usual).norm().item() for part in parts]
        assert prototypes.typical[k].item() == pytest.approx(np.mean(far), abs=1e-4)
        within += [f - np.mean(far) for f in far]
    assert prototypes.spread.item() == pytest.approx(max(np.sqrt(np.mean(np.square(within))), 0.01), abs=1e-4)


def test_a_domain_without_labels_has_no_prototypes(of, network):
    bare = helpers.domain("b", 4, labelled=0)
    assert list(make_prototypes(network, {"a": of["a"], "b": bare}, workers=0).vectors) == ["a"]
    with pytest.raises(ValueError, match="no labelled pixels in b"):
        make_prototypes(network, {"b": bare}, workers=0)


def test_prototypes_are_those_that_the_run_wrote(of, network, tmp_path):
    prototypes, run = make_prototypes(network, of, workers=0), RunFolder(tmp_path)
    helpers.saved(network, tmp_path)
    save_prototypes(tmp_path, prototypes)
    runfolders.write(run.summary, runfolders.summary({}, weights=run.digests([run.weights, run.prototypes])))
    again = load_prototypes(tmp_path, network)
    assert helpers.same(again.vectors, prototypes.vectors)
    assert all(torch.equal(getattr(again, n), getattr(prototypes, n)) for n in VALUES)
    save_prototypes(tmp_path, make_prototypes(helpers.model(of, seed=5), of, workers=0))
    with pytest.raises(ValueError, match=r"prototypes\.safetensors: differs from what the run wrote"):
        load_prototypes(tmp_path, network)


# ── Fused and auto ───────────────────────────────────────────────────────────────────────────────────────────────────


def toy():
    """Two domains whose features are told apart by colour: red images and blue ones, with two classes each, "dark" and
    "light", of which "light" is one for both. The network's features are the colours themselves."""
    spaces = {"red": named("rust", "light"), "blue": named("sea", "light")}
    model = UniversalSegmenter(helpers.model_settings(), spaces, seed=0).eval()
    model.channels, model.stride, model.multiple = 3, 1, 1
    model.features = torch.nn.Identity()
    for name, weights in {"red": [[-1.0, 0, 0], [1.0, 0, 0]], "blue": [[0, 0, -1.0], [0, 0, 1.0]]}.items():
        head = torch.nn.Conv2d(3, 2, 1)
        with torch.no_grad():
            head.weight.copy_(torch.tensor(weights)[:, :, None, None])
            head.bias.zero_()
        model.heads[f"of_{name}"] = head
    colours = {"red": ((90, 10, 10), (250, 120, 120)), "blue": ((10, 10, 90), (120, 120, 250))}
    domains = {}
    for number, name in enumerate(colours):
        rng = np.random.default_rng(number)
        made = helpers.domain(name, 2, images=6, labelled=4, size=(8, 8))
        for stem in made.splits["train"]:
            mask = rng.integers(0, 2, (8, 8)).astype(np.uint8)
            mask[0, 0] = VOID
            noise = rng.integers(-9, 9, (8, 8, 3))
            made.source.images[stem] = (
                (np.array(colours[name])[np.minimum(mask, 1)] + noise).clip(0, 255).astype(np.uint8)
            )
            made.source.masks[stem] = mask
        stems = made.splits["train"]
        domains[name] = replace(made, space=spaces[name], splits={"train": stems[:4], "test": stems[4:]})
    return model, domains


@pytest.fixture(scope="module")
def colours():
    model, domains = toy()
    return Fused(model, make_prototypes(model, domains, workers=0, precision="fp32")), domains


def chosen(fused, image):
    return choices(fused, fused.excess(fused.similarity(fused.encode(image))))


def test_auto_picks_the_domain_that_an_image_is_of(colours):
    fused, domains = colours
    for name, domain in domains.items():
        image = torch.from_numpy(np.stack([domain.image(s) for s in domain.splits["test"]])).permute(0, 3, 1, 2)
        picks = chosen(fused, image)
        assert [c.domain for c in picks] == [name] * 2
        assert not any(c.ambiguous for c in picks)
        other = next(n for n in domains if n != name)
        assert all(c.margin == pytest.approx(c.excess[other] - c.excess[name]) for c in picks)
    between = torch.full((1, 3, 8, 8), 100.0)
    assert chosen(fused, between)[0].margin < picks[0].margin


def test_every_head_is_scored_and_the_fused_one_knows_all_classes(colours):
    fused, domains = colours
    result = every_head(fused, domains["blue"], {"rust": None}, "test", workers=0, precision="fp32")
    heads = result["heads"]
    assert list(heads) == ["red", "blue", FUSED, AUTO]
    assert result["chosen"] == {"red": 0, "blue": 2}
    assert heads["blue"]["miou"] == heads[AUTO]["miou"] == 1
    assert result["avg_miou"] == result["domains"]["blue"]["miou"] == heads[FUSED]["miou"] == 1
    assert heads["red"]["unreachable"] == ["sea"]
    assert heads["red"]["iou"]["sea"] is None
    # What the head cannot name counts as 0 where heads are compared.
    assert heads["red"]["miou_union"] == pytest.approx(heads["red"]["iou"]["light"] / 2)


def test_every_head_refuses_what_leaves_something_open(colours):
    fused, domains = colours
    with pytest.raises(ValueError, match="rust: say which class"):
        every_head(fused, domains["blue"], None, "test", workers=0)
    with pytest.raises(ValueError, match="no class of any head is mapped to blue"):
        every_head(fused, domains["blue"], dict.fromkeys(["rust", "light", "sea"]), "test", workers=0)
    with pytest.raises(ValueError, match="no images in split 'val'"):
        every_head(fused, domains["blue"], {"rust": None}, "val", workers=0)


def test_auto_answers_in_the_union_with_the_classes_of_the_chosen_head(colours):
    fused, domains = colours
    image = torch.from_numpy(domains["red"].image("red-5")).permute(2, 0, 1)[None]
    of_red = torch.tensor(fused.union.tables["red"])[fused(image, "red").argmax(1)]
    torch.testing.assert_close(fused(image, AUTO).argmax(1), of_red)


def test_of_one_domain_fused_is_its_head(of, network):
    alone = make_prototypes(network, {"a": of["a"]}, workers=0)
    fused = Fused(network, alone)
    image = torch.from_numpy(of["a"].image("a-4")).permute(2, 0, 1)[None]
    with torch.inference_mode():
        torch.testing.assert_close(fused(image, FUSED).argmax(1), fused(image, "a").argmax(1))


def test_a_domain_may_not_be_called_as_all_together(of):
    network = helpers.model({"fused": of["a"], "b": of["b"]})
    none = Prototypes({"b": torch.zeros(4, 3)}, torch.zeros(3), torch.zeros(1, 4), torch.zeros(1), torch.ones(()))
    with pytest.raises(ValueError, match="a domain is called fused"):
        Fused(network, none)


def test_a_run_of_one_domain_has_nothing_to_fuse(of, tmp_path):
    from ondisk import config, two_domains

    from fewmask.engine.run import begin_run

    with begin_run(RunFolder(tmp_path / "run"), config(two_domains(tmp_path / "data"))):
        pass
    helpers.saved(helpers.model({"a": of["a"]}), tmp_path / "run")
    with pytest.raises(ValueError, match="one domain, a; there is nothing to choose from"):
        load_fused(tmp_path / "run")
