"""CyCADA (Hoffman et al., ICML 2018): each term against a loop, whom it moves and where to, what its translators make
of domains that differ in colour, and whose labels nobody looks at.

Shapes: B rows of a batch · K domains, C_k classes of domain k · H×W pixels · N places of a history.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import ArraySource, batch, domain, domains, model, relabelled, run, same, steps, to_last, train_settings
from ondisk import plain, two_domains
from semi_supervised import opinionated, rng
from test_hung2018 import gradients
from torch import Tensor, nn

from fewmask.config import TranslatorSettings
from fewmask.data.batch import Batch, mean_counts
from fewmask.data.domain import Domain
from fewmask.engine.fit import train
from fewmask.engine.run import load_model
from fewmask.labels import NOT_LABELLED, VOID
from fewmask.methods import METHODS, parse_config
from fewmask.methods.common.adaptation import begin_as_sources
from fewmask.methods.cycada import Cycada
from fewmask.models.translation import Translation
from fewmask.models.universal import UniversalSegmenter, at_stride
from fewmask.runs import RunFolder

SMALL = {"channels": 4, "blocks": 1, "patch": 16, "discriminator_channels": 4, "history": 3}
WEIGHTS = {"adversarial": 0.5, "cycle": 3.0, "identity": 2.0, "semantic": 0.7, "features": 0.2}


def method(of: dict[str, Domain], **options: Any) -> Cycada:
    options = {**to_last(of), "channels": 4, "translator": SMALL, **WEIGHTS, **options}
    made = Cycada(Cycada.Settings.model_validate(options), of)
    assert isinstance(made, Cycada)
    return made


def prepared(of: dict[str, Domain], network: UniversalSegmenter, **options: Any) -> Cycada:
    """In eval mode, where rows do not meet in batch normalisation."""
    made = method(of, **options)
    made.prepare(opinionated(network), rng())
    network.eval()
    return made


def drawn(of: dict[str, Domain], network: UniversalSegmenter, made: Cycada, step: int, **rows: int) -> Batch:
    """Of 8 steps: 2 of the source, 3 of the translators, 3 of the adaptation. Void and holes in the labelled rows, void
    and an answer in the pool's."""
    settings = train_settings(**{"batch_size": 4, "unlabelled_batch_size": 3, **rows})
    (part,) = steps(of, made.phases(8), settings, network)[step]
    label = part.label.clone()
    label[0, 20:, :10] = NOT_LABELLED
    label[1, :9] = VOID
    if part.pool < len(label):
        label[-1, 10:20, 5:15] = 1
        label[-2, :, 25:] = VOID
    return relabelled(part, label, network)


# ── The terms ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("classes", [(3, 4), (3, 2, 4)])
def test_the_translators_terms_equal_a_loop(classes: tuple[int, ...]) -> None:
    of = domains(*classes)
    network = model(of)
    made = prepared(of, network)
    assert made.frozen is not None
    opinionated(made.frozen.model)
    made.translations.requires_grad_(True)
    part = drawn(of, network, made, step=3)
    got = {n: t.item() for n, t in made.step(network, part, rng()).items()}
    names, target = list(of), len(of) - 1
    expected = dict.fromkeys(got, 0.0)
    with torch.no_grad():
        for k, pair in enumerate(made.translations):
            assert isinstance(pair, Translation)
            for side, way in zip((k, target), pair.ways(), strict=True):
                sums: dict[str, list[float]] = {n: [] for n in got}
                for row in torch.nonzero(part.domain == side).flatten():
                    x, shown = part.image[row : row + 1].float(), part.label[row] != VOID
                    v = way.translator(x)
                    believed, real = way.other_judge(v)[0], way.own_judge(x)[0]
                    cycle = (way.inverse(v) - x).abs()[0].mean(0) / 127.5
                    identity = (way.inverse(x) - x).abs()[0].mean(0) / 127.5
                    before = made.frozen.model(x, names[k])[0].argmax(0)
                    after = made.frozen.model(v, names[k])[0].log_softmax(0)
                    for y, z in shown.nonzero().tolist():
                        fake = believed[y, z].item()  # the first images of a history are shown at once
                        sums["adversarial"].append((fake - 1) ** 2)
                        sums["translation"].append(((real[y, z].item() - 1) ** 2 + fake**2) / 2)
                        sums["cycle"].append(cycle[y, z].item())
                        sums["identity"].append(identity[y, z].item())
                        sums["semantic"].append(-after[before[y, z], y, z].item())
                for name, values in sums.items():
                    expected[name] += WEIGHTS.get(name, 1.0) * sum(values) / len(values)
    assert got == pytest.approx(expected, rel=1e-4)
    assert expected["semantic"] > 0.01


