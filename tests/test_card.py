"""The model card: its numbers are the run's, its head is YAML, and no name in it is read as markup."""

from __future__ import annotations

import copy
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from campaigns import SQUARES, settings
from command import Fewmask, is_refused
from exporting import without_exporter
from ondisk import config, two_domains

from fewmask import card
from fewmask.campaigns import campaign
from fewmask.engine.fit import train
from fewmask.plurals import count
from fewmask.runs import Description, Summary


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_domains(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    train(config(data, steps=1), folder)
    return folder


@pytest.fixture
def record(trained: Path) -> card.Record:
    return copy.deepcopy(card.read_record(trained))


def summary_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text(encoding="utf-8"))


def head_of(text: str) -> dict[str, Any]:
    _, head, _ = re.split(r"^---$", text, maxsplit=2, flags=re.MULTILINE)
    return yaml.safe_load(head)


def rows_of(text: str) -> list[list[str]]:
    return [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in text.splitlines() if line[:1] == "|"]


def test_a_finished_run_has_a_card_with_the_numbers_of_its_summary(trained: Path) -> None:
    text, summary = (trained / "model-card.md").read_text(encoding="utf-8"), summary_of(trained)
    head = head_of(text)
    assert (head["library_name"], head["pipeline_tag"]) == ("fewmask", "image-segmentation")
    assert "license" not in head  # the user's to say
    assert "# license:" in text
    (entry,) = head["model-index"]
    results = {r["dataset"]["name"]: r for r in entry["results"]}
    assert results.keys() == summary["domains"].keys()
    for name, scores in summary["domains"].items():
        assert {m["type"]: m["value"] for m in results[name]["metrics"]} == {
            "mean_iou": scores["miou"],
            "pixel_accuracy": scores["pixel_accuracy"],
        }
        for value, (label, iou) in enumerate(scores["iou"].items()):
            assert [str(value), label, str(value), "–" if iou is None else f"{100 * iou:.1f}"] in rows_of(text)
        assert f"mIoU **{100 * scores['miou']:.1f}**" in text
    assert ["a", "4", "0", "2"] in rows_of(text)  # images labelled wholly, in part, and not
    assert f"Mean mIoU over domains: **{100 * summary['avg_miou']:.1f}**" in text
    assert f"torch {summary['versions']['torch']}".replace("+", r"\+") in text
    assert "One seed:" in text
    assert str(trained.parent) not in text


