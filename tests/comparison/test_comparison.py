"""Comparing methods: pairs by seed, their intervals, and what is refused or warned of.

Shapes: S seeds · N images · C classes · R draws · F figures.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import runfolders
import yaml
from command import Fewmask, is_refused
from ondisk import plain, two_domains
from scipy.special import stdtr

from fewmask.comparison import compare, words
from fewmask.comparison.single import score_intervals
from fewmask.engine.fit import train
from fewmask.labels import LabelSpace
from fewmask.methods import parse_config
from fewmask.runs import ImageCounts, write_counts

CLASSES = {"streets": ["road", "sky", "[bold]|`car"], "rooms": ["wall", "sky"]}
IMAGES = 12


# ── Runs ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def write_run(
    folder: Path, method: str, seed: int, gain: float = 0.0, counts: bool = True, steps: int = 10, **changes: Any
) -> Path:
    """A finished run's files, of networks that are right in about half the pixels and `gain` more; the last class is
    shown by no label."""
    rng = np.random.default_rng([seed, 1])  # both methods have the same luck, but for their own noise
    own = np.random.default_rng([seed, len(method)])
    domains, kept = {}, {}
    classes = changes.pop("classes", CLASSES)
    for name, names in classes.items():
        labelled = rng.integers(50, 100, (IMAGES, len(names)))
        labelled[:, -1] = 0 if name == "streets" else labelled[:, -1]
        labelled[: changes.get("without", 0), 0] = 0
        share = rng.uniform(0.4, 0.6, labelled.shape) + gain + own.normal(0, 0.01, labelled.shape)
        right = (labelled * share).astype(int)
        right[: changes.get("wrong", 0), 0] = 0
        images = np.stack([right, labelled, right + rng.integers(0, 30, right.shape)], -1)
        kept[name] = ImageCounts(
            np.array([f"{changes.get('stems', name)}{i}" for i in range(IMAGES)]), images, np.diag(right.sum(0))
        )
        iou = {c: None if np.isnan(v) else float(v) for c, v in zip(names, kept[name].iou, strict=True)}
        scored = [v for v in iou.values() if v is not None]
        shared = [v for c, v in iou.items() if c == "sky" and v is not None]
        private = [v for c, v in iou.items() if c != "sky" and v is not None]
        means = {"miou": statistics.mean(scored), "miou_shared": statistics.mean(shared)}
        domains[name] = runfolders.scores(iou, **means, miou_private=statistics.mean(private), images=IMAGES)
    labelled = {n: changes.get("labelled", 3) for n in classes}
    average = statistics.mean(d["miou"] for d in domains.values())
    fields = {"method": method, "seed": seed, "steps": steps, "selected_step": steps, "avg_miou": average}
    summary = runfolders.summary(domains, **fields, labelled=labelled)
    config = {
        "name": f"{method}-{seed}",
        "seed": seed,
        "domains": {n: {"root": str(folder.parent / n)} for n in classes},
        "method": {"name": method, "alpha": changes.get("alpha", 0.1)},
        "train": {"steps": steps, "workers": seed},
        "model": {"encoder": changes.get("encoder", "small")},
    }
    spaces = {n: LabelSpace(tuple(c), ((0, 0, 0),) * len(c), {i: i for i in range(len(c))}) for n, c in classes.items()}
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    runfolders.write(folder / "model.json", runfolders.description({n: s.to_dict() for n, s in spaces.items()}))
    if counts:
        write_counts(folder / "scores.npz", kept)
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Seeds 0, 1, 2 of `joint`, and of `better`, which is right in a tenth more of the pixels."""
    for seed in range(3):
        write_run(tmp_path / "runs" / f"joint-{seed}", "joint", seed)
        write_run(tmp_path / "runs" / "sub" / f"better-{seed}", "better", seed, gain=0.1)
    return tmp_path / "runs"