@pytest.mark.parametrize("classes", [(3, 4), (3, 2, 4)])
def test_the_adaptations_terms_equal_a_loop(classes: tuple[int, ...]) -> None:
    of = domains(*classes)
    network = model(of)
    made = prepared(of, network)
    part = drawn(of, network, made, step=6)
    got = {n: t.item() for n, t in made.step(network, part, rng()).items()}
    names, target = list(of), len(of) - 1
    named = to_last(of)["classes"]
    task: dict[int, list[float]] = {k: [] for k in range(target)}
    own: dict[int, list[float]] = {k: [] for k in range(target)}
    counts = dict.fromkeys(range(target), 0)
    judged: dict[int, list[float]] = {k: [] for k in range(len(of))}
    fooled = []
    assert made.judge is not None
    with torch.no_grad():
        for row, k in enumerate(part.domain.tolist()):
            image, label = part.image[row : row + 1].float(), part.label[row]
            if k != target:
                pair = made.translations[k]
                assert isinstance(pair, Translation)
                image = pair.to_target(image)
            features = network.encode(image)
            verdict = made.judge(features)[0, 0].sigmoid()
            cells = at_stride(label[None], network.stride, network.multiple)[0]
            for y, x in (cells != VOID).nonzero().tolist():
                p = verdict[y, x].item()
                judged[k].append(-math.log(1 - p if k == target else p))
                if k == target:
                    fooled.append(-math.log(p))
            if k == target:
                continue
            theirs = network.upsample(network.decode(features, names[target]), (32, 32))[0].log_softmax(0)
            ours = network.upsample(network.decode(features, names[k]), (32, 32))[0].log_softmax(0)
            for y, x in (label < NOT_LABELLED).nonzero().tolist():
                value = int(label[y, x])
                counts[k] += 1
                own[k].append(-ours[value, y, x].item())
                to = named[names[k]][of[names[k]].space.names[value]]
                if to is not None:
                    task[k].append(-theirs[of[names[target]].space.names.index(to), y, x].item())
    expected = {
        "task": sum(sum(task[k]) / counts[k] for k in task),
        "source": sum(sum(own[k]) / counts[k] for k in own),
        "features": WEIGHTS["features"] * sum(fooled) / len(fooled),
        "discriminator": sum(sum(values) / len(values) for values in judged.values()) / 2,
    }
    assert got == pytest.approx(expected, rel=1e-4)
    assert 0 < sum(map(len, task.values())) < sum(counts.values())
    assert 0 <= float(made.metrics["domain_accuracy"]) <= 1


def test_the_source_is_trained_as_joint_training_is() -> None:
    of = domains(3, 4)
    one, other = model(of), model(of)
    first = run(method(of), one, of, 8, train_settings(unlabelled_batch_size=2))[:2]
    alone = METHODS["supervised"](METHODS["supervised"].Settings.model_validate({"domain": "a"}), of)
    assert first == run(alone, other, of, 2)


# ── Whom a term moves ────────────────────────────────────────────────────────────────────────────────────────────────


def test_each_term_moves_its_own_players() -> None:
    of = domains(3, 4)
    network = model(of)
    made = prepared(of, network)
    terms = made.step(network, drawn(of, network, made, step=3), rng())
    for name, term in terms.items():
        assert not gradients(network, term), name
        parts = {n.split(".")[2] for n in gradients(made, term)}
        translators = {"to_source", "to_target"}
        assert parts == ({"of_source", "of_target"} if name == "translation" else translators), name
    terms = made.step(network, drawn(of, network, made, step=6), rng())
    for name, term in terms.items():
        of_network = {".".join(n.split(".")[:2]) for n in gradients(network, term)}
        of_others = {n.split(".")[0] for n in gradients(made, term)}
        assert of_others == ({"judge"} if name == "discriminator" else set()), name
        assert {n for n in of_network if n.startswith("heads")} == (
            {"task": {"heads.of_b"}, "source": {"heads.of_a"}}.get(name, set())
        ), name
        assert any(n.startswith("features") for n in of_network) == (name in ("task", "features")), name