def test_a_hub_reads_the_head(trained: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    read = hub.ModelCard.load(trained / "model-card.md").data
    assert read.library_name == "fewmask"
    summary = summary_of(trained)
    metrics = {(r.dataset_name, r.metric_type): r.metric_value for r in read.eval_results}
    assert metrics == {
        (name, kind): scores[key]
        for name, scores in summary["domains"].items()
        for kind, key in (("mean_iou", "miou"), ("pixel_accuracy", "pixel_accuracy"))
    }


def test_names_are_not_read_as_markup(record: card.Record) -> None:
    name, domain = "<b>|`road*_[x](y)\n# h", "a: {b}|\n---"
    model, summary, config = record.model.to_dict(), record.summary.to_dict(), {**record.config}
    every = (model["domains"], summary["domains"], summary["labelled"], summary["unlabelled"], config["domains"])
    for of in every:
        of[domain] = of.pop("a")
    model["domains"][domain]["names"][0] = name
    summary["domains"][domain]["iou"] = {name: 0.1, "c1": 0.6, "c2": None}
    summary["trained"] = ["b", domain]
    text = card.render(card.Record(Summary(**summary), Description(**model), config))
    assert head_of(text)["model-index"][0]["results"][-1]["dataset"]["name"] == domain
    row = next(row for row in rows_of(text) if row[-1] == "10.0")
    assert row == ["0", r"&lt;b&gt;\|\`road\*\_\[x\]\(y\) \# h", "0", "10.0"]
    assert "<b>" not in text.split("---", 2)[2]
    headings = ["Use", "Classes and scores", "Data and labels", "Training", "Limits"]
    assert re.findall("^## (.*)", text, re.MULTILINE) == headings
    assert "IoU below 50 % on &lt;b&gt;" in text
    assert "no scored pixel of c2" in text


def test_other_seeds_give_the_spread(trained: Path, tmp_path: Path) -> None:
    folders = []
    for seed, plus in ((1, 0.1), (2, 0.2)):
        folders.append(tmp_path / str(seed))
        shutil.copytree(trained, folders[-1])
        summary = summary_of(trained)
        summary["seed"] = seed
        summary["avg_miou"] += plus
        for scores in summary["domains"].values():
            scores["miou"] += plus
        (folders[-1] / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    text, summary = card.render(card.read_record(trained, [*folders, trained])), summary_of(trained)
    assert "over 3 seeds" in text
    assert "One seed:" not in text
    for scores in summary["domains"].values():
        assert f"mIoU **{100 * scores['miou'] + 10:.1f} ± 10.0**" in text
    assert f"Mean mIoU over domains: **{100 * summary['avg_miou'] + 10:.1f} ± 10.0**" in text
    assert ["seed", "0, 1, 2"] in rows_of(text)
    summary["steps"] = summary["selected_step"] = 7
    (folders[0] / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    with pytest.raises(ValueError, match=r"1: not .*run with another seed: steps 7, there 1"):
        card.read_record(trained, folders)


def test_other_settings_are_not_another_seed(trained: Path, tmp_path: Path) -> None:
    """Nor is a second run of one seed."""
    for number, key in enumerate(("method", "train")):
        other = tmp_path / f"other{number}"
        shutil.copytree(trained, other)
        plain = yaml.safe_load((other / "config.yaml").read_text(encoding="utf-8"))
        plain[key]["weight" if key == "method" else "batch_size"] = 7
        (other / "config.yaml").write_text(yaml.safe_dump(plain), encoding="utf-8")
        with pytest.raises(ValueError, match=rf"other{number}: not .*: other settings of {key}\."):
            card.read_record(trained, [other])
    for name in ("one", "two"):
        shutil.copytree(trained, tmp_path / name)
        data = summary_of(trained) | {"seed": 5, "seconds": len(name) + (name == "two")}
        (tmp_path / name / "summary.json").write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(ValueError, match="two: another run has seed 5 too"):
        card.read_record(trained, [tmp_path / "one", tmp_path / "two"])


def test_a_head_that_was_not_trained_is_told_as_such(record: card.Record) -> None:
    only = {"trained": ["a"], "domains": {"a": record.summary.domains["a"]}}
    text = card.render(card.Record(record.summary.model_copy(update=only), record.model, record.config))
    assert "### b\n\nIts head was not trained" in text
    assert ["b", "4", "2"] not in rows_of(text)


def test_a_card_that_somebody_changed_is_left_alone(record: card.Record, tmp_path: Path) -> None:
    path = tmp_path / "model-card.md"
    assert card.write_card(path, record)
    record = replace(record, summary=record.summary.model_copy(update={"seed": 9}))
    assert card.write_card(path, record)
    assert "| seed | 9 |" in path.read_text(encoding="utf-8")
    changed = path.read_text(encoding="utf-8").replace("# license: yours", "license: mit  # yours")
    path.write_text(changed, encoding="utf-8")
    assert not card.write_card(path, record)
    assert path.read_text(encoding="utf-8") == changed
    path.write_text("My own card.", encoding="utf-8")
    assert not card.write_card(path, record)


def test_a_campaigns_card_counts_regions_clicks_and_seconds(data: Path, tmp_path: Path) -> None:
    result = campaign(settings(data, rounds=2, ask=SQUARES), tmp_path / "run")
    text = (tmp_path / "run" / "model-card.md").read_text(encoding="utf-8")
    pixels = ", ".join(f"{name} {count:,}" for name, count in result["history"][-1]["pixels"].items())
    assert f"A campaign of 2 rounds. Labelled pixels in the last one: {pixels}." in text
    worked = count(result["clicks"], "click")
    assert f"Regions asked: {result['asked']}, answered: {result['answered']}, with {worked}" in text
    assert f"in {result['seconds']:,.0f} annotator seconds, by a simulated annotator" in text
    assert result["answered"] > 0
    rounds = [summary_of(folder) for folder in (tmp_path / "run" / "rounds").glob("*/")]
    steps, seconds = (sum(one[key] for one in rounds) for key in ("steps", "seconds"))
    seconds += sum(entry["score_pool_seconds"] for entry in result["history"])
    rows = rows_of(text)
    assert ["steps", "2, weights of step 2, 4 in all rounds"] in rows
    assert steps == 4
    assert ["time", f"{seconds:,.0f} s in all rounds"] in rows


def test_the_card_goes_beside_the_exported_model(
    trained: Path, tmp_path: Path, fewmask: Fewmask, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime", reason="the extra fewmask[onnx] is not installed")
    without_exporter(monkeypatch)
    done = fewmask("export", trained, "--out", tmp_path / "net.onnx", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["card"] == str(tmp_path / "net-card.md")
    assert (tmp_path / "net-card.md").read_bytes() == (trained / "model-card.md").read_bytes()
    is_refused(
        fewmask("export", trained, "--out", tmp_path / "x.onnx", "--seeds", tmp_path), "a card needs summary.json"
    )
    assert not (tmp_path / "x.onnx").exists()