def test_pairs_are_by_seed_and_the_figures_those_of_the_summaries(runs: Path) -> None:
    result = compare([runs])
    assert [m["name"] for m in result["methods"]] == ["joint", "better"]
    (pair,) = result["comparisons"]
    assert (pair["a"], pair["b"], pair["seeds"], pair["basis"]) == ("joint", "better", [0, 1, 2], "seeds and images")
    assert pair["images"] == {"streets": IMAGES, "rooms": IMAGES}
    assert pair["warnings"] == []

    def figure(method: str, seed: int) -> Any:
        return json.loads(next(runs.rglob(f"{method}-{seed}/summary.json")).read_text(encoding="utf-8"))

    apart = [figure("better", s)["avg_miou"] - figure("joint", s)["avg_miou"] for s in range(3)]
    assert pair["avg_miou"]["by_seed"] == pytest.approx({str(s): d for s, d in enumerate(apart)})
    assert pair["avg_miou"]["difference"] == pytest.approx(statistics.mean(apart))
    means = result["methods"][0]["avg_miou"]
    of_joint = [figure("joint", s)["avg_miou"] for s in range(3)]
    assert means == pytest.approx({"mean": statistics.mean(of_joint), "sd": statistics.stdev(of_joint)})
    assert pair["avg_miou"]["a"] == pytest.approx(means["mean"])
    sky = pair["domains"]["rooms"]["iou"]["sky"]
    ious = [figure("better", s)["domains"]["rooms"]["iou"]["sky"] for s in range(3)]
    assert sky["b"] == pytest.approx(statistics.mean(ious))
    assert sky == {**pair["domains"]["rooms"]["miou_shared"], "p_holm": sky["p_holm"]}  # its only shared class
    wall = pair["domains"]["rooms"]["iou"]["wall"]
    assert wall == {**pair["domains"]["rooms"]["miou_private"], "p_holm": wall["p_holm"]}  # its only private one
    assert pair["domains"]["streets"]["iou"]["[bold]|`car"]["difference"] is None  # no label shows it


def test_a_real_difference_is_found_and_a_chance_one_is_not(runs: Path, tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path / "other" / str(seed), "chance", seed)
    better, chance = compare([runs, tmp_path / "other"])["comparisons"]
    assert better["avg_miou"]["verdict"] == "higher"
    low, high = better["avg_miou"]["interval"]
    assert 0.05 < low < better["avg_miou"]["difference"] < high < 0.12
    assert "better is better, beyond noise" in words.sentence(better)
    assert chance["avg_miou"]["verdict"] == "within noise"
    d = chance["avg_miou"]
    start = f"{words.points(d['difference'], '+')} ({words.interval(d['interval'])}): within noise. chance − "
    assert words.sentence(chance).startswith(start) and words.sentence(chance).endswith(", 3 seeds.")
    (worse,) = compare([runs / "sub", runs / "joint-*"])["comparisons"]
    assert worse["avg_miou"]["verdict"] == "lower"
    assert worse["avg_miou"]["difference"] == pytest.approx(-better["avg_miou"]["difference"])


def test_images_are_those_that_show_the_class_and_those_of_all_domains_in_the_mean(tmp_path: Path) -> None:
    for name, gain in (("one", 0.0), ("other", 0.004)):
        write_run(tmp_path / name, name, 0, gain, without=4, wrong=6)
    (pair,) = compare([tmp_path / "one", tmp_path / "other"])["comparisons"]
    rooms = pair["domains"]["rooms"]
    assert [rooms[key]["images"] for key in ("miou", "miou_shared")] == [IMAGES, IMAGES]
    assert {c: d["images"] for c, d in rooms["iou"].items()} == {"wall": IMAGES - 4, "sky": IMAGES}
    overall = pair["avg_miou"]
    assert overall["images"] == 2 * IMAGES
    # Two means were taken: t of 0.975 with 2 (IMAGES − 1) degrees of freedom is 2.0739.
    t = 2.073873 * overall["difference"] / (overall["interval"][1] - overall["difference"])
    assert overall["p"] == pytest.approx(2 * stdtr(2 * (IMAGES - 1), -abs(t)), rel=1e-4, abs=0)


def test_a_single_run_has_an_interval_over_its_images(tmp_path: Path) -> None:
    write_run(tmp_path / "one", "one", 0, without=IMAGES - 1)
    intervals = score_intervals(tmp_path / "one")
    assert intervals is not None and intervals.images == 2 * IMAGES
    summary = json.loads((tmp_path / "one" / "summary.json").read_text())
    for name, scores in summary["domains"].items():
        ends, n = intervals.domains[name].miou, IMAGES
        assert ends is not None and 0 <= ends[0] < scores["miou"] < ends[1] <= 1
        assert intervals.domains[name].images == n
    assert intervals.avg_miou is not None and intervals.avg_miou[0] < summary["avg_miou"] < intervals.avg_miou[1]
    assert intervals.domains["rooms"].iou["wall"] is None  # one image alone shows it: nothing is known of others
    (tmp_path / "one" / "scores.npz").unlink()
    assert score_intervals(tmp_path / "one") is None