def test_the_gradients_have_the_right_sign() -> None:
    """A step down a player's term makes fakes look more real to the judge; one down the judge's parts them from what
    is real."""
    of = domains(3, 4)
    network = model(of)
    made = prepared(of, network)

    def of_images() -> tuple[float, float]:
        pair = made.translations[0]
        assert isinstance(pair, Translation)
        with torch.no_grad():
            real, fake = first.image[first.pool :], pair.to_target(first.image[: first.pool])
            return float(pair.of_target(fake).mean()), float(pair.of_target(real).mean())

    def of_features() -> tuple[float, float]:
        assert made.judge is not None
        with torch.no_grad():
            verdict = made.judge(network.encode(made.translated(later))).sigmoid()
            return float(verdict[later.pool :].mean()), float(verdict[: later.pool].mean())

    def after(module: nn.Module, part: Batch, name: str) -> tuple[float, float]:
        before = {n: v.clone() for n, v in module.state_dict().items()}
        moved = gradients(module, made.step(network, part, rng())[name])
        length = torch.cat([g.flatten() for g in moved.values()]).norm()
        with torch.no_grad():
            for n, p in module.named_parameters():
                if n in moved:
                    p -= 1e-2 * moved[n] / length
        scores = of_images() if part is first else of_features()
        module.load_state_dict(before)
        return scores

    first, later = drawn(of, network, made, step=3), drawn(of, network, made, step=6)
    for measure, part, player, fooling, telling in (
        (of_images, first, made, "adversarial", "translation"),
        (of_features, later, network, "features", "discriminator"),
    ):
        fake, real = measure()
        assert after(player, part, fooling)[0] > fake + 1e-5
        new_fake, new_real = after(made, part, telling)
        assert new_real - new_fake > real - fake + 1e-5


def test_frozen_parts_stay_frozen() -> None:
    """While the translators learn the network stands still, and while it does, they; f_S is what the network was."""
    of = domains(3, 4)
    network, made = model(of), method(of)
    states: list[dict[str, dict[str, Tensor]]] = []
    step = made.step

    def watched(*arguments: Any) -> dict[str, Tensor]:
        assert made.frozen is not None
        parts = {"network": network, "translations": made.translations, "frozen": made.frozen.model}
        states.append({n: {k: v.clone() for k, v in p.state_dict().items()} for n, p in parts.items()})
        return step(*arguments)

    made.step = watched  # type: ignore[method-assign]
    run(made, network, of, 8, train_settings(unlabelled_batch_size=2))

    def still(name: str, *at: int) -> bool:
        weights = [{k: v for k, v in states[i][name].items() if "images" not in k and "added" not in k} for i in at]
        return all(same(weights[0], other) for other in weights[1:])

    assert still("translations", 0, 1, 2)
    assert not still("translations", 2, 3)
    assert not still("translations", 4, 5)
    assert still("translations", 5, 6, 7)
    assert still("network", 2, 3, 4)
    assert same(states[2]["frozen"], states[2]["network"])
    assert still("frozen", 2, 3, 4, 5, 6, 7)
    assert not still("network", 5, 6)


# ── What nobody looks at ─────────────────────────────────────────────────────────────────────────────────────────────


def test_no_label_of_the_target_is_looked_at() -> None:
    of = domains(3, 4, images=8, labelled=4)
    network = model(of)
    source = of["b"].source
    assert isinstance(source, ArraySource)
    wrong = {s: np.where(m < NOT_LABELLED, 3 - m % 4, m).astype(np.uint8) for s, m in source.masks.items()}
    other = {**of, "b": replace(of["b"], source=ArraySource(source.images, wrong))}
    bare = {**of, "b": replace(of["b"], labelled=(), splits={"train": of["b"].unlabelled})}
    histories = [
        run(method(data), model(data), data, 8, train_settings(unlabelled_batch_size=2)) for data in (of, other, bare)
    ]
    assert histories[0] == histories[1] == histories[2]
    made = prepared(of, network)
    for step in (3, 6):
        part = drawn(of, network, made, step)
        label = part.label.clone()
        hidden = torch.where(label[part.pool :] == VOID, VOID, NOT_LABELLED)
        answered = torch.where(label[part.pool :] == VOID, VOID, 2).to(torch.uint8)
        terms = []
        for answers in (hidden, answered):
            label[part.pool :] = answers
            for pair in made.translations:
                assert isinstance(pair, Translation)
                pair.forget()
            losses = made.step(network, relabelled(part, label, network), rng())
            terms.append({n: t.item() for n, t in losses.items()})
        assert terms[0] == terms[1]


