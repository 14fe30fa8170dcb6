"""`fewmask report` of small real runs: what stands on the page, and what it says of what is not there."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import campaigns
import numpy as np
import pytest
import torch
import yaml
from command import Fewmask, fewmask, is_refused
from ondisk import config, two_domains, write_domain

from fewmask.campaigns import campaign
from fewmask.comparison.single import score_intervals
from fewmask.document.model import Charts, Figures, Note, Section
from fewmask.engine.evaluation import evaluate
from fewmask.engine.fit import ProgressEvent, train
from fewmask.engine.run import load_config, load_domains, load_model
from fewmask.labels import NOT_LABELLED
from fewmask.reports import report, space
from fewmask.reports.evaluation import choose_images, evaluate_split
from fewmask.reports.headline import headline
from fewmask.reports.learning import learning
from fewmask.reports.report import _without_repeats, nonempty_sections
from fewmask.reports.reported_run import ImageCounts, ReportedRun, groups, read_runs
from fewmask.reports.space import sample_cells
from fewmask.runs import RunFolder

__all__ = ["fewmask"]

ASK = {"score": "random", "regions": "squares:16", "budget": {"amount": 700, "unit": "pixels"}}
OF_A_RUN = [
    "headline", "learning", "classes", "images", "confusion", "calibration", "space", "similarity", "losses",
    "left-out",
]  # fmt: skip
OF_A_CAMPAIGN = [
    "headline", "learning", "classes", "images", "confusion", "calibration", "space", "budget", "asked", "losses",
    "left-out",
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Pictures of few points, which are quickly placed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(space, "POINTS", 100)
        patch.setattr(space, "ITERATIONS", 250)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_domains(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """univ-full and joint, and a campaign of three rounds on one domain."""
    folder = tmp_path_factory.mktemp("runs")
    train(config(data, "univ-full", evaluate_every=2), folder / "univ-full")
    train(config(data, "joint"), folder / "joint")
    settings = campaigns.settings(data, "supervised", ("a",), labelled=1, first=ASK, ask=ASK, target=0.9)
    campaign(settings, folder / "campaign")
    return folder


@pytest.fixture(scope="module")
def made(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[dict[str, Any], str]]:
    """The result and the text of a page, made once."""
    done: dict[tuple[str, ...], tuple[dict[str, Any], str]] = {}

    def of(*names: str) -> tuple[dict[str, Any], str]:
        if names not in done:
            out = tmp_path_factory.mktemp("pages") / "page.html"
            result = report([runs / name for name in names], out, device="cpu")
            done[names] = result, out.read_text(encoding="utf-8")
        return done[names]

    return of


Made = Callable[..., tuple[dict[str, Any], str]]


# ── Pages ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_of_two_domains_has_every_section(made: Made, runs: Path) -> None:
    result, text = made("univ-full")
    assert result["sections"] == OF_A_RUN
    assert [m.split(":")[0] for m in result["missing"]] == [
        "A learning curve",
        "Budget and annotators",
        "Asked regions",
    ]
    assert result["bytes"] < 2**20 and len(text.encode()) == result["bytes"]
    summary = json.loads((runs / "univ-full" / "summary.json").read_text())
    assert f"{100 * summary['avg_miou']:.1f} %" in text
    assert "mIoU on validation by step" in text
    assert "Before the alignment, after step 1" in text and "After the alignment" in text
    for term in ("supervised", "anchor", "cross", "within"):
        assert f"<h3>{term}</h3>" in text
    pictures = text.partition('id="space"')[2].partition('id="similarity"')[0]
    for name, times in (("c0", 2), ("c3", 2), ("a", 2)):  # in the keys of both pictures, shared classes once
        assert len(re.findall(rf"</svg>{name}</li>", pictures)) == times
    colour = re.search(r'fill:(#[0-9a-f]{6})"/></svg>c0</li>', pictures)
    assert colour is not None and f'class="point" style="fill:{colour[1]}"><title>b: c0' in pictures
    assert 'class="hatch"' in text and "not labelled or void</li>" in text
    alike = text.partition('id="similarity"')[2].partition("</section>")[0]
    assert re.search(r">−0\.\d\d<", alike) and not re.search(r"[>(]-\d\.\d\d", alike)
    assert "a × b" in text and "○ c3" in text and "○ c0" not in text
    assert text.count("<img ") == 2 * 2 * 5  # two domains with two images each, five pictures of each
    assert not any((runs / "univ-full" / name).exists() for name in ("report.html", "evaluations.jsonl"))


def test_the_page_shows_what_an_evaluation_finds(made: Made, runs: Path) -> None:
    _, text = made("univ-full")
    settings = load_config(runs / "univ-full")
    evaluation = evaluate(load_model(runs / "univ-full"), load_domains(settings), "val", workers=0, precision="fp32")
    for name, scores in evaluation["domains"].items():
        assert f"{name}, val: mIoU {100 * scores['miou']:.1f} %" in text
        for iou in scores["iou"].values():
            assert f'<td class="number">{100 * iou:.1f} %</td>' in text


def test_a_campaign_shows_its_rounds_questions_and_answers(made: Made, runs: Path) -> None:
    result, text = made("campaign")
    assert result["sections"] == OF_A_CAMPAIGN
    record = json.loads((runs / "campaign" / "campaign.json").read_text())
    for entry in record["history"]:
        assert f"{entry['total_cost']:,.0f}" in text
    assert "mIoU by pixels" in text and "power law" in text and "target 90 %" in text
    assert "After round 1" in text and "Round 3:" in text and "simulated" in text
    assert any(verdict in text for verdict in ("reach 90 %", "The target of 90 % is", "before labelling"))
    assert read_runs([runs / "campaign"])[0].pool == 6 * 40 * 48  # pixels of train
    assert "round 2</li>" in text  # the bars' change is since round 2
    total = len(campaigns.questions_of(runs / "campaign"))
    assert len(re.findall(r'alt="squares:16 region', text)) == total
    assert len(re.findall(r"<p>a/train\d: ", text)) == total
    first = len([q for q in campaigns.questions_of(runs / "campaign") if q.round == 0])
    assert text.count('alt="Guess for') == total - first and text.count('alt="Answer for') == total
    assert result["missing"] == [
        "Similarity between domains: this run has one domain, there is nothing to compare it with."
    ]


def test_methods_side_by_side_are_compared_and_the_last_is_looked_into(made: Made) -> None:
    result, text = made("joint", "univ-full")
    assert result["sections"] == ["headline", "learning", "comparison", *OF_A_RUN[2:]]
    first = text.partition('<section id="headline"')[2].partition("</p>")[0]
    assert re.search(r"[+−]\d+\.\d \([+−]\d+\.\d … [+−]\d+\.\d\): one seed cannot tell", first)
    assert "univ-full − joint" in first
    pictures = text.partition('id="images"')[2].partition("</section>")[0]
    for method in ("joint", "univ-full"):
        for what in ("prediction", "error"):
            assert pictures.count(f"<b>{method}: {what}</b>") == 2 * 2
    assert "budget and embeddings: univ-full." in text
    assert "Before the alignment" in text


def test_seeds_make_one_curve_with_their_range(made: Made, runs: Path, data: Path) -> None:
    other = runs / "campaign-1"
    shutil.copytree(runs / "campaign", other)
    record = json.loads((other / "campaign.json").read_text())
    for entry in record["history"]:
        entry["avg_miou"] *= 0.5
        entry["miou"] = {name: miou * 0.5 for name, miou in entry["miou"].items()}
    (other / "campaign.json").write_text(json.dumps(record))
    config_ = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(config_.replace("seed: 0", "seed: 1", 1))
    _, text = made("campaign", "campaign-1")
    shutil.rmtree(other)
    assert 'class="band s0"' in text and "small markers single runs" in text and "over 2 runs, mIoU on test" in text
    assert text.count('class="line s0"') >= 1
    first = [e["avg_miou"] for e in json.loads((runs / "campaign" / "campaign.json").read_text())["history"]]
    assert f"{100 * min(first) / 2:.1f} %" in text


def test_no_forecast_is_drawn_after_a_loss_that_labels_do_not_explain(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "campaign", tmp_path / "run")
    record = json.loads((tmp_path / "run/campaign.json").read_text())
    for number, entry in enumerate(record["history"]):
        entry["avg_miou"] = (0.3, 0.5, 0.2)[number]
    (tmp_path / "run/campaign.json").write_text(json.dumps(record))
    chart = learning(read_runs([tmp_path / "run"])).blocks[0].charts[0]  # type: ignore[union-attr]
    assert "No forecast is drawn" in chart.caption and "80 %" not in chart.caption and "band" not in chart.svg


def test_plain_runs_with_other_labels_make_a_curve(runs: Path, tmp_path: Path) -> None:
    for images in (1, 2, 4):
        folder = tmp_path / str(images)
        shutil.copytree(runs / "joint", folder, ignore=shutil.ignore_patterns("state", "*.safetensors"))
        path = folder / "config.yaml"
        path.write_text(path.read_text().replace("labelled: {images: null}", f"labelled: {{images: {images}}}"))
        summary = json.loads((folder / "summary.json").read_text())
        summary |= {"avg_miou": 0.5 - 0.3 / images, "labelled": {"a": images, "b": images}}
        (folder / "summary.json").write_text(json.dumps(summary))
    section = learning(read_runs([tmp_path / name for name in ("4", "1", "2")]))
    (block,) = section.blocks
    assert isinstance(block, Charts)
    (chart,) = block.charts
    assert chart.title == "mIoU by labelled images" and chart.table is not None
    assert {tuple(row[3:]) for row in chart.table.rows} == {("2", "20.0 %"), ("4", "35.0 %"), ("8", "42.5 %")}
    assert "(0.500 − 0.6·n^(−1.00))" in chart.caption


def test_runs_with_other_labels_are_not_averaged_and_are_compared(made: Made, runs: Path) -> None:
    folders = []
    for images, seed, miou in ((1, 0, 0.1), (1, 1, 0.3), (2, 0, 0.5), (None, 0, 0.7)):
        folder = runs / f"joint-{images}-{seed}"
        folders.append(folder.name)
        shutil.copytree(runs / "joint", folder, ignore=shutil.ignore_patterns("state", "scores.npz"))
        text = (folder / "config.yaml").read_text().replace("seed: 0", f"seed: {seed}", 1)
        own = f"labelled: {{images: {'null' if images is None else images}}}"
        (folder / "config.yaml").write_text(text.replace("labelled: {images: null}", own))
        summary = json.loads((folder / "summary.json").read_text()) | {"seed": seed, "avg_miou": miou}
        (folder / "summary.json").write_text(json.dumps(summary))
    shown = headline(read_runs([runs / name for name in folders])).blocks[0]
    assert isinstance(shown, Figures)
    assert [(f.label, f.value, f.detail) for f in shown.figures] == [
        ("joint, 1 labelled image a domain", "20.0 %", "± 14.1 over 2 runs, mIoU on test"),
        ("joint, 2 labelled images a domain", "50.0 %", "one run, mIoU on test"),
        ("joint, all labels", "70.0 %", "one run, mIoU on test"),
    ]
    result, text = made(*folders)
    assert "comparison" in result["sections"] and "joint (labelled.images=2) − joint (labelled.images=1)" in text


def test_seeds_of_a_method_share_their_entry_in_the_legend(runs: Path, tmp_path: Path) -> None:
    for seed, method in ((0, "joint"), (1, "joint"), (0, "univ-full")):
        folder = tmp_path / f"{method}-{seed}"
        shutil.copytree(runs / method, folder, ignore=shutil.ignore_patterns("state", "*.safetensors"))
        path = folder / "config.yaml"
        path.write_text(path.read_text().replace("seed: 0", f"seed: {seed}", 1))
        summary = json.loads((folder / "summary.json").read_text())
        summary["validation"] = [{"step": step, "miou": {}, "avg_miou": 0.1 * step} for step in (1, 2)]
        (folder / "summary.json").write_text(json.dumps(summary))
    block = learning(read_runs([tmp_path / name for name in ("joint-0", "joint-1", "univ-full-0")])).blocks[0]
    assert isinstance(block, Charts)
    assert [(key.name, key.series) for key in block.charts[0].keys] == [("joint", 0), ("univ-full", 1)]
    assert "joint, seed 1: 20 % at 2" in block.charts[0].svg


def test_a_single_run_opens_with_its_score_and_the_interval_over_images(made: Made, runs: Path) -> None:
    _, text = made("univ-full")
    first = text.partition('<section id="headline"')[2].partition("</p>")[0]
    own = score_intervals(runs / "univ-full")
    summary = json.loads((runs / "univ-full" / "summary.json").read_text())
    assert own is not None and own.avg_miou is not None
    low, high = (f"{100 * end:.1f}" for end in own.avg_miou)
    assert f"{100 * summary['avg_miou']:.1f} % ({low} … {high}) mIoU on test" in first
    assert f"over {own.images} images" in first


def test_progress_reaches_its_end_with_the_page_and_not_before(runs: Path, tmp_path: Path) -> None:
    for name in ("campaign", "joint"):
        calls: list[tuple[int, int, bool]] = []
        out = tmp_path / f"{name}.html"
        report([runs / name], out, progress=lambda done, total: calls.append((done, total, out.exists())))  # noqa: B023
        assert calls[-1][0] == calls[-1][1] and calls[-1][2]
        assert all(done < total and not written for done, total, written in calls[:-1])
        assert [done for done, *_ in calls] == sorted(done for done, *_ in calls)
        assert len({total for _, total, _ in calls}) == 1


def test_partly_labelled_images_are_counted_once_and_what_no_mask_shows_is_said(runs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(runs / "joint", folder, ignore=shutil.ignore_patterns("*.safetensors"))
    summary = json.loads((folder / "summary.json").read_text())
    summary |= {"labelled": {"a": 4, "b": 3}, "unlabelled": {"a": 5, "b": 2}, "in_part": {"a": 3, "b": 0}}
    summary["unseen"] = {"b": ["c<0>"]}
    (folder / "summary.json").write_text(json.dumps(summary))
    (reported,) = read_runs([folder])
    assert reported.image_counts == ImageCounts(4, 3, 4)
    shown = headline([reported])
    assert Note("b: no labelled mask has a pixel of c<0>, so the network could not learn this.") in shown.blocks
    figures = next(b for b in shown.blocks if isinstance(b, Figures))
    assert ("Labelled images", "4", "wholly, 3 in part; 4 without labels") in [
        (f.label, f.value, f.detail) for f in figures.figures
    ]
    (folder / "scores.npz").write_bytes(b"damaged")
    missing = headline(read_runs([folder])).missing
    assert len(missing) == 1 and "scores.npz" in missing[0].text


def test_labels_that_were_there_before_are_not_taken_for_asked_ones(data: Path, tmp_path: Path) -> None:
    by_regions = {"score": "random", "regions": "squares:16", "budget": {"amount": 2, "unit": "regions"}}
    settings = campaigns.settings(data, "supervised", ("a",), labelled=2, ask=by_regions)
    campaign(settings, tmp_path / "run")
    (reported,) = read_runs([tmp_path / "run"])
    figures = next(b for b in headline([reported]).blocks if isinstance(b, Figures))
    (labels,) = [f for f in figures.figures if f.label == "Labels"]
    total = len(campaigns.questions_of(tmp_path / "run"))
    assert total and re.match(rf"regions: [\d,]+ in 2 masks from before the campaign and {total} asked;", labels.detail)


# ── Runs of which something is missing ───────────────────────────────────────────────────────────────────────────────


def test_a_run_that_is_not_finished_shows_what_there_is(data: Path, tmp_path: Path) -> None:
    def stop(event: ProgressEvent) -> None:
        if event.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config(data), tmp_path / "run", stop)
    with open(tmp_path / "run" / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 3, "lo')  # it is writing
    result = report([tmp_path / "run"])
    text = (tmp_path / "run" / "report.html").read_text()
    assert "not finished: step 2 of 4 was logged" in result["missing"][0]
    assert any("a trained network: none is saved yet" in m for m in result["missing"])
    assert "<h3>supervised</h3>" not in text and "<h3>in all</h3>" in text
    assert "Sections without content: Learning curve, Classes, Images" in text
    assert text.count("a trained network: none is saved yet") == 1


def test_a_run_that_was_stopped_before_its_summary_is_not_finished(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "univ-full", tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    result = report([tmp_path / "run"])
    text = (tmp_path / "run" / "report.html").read_text()
    assert "not finished: step 4 of 4 was logged" in result["missing"][0]
    assert any("its network is saved, its summary.json is not" in m for m in result["missing"])
    assert "<h3>supervised</h3>" in text and "<img" not in text


def test_a_run_without_its_data_shows_what_it_wrote_down(runs: Path, data: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "campaign", tmp_path / "run")
    path = tmp_path / "run" / "config.yaml"
    path.write_text(path.read_text().replace(str(data), str(tmp_path / "gone")))
    for number in range(3):
        own = tmp_path / "run" / "rounds" / f"{number:02d}" / "config.yaml"
        own.write_text(own.read_text().replace(str(data), str(tmp_path / "gone")))
    result = report([tmp_path / "run"])
    text = (tmp_path / "run" / "report.html").read_text()
    assert any("cannot be read" in m and str(tmp_path / "gone") in m for m in result["missing"])
    assert "mIoU by pixels" in text and "a, test: mIoU" in text and "By annotator" in text
    assert "<img" not in text


def test_a_damaged_image_costs_its_domain_alone(runs: Path, data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "data")
    shutil.copytree(runs / "joint", tmp_path / "run")
    path = tmp_path / "run" / "config.yaml"
    path.write_text(path.read_text().replace(str(data), str(tmp_path / "data")))
    (tmp_path / "data" / "a" / "images" / "val0.png").write_bytes(b"no image")
    result = report([tmp_path / "run"])
    text = (tmp_path / "run" / "report.html").read_text()
    assert any(m.startswith("a: ") and "val0.png" in m for m in result["missing"])
    assert "b, val: mIoU" in text and "a, test: mIoU" in text


def test_one_class_no_validation_and_a_name_that_is_markup(tmp_path: Path) -> None:
    name = "<script>alert('x')</script>"
    root = write_domain(tmp_path / "a", 1, val=0)
    (root / "classes.yaml").write_text(yaml.safe_dump({"classes": {0: {"name": name}}}))
    data = campaigns.plain(tmp_path, "supervised", steps=1)
    data["domains"] = {"a": data["domains"]["a"]}
    train(campaigns.parse_config(data), tmp_path / "run")
    result = report([tmp_path / "run"])
    text = (tmp_path / "run" / "report.html").read_text()
    assert any("no image of its split val has a mask" in m for m in result["missing"])
    again = report([tmp_path / "run"], tmp_path / "test.html", split="test", images=1)
    test_text = (tmp_path / "test.html").read_text()
    assert any("with one class" in m for m in again["missing"])
    assert "its mIoU is always 100 %" in test_text
    assert "<script" not in text + test_text and "&lt;script&gt;alert" in test_text
    assert "expected calibration error 0.0 %" in test_text and "1 of 2 in a" in test_text
    (line,) = (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()
    assert json.loads(line)["split"] == "test"


def test_a_campaign_that_waits_for_its_first_answers(data: Path, tmp_path: Path) -> None:
    enough = {**ASK, "budget": {"amount": 3000, "unit": "pixels"}}  # for a square in either domain, whatever is drawn
    settings = campaigns.settings(data, "joint", labelled=0, first=enough, ask=ASK, annotator="people")
    campaign(settings, tmp_path / "run")
    result = report([tmp_path / "run"])
    text = (tmp_path / "run" / "report.html").read_text()
    assert "waiting for answers" in result["missing"][0]
    assert any(m.startswith("A learning curve: it needs two") for m in result["missing"])
    assert "Round 1:" in text and ": open" in text


def test_domains_that_a_run_did_not_train_are_not_shown_as_if_it_had(data: Path, tmp_path: Path) -> None:
    train(config(data, {"name": "supervised", "domain": "a"}, steps=1), tmp_path / "run")
    result = report([tmp_path / "run"])
    text = (tmp_path / "run" / "report.html").read_text()
    assert "b: this run did not train its head." in result["missing"]
    assert "supervised on a<" in text and "a, val: mIoU" in text and "b, val" not in text and "of 2 in b" not in text
    (reported,) = read_runs([tmp_path / "run"])
    assert reported.image_counts == ImageCounts(4, 0, 2)
    assert '<dd class="value">4</dd><dd>wholly; 2 without labels</dd>' in text
    with pytest.raises(ValueError, match=r"no summary\.json"):
        RunFolder(tmp_path).read_summary()


def test_images_without_masks_are_shown_and_where_scores_are_is_said(tmp_path: Path) -> None:
    write_domain(tmp_path / "a", 2, val=0, test=0)
    data = campaigns.plain(tmp_path, "supervised", steps=1)
    data["domains"] = {"a": data["domains"]["a"]}
    train(campaigns.parse_config(data), tmp_path / "run")
    result = report([tmp_path / "run"])
    text = (tmp_path / "run" / "report.html").read_text()
    assert "a: no image of its split val has a mask; --split train gives scores, on images that the network " \
        "learned from." in result["missing"]  # fmt: skip
    assert "a: of 2 images without labels" in text and text.count("<img ") == 2 * 3
    assert "Scores: no image of val or test had a mask when the run ended." in result["missing"]
    assert "The run&#39;s own scores" not in text and "has not scored itself yet" not in text
    report([tmp_path / "run"], tmp_path / "train.html", split="train")
    assert "a, train: mIoU" in (tmp_path / "train.html").read_text()


def test_what_is_missing_is_said_once_and_a_section_with_nothing_to_show_has_no_heading() -> None:
    why = [Note("a: gone", "missing"), Note("b: gone", "missing")]
    given = [Section("one", "One", why), Section("two", "Two", [*why, Note("more")]), Section("three", "Three", why)]
    given.append(Section("four", "Four", [why[0], Note("c: gone", "missing"), Note("c: gone", "missing")]))
    shown, left_out = nonempty_sections(_without_repeats(given))
    assert shown.blocks == [*why, Note("more")]
    assert (left_out.name, left_out.blocks) == ("left-out", [Note("c: gone", "missing")])
    assert left_out.lead.endswith("One, Three, Four.")
    assert nonempty_sections([shown]) == [shown]


# ── The verb ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_verb(fewmask: Fewmask, runs: Path, tmp_path: Path) -> None:
    done = fewmask("report", runs / "joint", "--out", tmp_path / "p.html", "--images", 1, "--device", "cpu", "--json")
    summary = json.loads(done.out)
    assert (done.code, summary["report"], summary["sections"]) == (
        0,
        str(tmp_path / "p.html"),
        ["headline", *OF_A_RUN[2:]],
    )
    assert "1 of 2 in a" in (tmp_path / "p.html").read_text()
    is_refused(fewmask("report", tmp_path), "not a run")
    is_refused(fewmask("report", runs / "joint", runs / ".." / "runs0" / ".." / runs.name / "joint"), "named twice")
    is_refused(fewmask("report", runs / "joint", "--split", "dev"), "--split dev")


# ── Facts ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_runs_are_named_apart_and_grouped_by_all_but_the_seed(runs: Path, tmp_path: Path) -> None:
    for parent, seed in (("one", 0), ("two", 1)):
        shutil.copytree(runs / "joint", tmp_path / parent / "joint", ignore=shutil.ignore_patterns("state"))
        path = tmp_path / parent / "joint" / "config.yaml"
        path.write_text(path.read_text().replace("seed: 0", f"seed: {seed}", 1))
    reported_runs = read_runs([tmp_path / "one" / "joint", tmp_path / "two" / "joint", runs / "univ-full"])
    assert [f.name for f in reported_runs] == ["one/joint", "two/joint", f"{runs.name}/univ-full"]
    assert [(g.name, len(g.runs)) for g in groups(reported_runs)] == [("joint", 2), ("univ-full", 1)]
    assert all(isinstance(f, ReportedRun) and f.state == "done" for f in reported_runs)


# ── What is computed ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_pass_agrees_with_a_loop_over_pixels(runs: Path) -> None:
    model = load_model(runs / "joint")
    domain = load_domains(load_config(runs / "joint"))["b"]
    evaluation = evaluate_split(model, domain, "val", domain.splits["val"], "fp32")
    sure, right, ious = [], [], {}
    with torch.inference_mode():
        for stem in domain.splits["val"]:
            p = model(torch.from_numpy(domain.image(stem)).permute(2, 0, 1)[None], "b").softmax(1)[0]
            truth, chose = domain.mask(stem), p.argmax(0).numpy()
            labelled = truth < NOT_LABELLED
            sure += p.amax(0).numpy()[labelled].tolist()
            right += (chose == truth)[labelled].tolist()
            own = []
            for c in np.unique(truth[labelled]):
                own.append(((truth == c) & (chose == c)).sum() / (((truth == c) | (chose == c)) & labelled).sum())
            ious[stem] = float(np.mean(own))
    assert dict(evaluation.ranked) == pytest.approx(ious)
    assert [stem for stem, _ in evaluation.ranked] == sorted(ious, key=lambda s: -ious[s])
    assert evaluation.matrix.sum() == len(sure) and evaluation.matrix.trace() == sum(right)
    assert evaluation.reliability.sum(0).tolist() == pytest.approx([len(sure), sum(right), sum(sure)])
    assert evaluation.whole and choose_images(domain, "val", 1) == ("val0",) and choose_images(domain, "none", 9) == ()


def test_the_same_labelled_cells_are_drawn_for_every_network(runs: Path) -> None:
    folder = runs / "univ-full"
    domains, model = load_domains(load_config(folder)), load_model(folder)
    stems = {name: domain.splits["val"] for name, domain in domains.items()}
    cells = sample_cells([model, model], domains, stems, True, seed=3, precision="fp32")
    assert set(cells.label.tolist()) <= set(range(7)) and len(cells.label) > 20
    assert np.array_equal(*cells.vectors)
    assert np.linalg.norm(cells.vectors[0], axis=1) == pytest.approx(1, abs=1e-5)
    again = sample_cells([model], domains, stems, True, seed=3, precision="fp32")
    assert np.array_equal(cells.vectors[0], again.vectors[0])
    assert sample_cells([model], domains, stems, False, seed=3).vectors[0].shape[1] == model.channels