def test_the_same_runs_give_the_same_numbers_however_they_are_named(runs: Path) -> None:
    one = compare([runs / "joint-*", runs / "sub"])
    other = compare([*sorted(runs.glob("joint-*")), *sorted((runs / "sub").iterdir())])
    assert one == other == compare([runs])


def test_one_seed_has_no_verdict_and_without_counts_no_interval(runs: Path) -> None:
    (pair,) = compare([runs / "joint-0", runs / "sub" / "better-0"])["comparisons"]
    assert pair["basis"] == "images"
    assert pair["avg_miou"]["verdict"] == "unknown"
    assert pair["avg_miou"]["interval"][0] > 0
    assert "one seed cannot tell" in words.sentence(pair)
    (runs / "joint-0" / "scores.npz").unlink()
    (pair,) = compare([runs / "joint-0", runs / "sub" / "better-0"])["comparisons"]
    assert pair["basis"] == "nothing"
    assert pair["avg_miou"]["interval"] is pair["avg_miou"]["p_holm"] is None
    assert "1 of 2 runs have no scores.npz" in pair["warnings"][0]


def test_without_counts_it_is_about_seeds_alone_and_says_so(runs: Path) -> None:
    for file in runs.rglob("scores.npz"):
        file.unlink()
    (pair,) = compare([runs])["comparisons"]
    assert pair["basis"] == "seeds"
    assert pair["images"] == {"streets": None, "rooms": None}
    assert "images" not in pair["avg_miou"]
    assert "on the same images" in words.assumptions(pair)[0]
    low, high = pair["avg_miou"]["bootstrap"]
    assert low == pytest.approx(min(pair["avg_miou"]["by_seed"].values()))
    assert high == pytest.approx(max(pair["avg_miou"]["by_seed"].values()))