@pytest.mark.parametrize("step", [3, 6])
def test_void_never_enters(step: int) -> None:
    of = domains(3, 4)
    network = model(of)
    made = prepared(of, network)
    part = drawn(of, network, made, step)
    terms = made.step(network, relabelled(part, torch.full_like(part.label, VOID), network), rng())
    assert all(t.item() == 0 for t in terms.values())
    torch.stack(list(terms.values())).sum().backward()
    assert not any(p.grad.any() for p in [*network.parameters(), *made.parameters()] if p.grad is not None)


# ── The method's idea ────────────────────────────────────────────────────────────────────────────────────────────────

LIGHT = (np.array([0.5, 0.9, 0.6]), np.array([0, 10, 90]))


def two_lights() -> tuple[Tensor, Tensor]:
    """Images (8,3,24,24) of one world, and others of it with less red and more blue."""
    source = domain("a", 3, images=16, seed=1).source
    assert isinstance(source, ArraySource)
    day = np.stack(list(source.images.values()))[:, :24, :24]
    night = (day * LIGHT[0] + LIGHT[1]).clip(0, 255).astype(np.uint8)
    one, other = (torch.from_numpy(images).permute(0, 3, 1, 2) for images in (day[:8], night[8:]))
    return one, other


@pytest.mark.slow
def test_translation_finds_the_light_of_the_target_and_the_way_back() -> None:
    day, night = two_lights()
    of = domains(3, 3)
    settings = TranslatorSettings(channels=8, blocks=1, patch=16, discriminator_channels=8)
    made, draw = method(of, semantic=0, adversarial=1, cycle=10, identity=5), rng()
    pair, shown = Translation(settings, draw), torch.ones(4, 24, 24, dtype=torch.bool)
    optimiser = torch.optim.Adam(pair.parameters(), lr=4e-3, betas=(0.5, 0.999))
    for _ in range(120):
        optimiser.zero_grad()
        for images, way in zip((day, night), pair.ways(), strict=True):
            rows = torch.randperm(8, generator=draw)[:4]
            terms = made._one_way(way, "a", images[rows], shown, shown.sum(), draw)
            torch.stack(list(terms.values())).sum().backward()
        optimiser.step()
    with torch.no_grad():
        fake = pair.to_target(day)
        cycle = (pair.to_source(fake) - day).abs().mean()

    def colour(images: Tensor) -> Tensor:
        return images.float().mean((0, 2, 3))

    assert (colour(fake) - colour(night)).norm() < (colour(day) - colour(night)).norm() / 4
    assert cycle < 30
    # Not the colour alone: each pixel becomes what it would be at night.
    truth = day.movedim(1, -1).numpy() * LIGHT[0] + LIGHT[1]
    there, before = (np.abs(images.movedim(1, -1).numpy() - truth).mean() for images in (fake, day.float()))
    assert there < before / 2


def test_semantic_consistency_keeps_what_the_network_sees() -> None:
    of = domains(3, 4)
    network = model(of)
    made = prepared(of, network)
    assert made.frozen is not None
    f_s = made.frozen.model
    image, way = two_lights()[0][:4].float(), made.translations[0].ways()[0]  # type: ignore[operator]
    optimiser = torch.optim.Adam(way.translator.parameters(), lr=1e-2)
    with torch.no_grad():
        classes = f_s(image, "a").argmax(1)
    agreement = []
    for _ in range(12):
        shown = torch.ones(4, 24, 24, dtype=torch.bool)
        optimiser.zero_grad()
        made._one_way(way, "a", image, shown, shown.sum(), rng())["semantic"].backward()
        optimiser.step()
        with torch.no_grad():
            agreement.append(float((f_s(way.translator(image), "a").argmax(1) == classes).float().mean()))
    assert agreement[-1] > max(0.8, agreement[0])


def test_the_target_begins_with_the_heads_of_its_sources() -> None:
    of = domains(3, 2, 4)
    network = model(of)
    before = {n: p.clone() for n, p in network.heads.named_parameters()}
    made = method(of)
    begin_as_sources(network, made.mappings, "c")
    after = dict(network.heads.named_parameters())
    for name in ("weight", "bias"):
        one, two, own = (before[f"of_{d}.{name}"] for d in "abc")
        now = after[f"of_c.{name}"]
        # Class 0 and 1 are those of both sources; class 2 of a is none; class 2 and 3 are nobody's.
        torch.testing.assert_close(now, torch.stack([(one[0] + two[0]) / 2, (one[1] + two[1]) / 2, own[2], own[3]]))


