"""Settings: what is wrong is listed at once, in the words of the file; what is written is read back; runs' folders."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from ondisk import plain, two_domains, write_config

from fewmask import config as configuration
from fewmask.config import Config, TrainSettings
from fewmask.engine.checkpoint import save_weights
from fewmask.engine.device import choose_device
from fewmask.engine.fit import train
from fewmask.engine.run import begin_run, load_config, load_model, open_run
from fewmask.methods import SETTINGS, parse_config, read_config
from fewmask.paths import fault
from fewmask.runs import RunFolder

MINIMAL: dict[str, Any] = {
    "name": "x",
    "domains": {"a": {"layout": "folder", "root": "../data/a"}},
    "method": "joint",
}


def problems(data: dict[str, Any]) -> list[str]:
    """What `parse` finds wrong, a line each."""
    with pytest.raises(ValueError, match=r"^configuration:") as raised:
        parse_config(data)
    return [line.strip() for line in str(raised.value).splitlines()[1:]]


def changed(**changes: Any) -> dict[str, Any]:
    return copy.deepcopy(MINIMAL) | changes


# ── What is wrong ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_wrong_key_is_listed_at_once() -> None:
    messages = problems(
        {
            "seeds": 3,
            "seed": -1,
            "domains": {"a": {"layout": "folder"}, "b": {"root": "/b"}, "c": {"layout": "cars", "root": "/c"}},
            "model": {"output_stride": 5, "encoder_option": {}},
            "method": {"name": "univ-full", "alpha": -1, "gamma": 2, "mode": "new"},
            "train": {
                "step": 3,
                "steps": "many",
                "batch_size": 6,
                "unlabelled_batch_size": 9,
                "accumulate": 4,
                "optimiser": {"lr": 0, "nam": "sgd"},
                "augment": {"scale": [2, 0.5]},
            },
        }
    )
    layouts = "folder, camvid, cityscapes, idd, sunrgbd, voc, scenes"
    expected = [
        "name: missing; add it",
        "seed: input should be greater than or equal to 0 (given: -1)",
        "domains.a.root: missing; add it",
        f"domains.b.layout: missing; add one of {layouts}",
        f"domains.c.layout: there is no such layout; take one of {layouts} (given: 'cars')",
        "model.output_stride: input should be 8, 16 or 32 (given: 5)",
        "model.encoder_option: unknown key; did you mean encoder_options?",
        "train.steps: input should be a valid integer (given: 'many')",
        "train.optimiser.lr: input should be greater than 0 (given: 0)",
        "train.optimiser.nam: unknown key; did you mean name?",
        "train.augment.scale: the smaller number comes first (given: [2, 0.5])",
        "train.accumulate: batch_size 6 and unlabelled_batch_size 9 cannot be divided by it; take a divisor (given: 4)",
        "train.step: unknown key; did you mean steps?",
        "seeds: unknown key; did you mean seed?",
        "method.mode: input should be 'anchored' or 'faithful' (given: 'new')",
        "method.alpha: input should be greater than or equal to 0 (given: -1)",
        f"method.gamma: unknown key; remove it; there are {', '.join(sorted(SETTINGS['univ-full'].model_fields))}",
    ]
    assert sorted(messages) == sorted(expected)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (changed(method=None), "method: missing; add it"),
        (
            changed(method="jiont"),
            r"method.name: no method 'jiont'; did you mean joint\? There are adversarial-align, auto, co-training",
        ),
        (changed(method={"alpha": 1}), "method.name: no method None"),
        (changed(method={"name": ["joint"]}), r"method.name: no method \['joint'\]"),
        (changed(method=3), "method.name: no method 3"),
        (changed(domains={}), "domains: dictionary should have at least 1 item"),
        (changed(domains=None), "domains: input should be a mapping of keys"),
        (changed(domains={"a": 5}), "domains.a: input should be a mapping of keys"),
        (changed(name="a/b"), r"name: it names a folder: write letters.*\(given: 'a/b'\)"),
        (changed(name="../up"), "name: it names a folder: write letters"),
        (changed(steps=3), r"steps: unknown key; did you mean train\.steps\?"),
        (
            changed(domains={"a": {"layout": "folder", "root": "/a", "levl": 1}}),
            r"domains\.a\.levl: .* did you mean level",
        ),
        (changed(campaign={"pool": {"scales": []}}), r"campaign\.pool\.scales: tuple should have at least 1 item"),
        (changed(campaign={"ask": {"budget": 20}}), r"campaign\.ask\.budget: input should be a mapping .*given: 20"),
        (changed(campaign={"ask": {"top": 0}}), r"campaign\.ask\.top: input should be greater than 0"),
        (
            changed(campaign={"answers": {"trust": {"ann": -1}}}),
            r"campaign\.answers\.trust\.ann: input should be great",
        ),
        (
            changed(campaign={"cost": {"rates": {"square": {}}}}),
            r"campaign\.cost\.rates\.square: input should be 'squar",
        ),
        (changed(campaign={"ask": {"scor": "entropy"}}), r"campaign\.ask\.scor: unknown key; did you mean score"),
        (changed(train={"crop": 256}), r"train\.crop: input should be a list, such as \[256, 256\] \(given: 256\)"),
        (changed(train=None), "train: input should be a mapping of keys"),
        (changed(train={"crop": [3]}), "train.crop.1: missing"),
        (changed(train={"crop": [0, 32]}), "train.crop.0: input should be greater than 0"),
        (changed(train={"optimiser": {"lr": float("inf")}}), "train.optimiser.lr: input should be a finite number"),
        (changed(train={"optimiser": {"weight_decay": float("nan")}}), "train.optimiser.weight_decay: input should"),
        (changed(train={"batch_size": 3, "accumulate": 2}), "train.accumulate: batch_size 3 cannot be divided by it"),
        (changed(train={"accumulate": 3}), "train.accumulate: batch_size 8 cannot be divided by it"),
        (changed(model={"weights": 5}), r"model.weights: input is not a valid path .*\(given: 5\)"),
        (changed(synonyms=["road"]), r"synonyms.0: input should be a valid list \(given: 'road'\)"),
        (changed(labelled={"images": -1}), "labelled.images: input should be greater than or equal to 0"),
    ],
)
def test_one_wrong_value_is_one_sentence_with_its_key(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_config(data)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not readable as YAML"),
        ("- 1", "a configuration is a mapping of keys"),
        ("", "a configuration is a mapping of keys"),
        ("name: x\nseed: 1\nseed: 2\n", "seed given twice"),
        ("name: x\ntrain: {steps: 1, steps: 2}\n", "steps given twice"),
        ("name: \xff\n", "not readable as YAML"),
    ],
)
def test_a_file_that_is_no_configuration_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=message) as raised:
        read_config(path)
    assert str(raised.value).startswith(str(path))


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no.yaml: not found; give the path of a configuration"):
        read_config(tmp_path / "no.yaml")
    with pytest.raises(ValueError, match="not readable as YAML"):
        read_config(tmp_path)


# ── Overrides ────────────────────────────────────────────────────────────────────────────────────────────────────────


def overridden(tmp_path: Path, *overrides: str, **changes: Any) -> Config:
    return read_config(write_config(tmp_path / "c.yaml", changed(**changes)), overrides)


def test_every_key_can_be_overridden(tmp_path: Path) -> None:
    settings = overridden(
        tmp_path,
        "seed=7",
        "train.crop=[32, 64]",
        "train.optimiser.lr=5e-4",
        "model.encoder_options.pad_type=same",
        "domains.b={layout: scenes, kind: rooms}",
        "domains.a.val_from_train=0.2",
        "train.unlabelled_batch_size=null",
        "name=y=z".replace("=z", ""),
    )
    assert settings.seed == 7
    assert settings.train.crop == (32, 64)
    assert settings.train.optimiser.lr == 5e-4
    assert settings.model.encoder_options == {"pad_type": "same"}
    assert settings.domains["b"].layout == "scenes"
    assert settings.domains["a"].val_from_train == 0.2  # type: ignore[union-attr]
    assert settings.train.unlabelled_batch_size is None
    assert settings.name == "y"


def test_a_methods_short_form_can_be_overridden_inside(tmp_path: Path) -> None:
    settings = overridden(tmp_path, "method.alpha=0.5", "method.mode=faithful", method="univ-full")
    assert (settings.method.name, settings.method.alpha, settings.method.mode) == ("univ-full", 0.5, "faithful")
    settings = overridden(tmp_path, "method=univ-cross", "method.alpha=2", method={"name": "joint"})
    assert (settings.method.name, settings.method.alpha) == ("univ-cross", 2)
    with pytest.raises(ValueError, match=r"method.alpha: unknown key"):
        overridden(tmp_path, "method.alpha=1")


def test_wrong_overrides_are_listed_with_each_other_and_the_rest(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"c.yaml:") as raised:
        overridden(tmp_path, "seed", "=3", "train..steps=3", "seed.x=3", "name=[", "train.stepz=1", seed=0)
    text = str(raised.value)
    for message in (
        "override 'seed': write key.sub=value",
        "override '=3': write key.sub=value",
        "override 'train..steps=3': write key.sub=value",
        "override 'seed.x=3': seed is 0, which has no keys inside",
        "override 'name=[': the value is not YAML",
        "train.stepz: unknown key",
    ):
        assert message in text


# ── Paths, writing and reading ───────────────────────────────────────────────────────────────────────────────────────


def test_paths_are_relative_to_the_file_that_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "elsewhere").mkdir()
    data = changed(model={"weights": "w.safetensors"})
    data["domains"]["b"] = {"layout": "folder", "root": str(tmp_path / "absolute")}
    data["domains"]["c"] = {"layout": "folder", "root": "~/home"}
    path = write_config(tmp_path / "configs" / "c.yaml", data)
    monkeypatch.chdir(tmp_path / "elsewhere")
    settings = read_config(path)
    assert settings.domains["a"].root == tmp_path / "data" / "a"  # type: ignore[union-attr]
    assert settings.domains["b"].root == tmp_path / "absolute"  # type: ignore[union-attr]
    assert settings.domains["c"].root == Path.home() / "home"  # type: ignore[union-attr]
    assert settings.model.weights == tmp_path / "configs" / "w.safetensors"
    # The resolved configuration lies in another folder and means the same.
    copy = tmp_path / "elsewhere" / "config.yaml"
    copy.write_text(configuration.dump(settings), encoding="utf-8")
    assert read_config(copy) == settings
    assert read_config(Path(os.path.relpath(path))) == settings


@pytest.mark.parametrize("weights", ["imagenet", None])
def test_the_names_of_weights_are_no_paths(weights: str | None) -> None:
    assert parse_config(changed(model={"weights": weights})).model.weights == weights


domains = st.dictionaries(
    st.text("abcdefghijklmnopqrstuvwxyzä-_. 1", min_size=1, max_size=6).filter(lambda name: not fault(name)),
    st.one_of(
        st.builds(lambda r, v: {"layout": "folder", "root": r, "val_from_train": v},
                  st.sampled_from(["/a", "b/c", "null", "1", "a: b"]), st.floats(0, 1)),
        st.builds(lambda k, s: {"layout": "scenes", "kind": k, "seed": s},
                  st.sampled_from(["streets", "rooms"]), st.integers(0, 2**40)),
        st.builds(lambda c: {"layout": "sunrgbd", "root": "/s", "classes": c}, st.sampled_from([13, 37])),
    ),
    min_size=1, max_size=3,
)  # fmt: skip
methods = st.one_of(
    st.sampled_from(["joint", "fine-tune"]),
    st.builds(lambda a, m, o: {"name": "univ-full", "alpha": a, "mode": m, "momentum": o},
              st.floats(0, 1e6), st.sampled_from(["anchored", "faithful"]), st.floats(0, 1)),
    st.builds(lambda o: {"name": "fine-tune", "order": o}, st.lists(st.sampled_from(["a", "b", "null", "1"]))),
    st.builds(lambda d: {"name": "supervised", "domain": d}, st.sampled_from([None, "a", "null", "true", "1e3"])),
)  # fmt: skip
optimisers = st.fixed_dictionaries(
    {"lr": st.floats(1e-300, 1e3), "schedule": st.sampled_from(["poly", "cosine"])},
    optional={"clip_norm": st.one_of(st.none(), st.floats(1e-8, 10)), "nesterov": st.booleans()},
)
trains = st.fixed_dictionaries(
    {"steps": st.integers(1, 10**7), "crop": st.tuples(st.integers(1, 999), st.integers(1, 999)).map(list)},
    optional={"optimiser": optimisers, "device": st.sampled_from(["auto", "cpu", "cuda:1"])},
)


@given(domains, methods, trains, st.lists(st.lists(st.text(max_size=5), max_size=3), max_size=2))
def test_what_is_dumped_is_read_back_equal(
    domains: dict[str, Any], method: Any, train: dict[str, Any], synonyms: list[list[str]]
) -> None:
    settings = parse_config(changed(domains=domains, method=method, train=train, synonyms=synonyms))
    text = configuration.dump(settings)
    assert configuration.parse(yaml.safe_load(text), Path("/elsewhere"), SETTINGS) == settings
    assert configuration.dump(parse_config(yaml.safe_load(text))) == text


# ── The folder of a run ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_new_folder_is_made_by_the_run_and_the_same_configuration_opens_it_again(tmp_path: Path) -> None:
    settings = parse_config(MINIMAL)
    run = open_run(tmp_path / "deep" / "run", settings)
    assert not run.folder.exists()
    with begin_run(run, settings):
        pass
    assert load_config(run.folder) == settings
    assert open_run(run.folder, settings) == run
    (tmp_path / "empty").mkdir()
    open_run(tmp_path / "empty", settings)


def test_another_configuration_is_refused_with_what_differs(tmp_path: Path) -> None:
    with begin_run(RunFolder(tmp_path), parse_config(changed(method={"name": "univ-full", "alpha": 0.1}))):
        pass
    other = parse_config(
        changed(method={"name": "univ-full", "alpha": 0.3}, seed=4, train={"optimiser": {"lr": 0.25}}, synonyms=[["a"]])
    )
    with pytest.raises(ValueError, match="holds a run of another configuration") as raised:
        open_run(tmp_path, other)
    text = str(raised.value)
    for difference in (
        "method.alpha: 0.1 there, 0.3 here",
        "seed: 0 there, 4 here",
        "train.optimiser.lr: 0.0005 there, 0.25 here",
        "synonyms: [] there, [['a']] here",
    ):
        assert difference in text
    assert text.count(" there, ") == 4
    with pytest.raises(ValueError, match=r"method.name: 'univ-full' there, 'joint' here"):
        open_run(tmp_path, parse_config(MINIMAL))


def test_where_to_compute_may_differ(tmp_path: Path) -> None:
    with begin_run(RunFolder(tmp_path), parse_config(MINIMAL)):
        pass
    open_run(tmp_path, parse_config(changed(train={"device": "cpu", "workers": 0, "tensorboard": True})))
    with pytest.raises(ValueError, match=r"train.precision: 'auto' there, 'fp32' here"):
        open_run(tmp_path, parse_config(changed(train={"precision": "fp32"})))


def test_data_that_moved_is_told_where_to_write(tmp_path: Path) -> None:
    with begin_run(RunFolder(tmp_path), parse_config(MINIMAL)):
        pass
    moved = parse_config(changed(domains={"a": {"layout": "folder", "root": "/elsewhere"}}))
    with pytest.raises(
        ValueError, match=r"domains\.a\.root: .* If the data has moved, write its new `root` into .*config\.yaml"
    ):
        open_run(tmp_path, moved)


def test_a_run_of_another_version_is_told_so(tmp_path: Path) -> None:
    with begin_run(RunFolder(tmp_path), parse_config(MINIMAL)):
        pass
    with open(RunFolder(tmp_path).config, "a", encoding="utf-8") as file:
        file.write("gone: 1\n")
    with pytest.raises(ValueError, match=r"(?s)gone: unknown key.*another version.*, use that version"):
        load_config(tmp_path)


def test_a_damaged_summary_is_named(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"summary\.json: damaged \(.*; remove it and go on"):
        RunFolder(tmp_path).read_summary()


def test_a_folder_with_anything_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty and not a run; give another --out"):
        open_run(tmp_path, parse_config(MINIMAL))
    with pytest.raises(ValueError, match="not empty and not a run"):
        open_run(tmp_path / "notes.txt", parse_config(MINIMAL))
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_what_is_no_run_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"not a run \(no config.yaml\)"):
        load_config(tmp_path)
    with pytest.raises(ValueError, match="no trained model in it; let `fewmask train` finish first"):
        load_model(tmp_path)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_domains(tmp_path_factory.mktemp("data"))


def test_a_trained_model_is_loaded_and_a_damaged_one_is_named(data: Path, tmp_path: Path) -> None:
    train(parse_config(plain(data, steps=1)), tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    model = load_model(run.folder)
    assert not model.training
    assert model.domains == ("a", "b")
    assert model.spaces["b"].names == ("c0", "c1", "c2", "c3")
    assert json.loads(run.model.read_text())["normalisation"]["range"] == [0, 255]

    whole, described = run.weights.read_bytes(), run.model.read_text()
    save_weights(run.weights, {"w": torch.ones(1)})
    for other in (run.weights.read_bytes(), whole[:-1]):
        run.weights.write_bytes(other)
        with pytest.raises(ValueError, match=r"model.safetensors: differs from what the run wrote"):
            load_model(run.folder)
    run.weights.write_bytes(whole)
    for broken in (described[:50], "[]", '{"domains": {}}', described.replace('"encoder"', '"encodr"')):
        run.model.write_text(broken)
        with pytest.raises(ValueError, match=r"model.json: damaged .*; train the run again"):
            load_model(run.folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": {"device": "gpu"}}, "train.device: 'gpu' is no device; write auto, cuda, cuda:0, mps or cpu"),
        ({"train": {"device": "meta"}}, "train.device: 'meta' is not available on this machine"),
        ({"labelled": {"images": 5}}, "5 labelled images asked for, but train has 4 masks"),
        ({"model": {"encoder": "tu-mobilenetv2_51"}}, "model.encoder: timm has no"),
        ({"method": {"name": "supervised"}}, "method.domain: missing"),
        ({"method": {"name": "fine-tune", "order": ["a"]}}, "method.order"),
    ],
)
def test_settings_that_fit_nothing_are_refused_before_a_folder_is_made(
    changes: dict[str, Any], message: str, data: Path, tmp_path: Path
) -> None:
    settings = plain(data)
    for key, value in changes.items():
        settings[key] = {**settings[key], **value} if key in ("train", "model") else value
    with pytest.raises(ValueError, match=message):
        train(parse_config(settings), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_faults_of_all_domains_are_listed_at_once(tmp_path: Path) -> None:
    root = two_domains(tmp_path / "data")
    (root / "a" / "classes.yaml").unlink()
    (root / "b" / "images" / "train0.png").unlink()
    with pytest.raises(ValueError, match="domain a:") as raised:
        train(parse_config(plain(root)), tmp_path / "run")
    assert "classes.yaml" in str(raised.value)
    assert "domain b:" in str(raised.value)
    assert "train0" in str(raised.value)


def test_the_device_is_chosen_by_itself_or_refused() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type in ("cuda", "mps", "cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    with pytest.raises(ValueError, match=r"train.device"):
        choose_device(f"cuda:{count}")


@pytest.mark.parametrize(
    ("train", "images", "every"),
    [
        ({"steps": 2000, "batch_size": 8}, 100, 200),  # ten times
        ({"steps": 2000, "batch_size": 8}, 1000, 500),  # 4 × 1,000 images, a quarter of 16,000
        ({"steps": 60, "batch_size": 8}, 500, 0),  # at the end alone
        ({"steps": 60, "batch_size": 8}, 0, 0),
        ({"steps": 25, "batch_size": 8}, 2, 3),
        ({"steps": 60, "evaluate_every": 0}, 1, 0),
        ({"steps": 60, "evaluate_every": 7}, 10_000, 7),
    ],
)
def test_how_often_a_training_validates(train: dict[str, int], images: int, every: int) -> None:
    assert TrainSettings.model_validate(train).validation_interval(images) == every


@given(st.integers(1, 10**5), st.integers(1, 64), st.integers(1, 10**5))
def test_validation_costs_a_quarter_of_the_training_at_most_beside_that_at_the_end(
    steps: int, batch: int, images: int
) -> None:
    every = TrainSettings(steps=steps, batch_size=batch).validation_interval(images)
    times = (steps - 1) // every if every else 0
    assert times <= 9
    assert times * images <= steps * batch / 4


@pytest.mark.parametrize("size", [[0, 5], "large", [1], 0, [1, 2, 3]])
def test_a_message_names_keys_and_no_types_of_pythons(size: object) -> None:
    with pytest.raises(ValueError, match=r"domains\.a\.size") as raised:
        parse_config(changed(domains={"a": {"layout": "folder", "root": "x", "size": size}}))
    assert "constrained" not in str(raised.value)
    assert "tuple[" not in str(raised.value)
