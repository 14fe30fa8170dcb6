"""S4AL+'s generation of self-training: what it draws, what its terms are, and that a student resumes.

Shapes: B rows of a batch · C_k classes of domain k · D size of the representation · h×w cells.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ArraySource, batch, domain, domains, model, relabelled, run, same, steps, train_settings
from ondisk import assert_same_run, config, plain, two_domains
from torch import Tensor, nn

from fewmask.config import NoiseSettings
from fewmask.data.batch import Batch, PixelCounts
from fewmask.data.domain import Domain
from fewmask.data.pseudo import HUMAN, STEPS, PseudoFolder, quantise
from fewmask.engine.fit import ProgressEvent, train
from fewmask.engine.run import load_domains
from fewmask.labels import NOT_LABELLED, VOID, Mask
from fewmask.losses.regional_contrast import regional_contrast
from fewmask.methods import SETTINGS, build, parse_config
from fewmask.methods.s4al_plus import S4alPlus
from fewmask.models.universal import UniversalSegmenter

SMALL = {"queries": 16, "negatives": 8, "sets": 4, "dim": 12}


@dataclass
class Pseudo:
    """Pseudo-labels in memory."""

    of: Mapping[str, tuple[Mask, np.ndarray]]

    def read(self, stem: str) -> tuple[Mask, np.ndarray]:
        return self.of[stem]


def with_pseudo(of: Domain, seed: int = 0) -> Domain:
    """The domain with pseudo-labels of its pool: any class, of any confidence, in blocks of 4×4 pixels."""
    rng = np.random.default_rng(seed)

    def blocks(top: int) -> np.ndarray:
        height, width = of.image(of.splits["train"][0]).shape[:2]
        values = rng.integers(0, top, (-(-height // 4), -(-width // 4)))
        return np.kron(values, np.ones((4, 4), int))[:height, :width].astype(np.uint8)

    return replace(of, pseudo=Pseudo({s: (blocks(of.space.num_classes), blocks(STEPS + 1)) for s in of.unlabelled}))


def students(*classes: int, **options: int) -> dict[str, Domain]:
    return {n: with_pseudo(d) for n, d in domains(*classes, **options).items()}


def s4al_plus(of: dict[str, Domain], **options: object) -> S4alPlus:
    made = build(SETTINGS["s4al-plus"].model_validate({"name": "s4al-plus", "contrast": SMALL, **options}), of, 4)
    assert isinstance(made, S4alPlus)
    return made


def drawn(of: dict[str, Domain], made: S4alPlus, network: UniversalSegmenter, step: int = 0) -> Batch:
    settings = train_settings(batch_size=2 * len(of), unlabelled_batch_size=4 * len(of))
    (part,) = steps(of, made.phases(4), settings, network)[step]
    return part


def in_eval(made: S4alPlus, network: UniversalSegmenter, part: Batch, seed: int = 5) -> dict[str, Tensor]:
    """The terms where rows do not meet in batch normalisation."""
    network.eval()
    made.eval()
    return made.step(network, part, torch.Generator().manual_seed(seed))


def prepared(of: dict[str, Domain], network: UniversalSegmenter, **options: object) -> S4alPlus:
    made = s4al_plus(of, **options)
    made.prepare(network, torch.Generator().manual_seed(1))
    return made


# ── Who is drawn, and with which labels ──────────────────────────────────────────────────────────────────────────────


def test_a_campaign_writes_pseudo_labels_for_it() -> None:
    assert SETTINGS["s4al-plus"].self_training


def test_without_pseudo_labels_it_is_the_first_teacher_and_with_them_a_student() -> None:
    of = domains(3, 4)
    (teacher,) = s4al_plus(of).phases(8)
    assert (teacher.name, teacher.labelled, teacher.unlabelled, teacher.whole) == ("teacher", ("a", "b"), (), False)
    of["b"] = with_pseudo(of["b"])
    (student,) = s4al_plus(of, confidence=0.6).phases(8)
    assert (student.name, student.labelled, student.unlabelled) == ("student", ("a", "b"), ("b",))
    assert (student.whole, student.pseudo, student.noise) == (True, 0.6, NoiseSettings())
    assert (student.start, student.stop) == (0, 8)


def test_no_answer_is_left_out_and_no_empty_pool_is_drawn_from() -> None:
    of = students(3, 4, 2)
    # All of b is labelled by now; a has answers in two images, but nobody wrote pseudo-labels for it.
    of["b"] = replace(domain("b", 4, labelled=6), pseudo=of["b"].pseudo)
    of["a"] = replace(of["a"], pseudo=None, partial={of["a"].labelled[0]: 0.1})
    (student,) = s4al_plus(of).phases(4)
    assert student.unlabelled == ("a", "c")


def test_labels_of_the_pool_are_answers_else_sure_pseudo_labels_else_none() -> None:
    plainly = domain("a", 3, images=5, labelled=2)
    source = plainly.source
    assert isinstance(source, ArraySource)
    stem = plainly.labelled[0]
    answers = np.full((40, 52), NOT_LABELLED, np.uint8)
    answers[:, :20], answers[:, 20:24] = 1, VOID
    source = ArraySource(source.images, {**source.masks, stem: answers})
    of = {"a": replace(plainly, source=source, partial={stem: 20 / 52})}
    # Sure ones say 0, those just below the threshold say 2.
    sure = np.indices((40, 52)).sum(0) % 2 == 0
    both = np.where(sure, 0, 2).astype(np.uint8), quantise(np.where(sure, 0.7001 + 1 / STEPS, 0.6999))
    of["a"] = replace(of["a"], pseudo=Pseudo(dict.fromkeys(of["a"].unlabelled, both)))

    made = s4al_plus(of, noise={"strong": None, "cutout": None})
    data = steps(of, made.phases(4), train_settings(batch_size=2, unlabelled_batch_size=4), model(of))
    values: dict[str, set[int]] = {"answered": set(), "pool": set()}
    for step in range(4):
        (part,) = data[step]
        assert part.confidence is not None
        assert stem not in "".join(part.names[: part.pool])  # a whole image is drawn as the labelled one
        for name, label, confidence in zip(
            part.names[part.pool :], part.label[part.pool :], part.confidence[part.pool :], strict=True
        ):
            values["answered" if stem in name else "pool"] |= set(label.unique().tolist())
            person = (label == 1) | ((label == VOID) & (confidence == HUMAN))
            assert torch.equal(person, confidence == HUMAN)
    assert values == {"answered": {0, 1, NOT_LABELLED, VOID}, "pool": {0, NOT_LABELLED}}


def test_holes_are_void() -> None:
    of = students(3)
    cutout = {"probability": 1, "holes": 1, "side": 12}
    holes, none = (
        drawn(of, s4al_plus(of, noise={"strong": None, "cutout": c}), model(of))
        for c in (cutout, {**cutout, "side": 1})
    )
    changed = (holes.image != none.image).any(1)
    assert changed[holes.pool :].flatten(1).sum(1).min() >= 25
    assert not changed[: holes.pool].any()
    # One pixel of each row is `none`'s own hole.
    assert int((changed & (holes.label != VOID)).sum()) <= len(holes.label) - holes.pool


# ── The terms ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_teacher_without_contrast_is_joint_training_bit_for_bit() -> None:
    of = domains(3, 4)
    one, other = model(of), model(of)
    expected = run(build(SETTINGS["joint"].model_validate({"name": "joint"}), of, 4), one, of, 4)
    made = s4al_plus(of, contrast={"weight": 0})
    assert run(made, other, of, 4) == expected
    assert same(one.state_dict(), other.state_dict())
    assert not made.state_dict()


@pytest.mark.parametrize(
    ("options", "gamma", "epsilon"),
    [({}, 0, 0), ({"weigh": True}, 0, 0), ({"gamma": 2, "epsilon": 0.5, "weigh": True}, 2, 0.5)],
)
def test_the_supervised_term_is_that_of_a_loop_over_labelled_and_pseudo_labelled_pixels(
    options: dict[str, object], gamma: float, epsilon: float
) -> None:
    of = students(3, 4)
    network = model(of)
    made = prepared(of, network, **options)
    part = drawn(of, made, network)
    got = in_eval(made, network, part)["supervised"].item()
    assert part.confidence is not None
    expected, kinds = 0.0, set()
    for k, name in enumerate(of):
        losses = []
        for row in torch.nonzero(part.domain == k).flatten().tolist():
            p = network(part.image[row : row + 1], name)[0].softmax(0).detach()
            for y, x in torch.nonzero(part.label[row] < NOT_LABELLED).tolist():
                sure = min(int(part.confidence[row, y, x]) / STEPS, 1)
                kinds.add((row >= part.pool, sure == 1))
                own = p[int(part.label[row, y, x]), y, x].item()
                loss = (1 - own) ** gamma * (-math.log(own) + epsilon * (1 - own))
                losses.append(sure * loss if options.get("weigh") else loss)
        expected += float(np.mean(losses))
    assert got == pytest.approx(expected, rel=1e-4)
    assert kinds >= {(False, True), (True, False)}


def test_the_contrast_is_the_mean_over_domains_among_each_ones_own_sure_labels() -> None:
    of = students(3, 4)
    network = model(of)
    made = prepared(of, network, contrast={**SMALL, "weight": 0.5, "sure": 0.85, "hard": 0.334})
    part = drawn(of, made, network)
    got = in_eval(made, network, part, seed=5)["contrast"].item()
    assert made.representation is not None
    assert part.confidence is not None
    rng, means, left_out, hard = torch.Generator().manual_seed(5), [], 0, set()
    for k, name in enumerate(of):
        chosen = [r for r in torch.nonzero(part.domain == k).flatten().tolist() if (part.label[r] < NOT_LABELLED).any()]
        label, sure = torch.full((len(chosen), 8, 8), VOID, dtype=torch.uint8), torch.zeros(len(chosen), 8, 8)
        features = network.encode(part.image[chosen])
        p = network.decode(features, name).softmax(1)
        for i, row in enumerate(chosen):
            for y in range(8):
                for x in range(8):
                    value = int(part.label[row, 4 * y + 2, 4 * x + 2])
                    if value < NOT_LABELLED and int(part.confidence[row, 4 * y + 2, 4 * x + 2]) >= 0.85 * STEPS:
                        label[i, y, x], sure[i, y, x] = value, p[i, value, y, x].item()
                        hard.add(bool(sure[i, y, x] < 0.334))
                    left_out += value < NOT_LABELLED and int(label[i, y, x]) == VOID
        means.append(
            regional_contrast(
                made.representation.head(features), label, sure, rng, classes=of[name].space.num_classes, queries=16,
                negatives=8, sets=4, hard=0.334, temperature=0.5,
            )
        )  # fmt: skip
    assert hard == {True, False}
    assert left_out  # pseudo-labels that are sure enough for the cross-entropy, not for the contrast
    assert got == pytest.approx(0.5 * torch.stack(means).mean().item(), rel=1e-4)


@pytest.mark.parametrize("parts", [2, 3])
def test_the_supervised_terms_of_micro_batches_average_to_that_of_one_batch(parts: int) -> None:
    """However labels and pseudo-labels lie. The contrast compares the pixels of a micro-batch among themselves."""
    of = students(3, 4)
    network = model(of)
    made = prepared(of, network, weigh=True, contrast={"weight": 0})
    whole = drawn(of, made, network)
    assert whole.confidence is not None
    assert len(set((whole.label < NOT_LABELLED).flatten(1).sum(1).tolist())) > parts
    counts = {stride: PixelCounts(*count.table() / parts) for stride, count in whole.counts.items()}
    means = []
    for rows in torch.arange(len(whole.label)).chunk(parts):
        part = batch(
            list(zip(whole.domain[rows].tolist(), whole.label[rows], strict=True)), whole.image[rows], network, 2
        )
        part = replace(part, confidence=whole.confidence[rows], counts=counts)
        means.append(in_eval(made, network, part)["supervised"].item())
    assert np.mean(means) == pytest.approx(in_eval(made, network, whole)["supervised"].item(), rel=1e-5)


def pointwise(of: dict[str, Domain]) -> UniversalSegmenter:
    """A network whose every cell sees its own 4×4 pixels alone."""
    network = model(of)
    torch.manual_seed(0)
    network.features = nn.Sequential(nn.AvgPool2d(4), nn.Conv2d(3, network.channels, 1))
    network.upsample = lambda logits, size: nn.functional.interpolate(logits, size)  # type: ignore[method-assign]
    return network


def test_neither_unsure_pixels_nor_holes_ever_count() -> None:
    """No gradient of any term reaches them where every cell of the network sees itself alone."""
    of = students(3, 4)
    network = pointwise(of)
    made = prepared(of, network, contrast={**SMALL, "kernel": 1, "queries": 256})
    part = drawn(of, made, network)
    rng = torch.Generator().manual_seed(0)
    kind = torch.randint(0, 4, (len(part.label), 8, 8), generator=rng).to(torch.uint8)
    kind = torch.where(kind == 2, NOT_LABELLED, torch.where(kind == 3, VOID, kind))
    label = kind.repeat_interleave(4, 1).repeat_interleave(4, 2)
    part = replace(relabelled(part, label, network), confidence=torch.full_like(label, 200))
    for term in ("supervised", "contrast"):
        image = part.image.float().requires_grad_()
        in_eval(made, network, replace(part, image=image))[term].backward()
        assert image.grad is not None
        has_gradient = image.grad.any(1)
        assert has_gradient[label < NOT_LABELLED].any()
        assert not has_gradient[label >= NOT_LABELLED].any()


def test_the_contrast_trains_features_and_representation_but_no_head() -> None:
    of = students(3, 4)
    network = model(of)
    made = prepared(of, network)
    in_eval(made, network, drawn(of, made, network))["contrast"].backward()
    assert all(p.grad is None or not p.grad.any() for p in network.heads.parameters())
    assert any(p.grad is not None and p.grad.any() for p in network.encoder.parameters())
    assert all(p.grad is not None for p in made.parameters())


@pytest.mark.parametrize(("stride", "kernel"), [(4, 3), (8, 1)])
def test_the_representation_has_the_cells_that_were_asked_for(stride: int, kernel: int) -> None:
    of = students(3)
    network = model(of)
    made = prepared(of, network, contrast={**SMALL, "stride": stride, "kernel": kernel})
    assert made.representation is not None
    shapes = []
    made.representation.head.register_forward_hook(lambda _, inputs, out: shapes.append((inputs[0].shape, out.shape)))
    assert in_eval(made, network, drawn(of, made, network))["contrast"] > 0
    side = 32 // stride
    assert shapes == [((6, network.channels, side, side), (6, 12, side, side))]
    assert made.representation.head[0].weight.shape[-2:] == (kernel, kernel)


def test_its_first_weights_are_a_function_of_the_generator() -> None:
    of = domains(3)
    network = model(of)
    one, again, other = s4al_plus(of), s4al_plus(of), s4al_plus(of)
    torch.manual_seed(1)
    one.prepare(network, torch.Generator().manual_seed(3))
    torch.manual_seed(2)
    again.prepare(network, torch.Generator().manual_seed(3))
    other.prepare(network, torch.Generator().manual_seed(4))
    assert same(one.state_dict(), again.state_dict())
    assert not same(one.state_dict(), other.state_dict())
    assert all(v.isfinite().all() for v in one.state_dict().values())


def test_a_batch_without_any_label_has_the_same_terms_and_all_are_zero() -> None:
    of = students(3, 4)
    network = model(of)
    made = prepared(of, network)
    part = drawn(of, made, network)
    for value in (NOT_LABELLED, VOID):
        empty = replace(relabelled(part, torch.full_like(part.label, value), network), confidence=part.confidence)
        terms = in_eval(made, network, empty)
        assert {n: t.item() for n, t in terms.items()} == {"supervised": 0, "contrast": 0}
        torch.stack(list(terms.values())).sum().backward()
        assert all(p.grad is None or not p.grad.any() for p in [*network.parameters(), *made.parameters()])


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_any_number_of_domains_trains(count: int, precision: torch.dtype) -> None:
    of = students(*[3, 4, 1][:count])
    network = model(of)
    made = s4al_plus(of)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        history = run(made, network, of, 3, train_settings(batch_size=count, unlabelled_batch_size=2 * count))
    assert all(math.isfinite(v) for terms in history for v in terms.values())
    assert all(terms["contrast"] > 0 for terms in history)
    # Also under autocast, which remembers weights, all of a head's are trained.
    for head in network.heads.values():
        assert all(p.grad is not None for p in head.parameters())


def test_queries_are_shared_out_evenly() -> None:
    with pytest.raises(ValueError, match="sets: queries 10 cannot be divided by it; take a divisor"):
        parse_config(plain(Path(), {"name": "s4al-plus", "contrast": {"queries": 10, "sets": 4}}))


# ── A generation on disk ─────────────────────────────────────────────────────────────────────────────────────────────


class Stop(Exception):
    """What an interrupted run ends with."""


def test_a_generation_with_pseudo_labels_on_disk_trains_and_resumes_bit_for_bit(tmp_path: Path) -> None:
    root = two_domains(tmp_path / "data")
    plainly = plain(root, {"name": "s4al-plus", "contrast": SMALL}, steps=4, checkpoint_every=3, workers=0)
    settings = parse_config(plainly)
    of = load_domains(config(root))
    rng = np.random.default_rng(0)
    for name, d in of.items():
        folder = PseudoFolder(tmp_path / "pseudo" / name)
        for stem in d.unlabelled:
            size = d.image(stem).shape[:2]
            folder.write(stem, rng.integers(0, 3, size).astype(np.uint8), quantise(rng.random(size)))
        of[name] = replace(d, pseudo=folder)
    train(settings, tmp_path / "whole", domains=of)

    def stop_at(step: int) -> Callable[[ProgressEvent], None]:
        def observe(event: ProgressEvent) -> None:
            assert event.stage in ("student", "evaluate")
            if event.stage == "student" and event.step == step:
                raise Stop

        return observe

    for step in range(1, 5):
        with pytest.raises(Stop):
            train(settings, tmp_path / "run", stop_at(step), domains=of)
    train(settings, tmp_path / "run", domains=of)
    assert_same_run(tmp_path / "whole", tmp_path / "run")
    # The head is for training alone.
    assert not list((tmp_path / "run").glob("representation*"))