# ── Runs ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_target_without_masks_to_score_it_on(tmp_path: Path) -> None:
    data = two_domains(tmp_path / "data")
    for mask in (data / "b" / "labels").iterdir():
        if mask.stem != "train0":  # a domain on disk is one with a mask
            mask.unlink()
    for split in ("val", "test"):
        (data / "b" / "splits" / f"{split}.txt").unlink()
    options = {"name": "cycada", "translator": SMALL, "channels": 4}
    settings = plain(data, options, steps=4)
    summary = train(parse_config(settings), tmp_path / "run")
    assert list(summary["domains"]) == ["a"]
    assert (summary["labelled"], summary["unlabelled"]) == ({"a": 4, "b": 1}, {"a": 2, "b": 5})
    assert load_model(tmp_path / "run").domains == ("a", "b")
    assert RunFolder(tmp_path / "run").module_weights("translator").exists()


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({"translate": 0}, {"discriminator"}),
        ({"features": 0}, {"translation"}),
        ({"translate": 0, "features": 0}, set()),
        ({"pretrain": 0, "semantic": 0}, {"translation", "discriminator"}),
    ],
)
def test_parts_of_it_alone(options: dict[str, Any], left: set[str]) -> None:
    of = domains(3, 4)
    network, made = model(of), method(of, **options)
    history = run(made, network, of, 4, train_settings(unlabelled_batch_size=2))
    assert set(made.optimisers()) == left
    assert set(made.extra_modules(network)) == ({"translator"} if "translation" in left else set())
    assert all(math.isfinite(v) for terms in history for v in terms.values())
    assert ("features" in history[-1]) == ("discriminator" in left)


@pytest.mark.parametrize("step", [3, 6])
def test_micro_batches_equal_one_batch_however_the_labels_lie(step: int) -> None:
    of = domains(3, 2, 4)
    network = model(of)
    made = prepared(of, network, translator={**SMALL, "history": 0})
    whole = drawn(of, network, made, step, unlabelled_batch_size=4)
    expected = {n: t.item() for n, t in made.step(network, whole, rng()).items()}
    cut = []
    for part in range(2):  # one source each
        rows = [*range(part, 4, 2), *range(4 + part, 8, 2)]
        owned = list(zip(whole.domain[rows].tolist(), whole.label[rows], strict=True))
        cut.append(batch(owned, whole.image[rows], network, 3, step=step, of=8, pool=2, phase=whole.phase))
    counts = mean_counts(cut)
    got: dict[str, float] = dict.fromkeys(expected, 0.0)
    for one in cut:
        for name, term in made.step(network, replace(one, counts=counts), rng()).items():
            got[name] += term.item() / 2
    assert got == pytest.approx(expected, rel=1e-4)


# ── What it cannot do ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": None}, "method.target: missing; name the domain to adapt to, one of a, b"),
        ({"target": "z"}, "method.target: no domain 'z'; there are a, b"),
        ({"classes": {}}, "method.classes.a: class mapping: a0: say which class it is, or `null` if there is none; a1"),
        (
            {"classes": {"b": {}, "a": dict.fromkeys(["a0", "a1", "a2"])}},
            "method.classes: 'b' is no source; these are a",
        ),
        ({"classes": {"a": dict.fromkeys(["a0", "a1", "a2"])}}, "method.classes.a: none of its classes is mapped to b"),
        ({"pretrain": 0.5, "translate": 0.5}, "with pretrain 0.5 no step is left to adapt in"),
        ({"pretrain": 0}, "with pretrain 0 there is no f_S for the semantic term"),
    ],
)
def test_settings_that_do_not_fit_the_domains_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        method(domains(3, 4), **options)


def test_one_domain_alone_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"method.target: .* there is only one domain \(a\); add another one to `domains`"
    ):
        Cycada(Cycada.Settings(), domains(3))


def test_the_target_goes_without_saying_where_one_domain_alone_has_no_label() -> None:
    of = domains(3, 4)
    of["b"] = replace(of["b"], labelled=())
    assert method(of, target=None).target == "b"