def test_what_differs_beside_the_method_is_said(runs: Path, tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        write_run(tmp_path / "x" / str(seed), "x", seed, steps=20, encoder="large", labelled=9, stems="other")
    (pair,) = compare([runs / "joint-*", tmp_path / "x"])["comparisons"]
    assert pair["seeds"] == [1, 2]
    warnings = "\n".join(pair["warnings"])
    for part in (
        "joint: seeds 0 have no partner", "x: seeds 3 have no partner", "steps: 10, 20", "labelled.rooms: 3, 9",
        "model.encoder: small, large", "rooms: the runs were scored on different images",
    ):  # fmt: skip
        assert part in warnings
    assert "method" not in warnings.replace("another difference than the method", "")
    assert pair["basis"] == "seeds"


def test_that_one_is_a_campaign_and_what_campaigns_were_trained_on_is_said(runs: Path) -> None:
    plain, one, other = runs / "joint-0", runs / "joint-1", runs / "sub" / "better-1"
    with_settings(plain, campaign=None)
    campaign_of(runs / "sub" / "better-0", rooms=7)
    campaign_of(one, rooms=7)
    campaign_of(other, rooms=8)
    (mixed,) = compare([plain, runs / "sub" / "better-0"])["comparisons"]
    assert mixed["warnings"] == ["another difference than the method: campaign: none, given"]
    (both,) = compare([one, other])["comparisons"]
    assert both["warnings"] == ["another difference than the method: labelled_pixels.rooms: 7, 8"]


def campaign_of(folder: Path, **pixels: int) -> None:
    """Make a run one of a campaign of two rounds that ended with so many labelled pixels."""
    summary = (folder / "summary.json").read_text(encoding="utf-8")
    for number in range(2):
        (folder / "rounds" / f"{number:02d}").mkdir(parents=True)
        (folder / "rounds" / f"{number:02d}" / "summary.json").write_text(summary, encoding="utf-8")
    history = [runfolders.entry(number, pixels) for number in range(2)]
    runfolders.write(folder / "campaign.json", runfolders.campaign(history))
    with_settings(folder, campaign={"rounds": 2})


def with_settings(folder: Path, **changes: Any) -> None:
    settings = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")) | changes
    (folder / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")


def test_methods_of_other_domains_are_compared_on_those_in_common(runs: Path, tmp_path: Path) -> None:
    """A network for each domain against one for all."""
    for seed in range(3):
        write_run(tmp_path / "single" / str(seed), "single", seed, classes={"streets": CLASSES["streets"]})
    (pair,) = compare([runs / "joint-*", tmp_path / "single"])["comparisons"]
    assert pair["warnings"][0] == "joint also has rooms; the comparison is on streets only"
    assert list(pair["domains"]) == ["streets"]
    assert pair["avg_miou"]["difference"] == pair["domains"]["streets"]["miou"]["difference"]


def test_means_of_other_classes_are_not_compared(runs: Path, tmp_path: Path) -> None:
    """A network for streets and the sea shares other classes of streets than one for streets and rooms."""
    for seed in range(3):
        sea = {"streets": CLASSES["streets"], "sea": ["sky", "road"]}
        write_run(tmp_path / "few" / f"few-{seed}", "few", seed, classes=sea)
        write_run(tmp_path / "more" / str(seed), "more", seed, classes={**CLASSES, "sea": ["wave", "sky"]})
    few, more = compare([runs / "joint-*", tmp_path / "few", tmp_path / "more"])["comparisons"]
    assert list(few["domains"]["streets"]) == ["miou", "iou"]
    assert few["warnings"][-1].startswith("streets: joint and few may share different classes")
    assert list(more["domains"]["streets"]) == ["miou", "miou_shared", "miou_private", "iou"]
    assert not [warning for warning in more["warnings"] if "left out" in warning]
    places = [runs / "joint-0", tmp_path / "few" / "few-0"]
    summaries = {p.name.replace("-", "/"): json.loads((p / "summary.json").read_text(encoding="utf-8")) for p in places}
    (tmp_path / "result.json").write_text(json.dumps({"runs": summaries}), encoding="utf-8")
    (of_file,) = compare([tmp_path / "result.json"])["comparisons"]
    assert list(of_file["domains"]["streets"]) == ["miou", "iou"]


def test_methods_of_one_name_are_told_apart(runs: Path, tmp_path: Path) -> None:
    for seed in range(2):
        write_run(tmp_path / "new" / str(seed), "joint", seed)
        write_run(tmp_path / "alpha" / str(seed), "joint", seed, alpha=0.5)
    names = [m["name"] for m in compare([runs / "joint-*", tmp_path / "alpha"])["methods"]]
    assert names == ["joint (alpha=0.1)", "joint (alpha=0.5)"]
    names = [m["name"] for m in compare([runs / "joint-*", tmp_path / "new"])["methods"]]  # another version's, perhaps
    assert names == [f"joint ({runs / 'joint-0'})", f"joint ({tmp_path / 'new' / '0'})"]


def test_what_cannot_be_compared_is_refused(runs: Path, tmp_path: Path) -> None:
    def refused(*places: Path, match: str) -> None:
        with pytest.raises(ValueError, match=match):
            compare(places)

    refused(runs / "joint-*", match="runs of one method only \\(joint\\)")
    refused(runs / "nowhere", match="nowhere: contains no finished run")
    write_run(tmp_path / "late" / "9", "late", 9)
    refused(runs / "joint-*", tmp_path / "late", match="joint has seeds 0, 1, 2, late has 9: none in common")
    write_run(tmp_path / "one" / "0", "one", 0, classes={"sea": ["sky", "wave"]})
    refused(runs / "joint-*", tmp_path / "one", match="on streets, rooms, .* on sea: there is no common domain")
    write_run(tmp_path / "two" / "0", "two", 0, classes={**CLASSES, "rooms": ["sky", "wall"]})
    refused(runs / "joint-*", tmp_path / "two", match="rooms: its classes are wall, sky in .*, sky, wall in ")
    write_run(tmp_path / "twice" / "a", "joint", 0)
    write_run(tmp_path / "twice" / "b", "joint", 0)
    refused(tmp_path / "twice", match="a and .*b are the same method and seed")
    other = (tmp_path / "late" / "9" / "scores.npz").read_bytes()
    (runs / "joint-1" / "scores.npz").write_bytes(other)
    refused(runs, match=r"joint-1/scores.npz: does not match the scores of streets in .*summary.json; remove it")
    (runs / "joint-1" / "summary.json").write_text("{")
    refused(runs, match=r"joint-1/summary\.json: damaged")


def test_an_unfinished_run_is_named_and_a_campaigns_rounds_are_no_runs(runs: Path) -> None:
    (runs / "joint-7").mkdir()
    (runs / "joint-7" / "config.yaml").touch()
    write_run(runs / "joint-0" / "rounds" / "00", "joint", 2**20)
    result = compare([runs])
    assert result["warnings"] == [f"{runs / 'joint-7'}: not finished, left out"]
    assert list(result["methods"][0]["runs"]) == ["0", "1", "2"]


@pytest.mark.parametrize("state", ["waiting", None])
def test_a_campaign_that_goes_on_is_not_finished(runs: Path, state: str | None) -> None:
    """It has the summary of its latest round; killed at its first one's end, it has not yet said what it came to."""
    folder = runs / "joint-0"
    (folder / "ledger.sqlite").touch()
    if state:
        runfolders.write(folder / "campaign.json", runfolders.campaign([], state=state))
    result = compare([runs])
    assert result["warnings"] == [f"{folder}: not finished, left out"]
    assert list(result["methods"][0]["runs"]) == ["1", "2"]
    runfolders.write(folder / "campaign.json", runfolders.campaign([]))
    assert compare([runs])["warnings"] == []


def test_what_a_campaign_took_is_of_all_its_rounds(runs: Path) -> None:
    folder = runs / "joint-0"
    for number in range(3):
        write_run(folder / "rounds" / f"{number:02d}", "joint", 0)  # of 60 s each
    history = [runfolders.entry(number, {"streets": 7}, seconds) for number, seconds in enumerate((0.0, 6.0, 0.0))]
    runfolders.write(folder / "campaign.json", runfolders.campaign(history))
    assert compare([runs])["methods"][0]["seconds"]["mean"] == pytest.approx((180 + 6 + 60 + 60) / 3)
    (folder / "rounds" / "01" / "summary.json").unlink()
    with pytest.raises(ValueError, match=r"01/summary.json: missing"):
        compare([runs])


def test_a_result_file_is_compared_as_its_runs_are(runs: Path, tmp_path: Path) -> None:
    results = {}
    for file in sorted(runs.rglob("summary.json")):
        summary = json.loads(file.read_text(encoding="utf-8"))
        results[f"{summary['method']}/{summary['seed']}"] = {k: summary[k] for k in ("avg_miou", "seconds", "domains")}
        (file.parent / "scores.npz").unlink()
    path = tmp_path / "result.json"
    path.write_text(json.dumps({"runs": dict(sorted(results.items(), reverse=True)), "steps": 10}))
    (one,), (other,) = compare([path])["comparisons"], compare([runs])["comparisons"]
    assert (one["avg_miou"], one["domains"]) == (other["avg_miou"], other["domains"])
    path.write_text(json.dumps({"runs": {"joint/0": {"miou": 0.5}}}))
    with pytest.raises(ValueError, match=r"result.json: not a result file \(KeyError: 'domains'\)"):
        compare([path])


def test_runs_as_they_are_trained(tmp_path: Path) -> None:
    root = two_domains(tmp_path / "data")
    for method in ("joint", "entropy-min"):
        for seed in range(2):
            settings = {**plain(root, method, steps=1), "seed": seed, "name": f"{method}-{seed}"}
            train(parse_config(settings), tmp_path / "runs" / f"{method}-{seed}")
    (pair,) = compare([tmp_path / "runs" / "joint-*", tmp_path / "runs" / "entropy-min-*"])["comparisons"]
    assert (pair["a"], pair["b"], pair["seeds"]) == ("joint", "entropy-min", [0, 1])
    assert pair["basis"] == "seeds and images"
    assert pair["images"] == {"a": 2, "b": 2}
    assert pair["warnings"] == []
    assert list(pair["domains"]["b"]) == ["miou", "miou_shared", "miou_private", "iou"]


# ── The command ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_command_prints_a_table_and_says_what_is_beyond_noise(runs: Path, fewmask: Fewmask) -> None:
    done = fewmask("compare", runs)
    assert done.code == 0, done.err
    assert "better is better, beyond noise" in done.out
    assert "it holds for other seeds and for other images" in done.out
    assert "higher" in done.out
    assert "private" in done.out


def test_the_json_has_these_keys(runs: Path, fewmask: Fewmask) -> None:
    """Scripts rely on them: a change is a new `schema`."""
    done = fewmask("compare", runs, "--json")
    result = json.loads(done.out)
    assert result == json.loads(json.dumps(compare([runs])))
    assert list(result) == ["schema", "level", "draws", "methods", "comparisons", "warnings"]
    assert result["schema"] == 1
    assert list(result["methods"][0]) == ["name", "runs", "seconds", "avg_miou", "domains"]
    (pair,) = result["comparisons"]
    assert list(pair) == ["a", "b", "seeds", "basis", "images", "avg_miou", "domains", "warnings"]
    assert list(pair["domains"]["rooms"]) == ["miou", "miou_shared", "miou_private", "iou"]
    keys = ["a", "b", "difference", "by_seed", "interval", "bootstrap", "p", "images", "p_holm", "verdict"]
    assert list(pair["avg_miou"]) == list(pair["domains"]["rooms"]["iou"]["sky"]) == keys


def test_the_markdown_table_has_a_row_for_each_method_and_difference(runs: Path, fewmask: Fewmask) -> None:
    done = fewmask("compare", runs, "--markdown")
    head, rule, joint, better, difference, *rest = done.out.splitlines()
    columns = ["method", "seeds", "streets", "rooms", "mean", "private streets", "private rooms", "minutes a run"]
    assert head == f"| {' | '.join(columns)} |"
    assert rule == "|---" * 8 + "|"
    assert joint.startswith("| `joint` | 3 | ")
    assert better.endswith("| 1.0 |")
    mean = compare([runs])["comparisons"][0]["avg_miou"]
    assert f"**+{100 * mean['difference']:.1f} (+{100 * mean['interval'][0]:.1f} … " in difference
    assert rest[0] == ""
    assert rest[1].startswith("- +") and "): better is better, beyond noise. better − joint in points of" in rest[1]


def test_the_markdown_table_has_the_domains_of_all_methods(runs: Path, tmp_path: Path, fewmask: Fewmask) -> None:
    """Whichever comes first; a mean over fewer domains is no number to stand beside the others."""
    for seed in range(3):
        write_run(tmp_path / "single" / str(seed), "single", seed, classes={"rooms": CLASSES["rooms"]})
    alone, joint = tmp_path / "single", runs / "joint-*"
    for places, first in (((joint, alone), ["streets", "rooms"]), ((alone, joint), ["rooms", "streets"])):
        head, _, *lines = fewmask("compare", *places, "--markdown").out.splitlines()
        columns = [c.strip() for c in head.split("|")[1:-1]]
        assert columns == ["method", "seeds", *first, "mean", *(f"private {n}" for n in first), "minutes a run"]
        rows = [dict(zip(columns, [c.strip() for c in line.split("|")[1:-1]], strict=True)) for line in lines[:3]]
        single = next(row for row in rows if row["method"] == "`single`")
        of_both = next(row for row in rows if row["method"] == "`joint`")
        empty = {name for name, cell in single.items() if cell == "–"}
        assert empty == {"streets", "mean", "private streets"}
        assert "–" not in of_both.values()
        assert rows[2]["streets"] == rows[2]["mean"] == "–"
        assert rows[2]["rooms"] != "–"


RESULTS = sorted((Path(__file__).parents[2] / "results").glob("*.json"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_what_was_measured_for_the_pages_is_compared_or_refused_with_a_reason(path: Path) -> None:
    runs = json.loads(path.read_text(encoding="utf-8")).get("runs", {})
    scored = all(
        "/" in key and "avg_miou" in run and all(isinstance(d, dict) for d in run.get("domains", {"": 0}).values())
        for key, run in runs.items()
    )
    if not scored or len({key.rpartition("/")[0] for key in runs}) < 2:
        with pytest.raises(ValueError, match=r"runs of one method only|not a result file"):
            compare([path])
        return
    result = compare([path], draws=2)
    head, rule, *_ = words.markdown(result).splitlines()
    domains = {name for method in result["methods"] for name in method["domains"]}
    assert domains <= {c.strip() for c in head.split("|")}
    assert head.count("|") == rule.count("|")


def test_wrong_input_has_code_2(runs: Path, fewmask: Fewmask) -> None:
    is_refused(fewmask("compare", runs / "joint-0"), "runs of one method only")
    is_refused(fewmask("compare"), "Usage")
