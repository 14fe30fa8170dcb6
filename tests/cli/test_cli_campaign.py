"""The verbs of a campaign: what they do, what they say, and what a person is told to do next."""

from __future__ import annotations

import json
import resource
import shutil
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import Fewmask, is_refused
from ondisk import plain, two_domains, write_config
from PIL import Image

from fewmask.annotation.coco import write_instances
from fewmask.annotation.ledger import Ledger
from fewmask.annotation.page import server
from fewmask.annotation.page.address import Address
from fewmask.annotation.page.guesses import FOLDER, Guesses, Predictor
from fewmask.annotation.page.learning import Learner
from fewmask.annotation.page.service import Run
from fewmask.annotation.page.smart_select import Point, Prompt, Selector
from fewmask.campaigns import campaign
from fewmask.data.pseudo import PseudoFolder
from fewmask.engine.guess import predictor
from fewmask.engine.run import load_config, load_domains
from fewmask.files import Written
from fewmask.labels import NOT_LABELLED
from fewmask.methods import read_config

ASK = {"score": "entropy", "regions": "squares:8", "budget": {"amount": 3, "unit": "regions"}}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_domains(tmp_path_factory.mktemp("data"), pool=0)


def settings_of(data: Path) -> dict[str, Any]:
    return plain(data, "joint", steps=2, batch_size=2) | {
        "labelled": {"images": 2},
        "campaign": {"rounds": 2, "ask": ASK, "pool": {"scales": [1.0]}, "target": 0.9},
    }


@pytest.fixture
def config(data: Path, tmp_path: Path) -> Path:
    return write_config(tmp_path / "config.yaml", settings_of(data))


@pytest.fixture(scope="module")
def first_waiting(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a campaign that waits for people; it is copied for every test."""
    folder = tmp_path_factory.mktemp("campaign")
    path = write_config(folder / "config.yaml", settings_of(data))
    assert campaign(read_config(path), folder / "run")["state"] == "waiting"
    return folder / "run"


@pytest.fixture
def waiting(first_waiting: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(first_waiting, tmp_path / "run"))


def paint(questions: Path, value: int = 1) -> None:
    """Fill every mask, as a careless person does."""
    for path in questions.glob("*/labels/*.png"):
        with Image.open(path) as mask:
            Image.fromarray(np.full(np.array(mask).shape, value, np.uint8)).save(path)


# ── campaign ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_with_the_oracle_it_runs_through(config: Path, tmp_path: Path, fewmask: Fewmask) -> None:
    arguments = ["campaign", config, "campaign.annotator=oracle", "--out", tmp_path / "run"]
    done = fewmask(*arguments)
    assert done.code == 0, done.err
    for part in ("c0", "mIoU on validation", "regions in all", "pixels in all", "mean", "Three rounds"):
        assert part in done.out
    for part in ("joint round 1/2 train 2/2 loss", "s left", "a round 2/2 score pool 2/2"):
        assert part in done.err
    assert "joint round 2/2 train 2/2 loss" in done.err
    assert "asked for 3 regions, 3 of 3 questions answered" in done.err
    assert "Asked for 3 regions of a budget of 3." in done.out
    again = fewmask(*arguments, "--json")
    assert json.loads(again.out) == json.loads((tmp_path / "run" / "campaign.json").read_text())
    assert json.loads(again.out)["state"] == "done"


def test_with_people_it_stops_and_says_what_to_do(config: Path, tmp_path: Path, fewmask: Fewmask) -> None:
    run = tmp_path / "run"
    done = fewmask("campaign", config, "train.steps=1", "--out", run)
    assert done.code == 0, done.err
    command = f"fewmask campaign {config} train.steps=1 --out {run}"
    assert "Round 2 of 2 waits for answers: 3 questions are open in" in done.out
    assert "The next training is the last one; it ignores questions that are still open." in done.out
    for line in (
        f"fewmask answer {run}",
        f"fewmask query {run}",
        f"fewmask answer {run} --from {run / 'questions'}",
        command,
        f"{command} --enough",
    ):
        assert f"  {line}\n" in done.out
    assert fewmask("campaign", config, "train.steps=1", "--out", run).out == done.out


def test_the_way_of_people(waiting: Path, config: Path, fewmask: Fewmask) -> None:
    query = fewmask("query", waiting)
    assert query.code == 0, query.err
    assert "3 questions are open in" in query.out
    assert f"fewmask answer {waiting} --from {waiting / 'questions'}" in query.out
    paint(waiting / "questions")
    answered = fewmask("answer", waiting, "--from", waiting / "questions", "--annotator", "ada")
    assert answered.code == 0, answered.err
    assert "3 answered, 0 answered before, 0 not painted." in answered.out
    assert "pixels outside" in answered.out
    assert "No question is open" in answered.out
    again = fewmask("answer", waiting, "--from", waiting / "questions", "--annotator", "ada", "--json")
    counts = json.loads(again.out)
    assert (counts["answered"], counts["unchanged"], counts["undecided"], counts["open"]) == (0, 3, 0, 0)
    assert counts["outside"] > 0
    nothing = fewmask("query", waiting)
    assert (nothing.code, nothing.err) == (0, "")
    assert "No question is open" in nothing.out
    done = fewmask("campaign", config, "--out", waiting)
    assert done.code == 0, done.err
    assert "mean mIoU over domains" in done.out


def test_answers_may_be_few(waiting: Path, config: Path, fewmask: Fewmask) -> None:
    folder = waiting.parent / "elsewhere"
    query = json.loads(fewmask("query", waiting, "--out", folder, "--json").out)
    assert (query["open"], query["folder"]) == (3, str(folder))
    one = min(folder.glob("*/labels/*.png"))
    for path in folder.glob("*/labels/*.png"):
        if path != one:
            path.unlink()
    paint(folder)
    done = fewmask("answer", waiting, "--from", folder)
    left = 3 - int(done.out.split()[0])
    assert 0 <= left < 3
    assert (f"{left} question" in done.out) == (left > 0)
    summary = json.loads(fewmask("campaign", config, "--out", waiting, "--enough", "--json").out)
    assert (summary["state"], summary["answered"]) == ("done", 3 - left)


def test_a_folder_that_was_written_for_somebody_is_theirs(waiting: Path, fewmask: Fewmask) -> None:
    assert fewmask("query", waiting, "--annotator", " ada ").code == 0
    folder = waiting / "questions-ada"
    paint(folder)
    is_refused(
        fewmask("answer", waiting, "--from", folder, "--annotator", "bob"), "was written for ada", "the folder of bob"
    )
    is_refused(fewmask("answer", waiting, "--from", folder, "--annotator", " "), "--annotator ' ': the name is empty")
    for names in ([], ["--annotator", "ada "]):
        assert fewmask("answer", waiting, "--from", folder, *names).code == 0
    with Ledger(waiting / "ledger.sqlite") as ledger:
        assert {a.annotator for a in ledger.answers()} == {"ada"} and len(ledger.answers()) == 3


def test_of_several_each_has_to_say_who_they_are(config: Path, tmp_path: Path, fewmask: Fewmask) -> None:
    run = tmp_path / "run"
    assert fewmask("campaign", config, "campaign.answers.each=2", "--out", run).code == 0
    assert fewmask("query", run).code == 0
    paint(run / "questions")
    nameless = fewmask("answer", run, "--from", run / "questions")
    is_refused(nameless, "--annotator: missing, and every question is asked of 2 people")
    assert fewmask("answer", run, "--from", run / "questions", "--annotator", "ada").code == 0


def test_a_training_is_no_campaign_and_a_campaign_no_training(
    waiting: Path, config: Path, tmp_path: Path, fewmask: Fewmask
) -> None:
    trained = tmp_path / "trained"
    done = fewmask("train", config, "--out", trained)
    assert done.code == 0 and "`fewmask train` trains once and ignores `campaign`" in done.err
    before = sorted(path.name for path in trained.iterdir())
    is_refused(fewmask("campaign", config, "--out", trained), "holds a run of `fewmask train`", "give another --out")
    assert sorted(path.name for path in trained.iterdir()) == before
    is_refused(fewmask("query", trained), "a run of `fewmask train`, which asks no questions")
    is_refused(fewmask("train", config, "--out", waiting), "holds a campaign; go on with `fewmask campaign`")


def test_enough_needs_no_answer(waiting: Path, config: Path, fewmask: Fewmask) -> None:
    summary = json.loads(fewmask("campaign", config, "--out", waiting, "--enough", "--json").out)
    assert (summary["state"], summary["answered"], summary["asked"]) == ("done", 0, 3)


def test_answers_after_the_last_training_are_kept_and_said_to_come_too_late(
    waiting: Path, config: Path, fewmask: Fewmask
) -> None:
    done = fewmask("campaign", config, "--out", waiting, "--enough")
    assert "3 questions stay open; no training follows that uses the answers." in done.out
    fewmask("query", waiting)
    paint(waiting / "questions")
    late = fewmask("answer", waiting, "--from", waiting / "questions")
    assert "3 answered" in late.out and "The campaign is done: `fewmask campaign` writes the answers" in late.out
    assert "No question is open in" in (output := fewmask("query", waiting).out) and "Its campaign is done." in output
    weights = (waiting / "model.safetensors").read_bytes()
    before = len(list((waiting / "labels").rglob("*.png")))
    done = fewmask("campaign", config, "--out", waiting)
    assert "stay open" not in done.out
    assert len(list((waiting / "labels").rglob("*.png"))) > before == 0
    assert (waiting / "model.safetensors").read_bytes() == weights


def test_an_image_that_was_asked_about_and_is_gone_is_named(
    waiting: Path, config: Path, data: Path, tmp_path: Path, fewmask: Fewmask
) -> None:
    with Ledger(waiting / "ledger.sqlite") as ledger:
        question = ledger.questions()[0]
    split = data / question.domain / "splits" / "train.txt"
    stems = split.read_text(encoding="utf-8")
    try:
        split.write_text(stems.replace(f"{question.stem}\n", ""), encoding="utf-8")
        for command in (
            ["campaign", config, "--out", waiting],
            ["query", waiting],
            *(["query", waiting, "--for", tool, "--out", tmp_path / tool] for tool in ("cvat", "coco", "label-studio")),
        ):
            done = fewmask(*command)
            assert done.code == 2
            assert f"{question.domain}: it asked about {question.stem}, which train does not have" in done.err
        assert fewmask("report", waiting).code == 0
        source = load_domains(load_config(waiting))[question.domain].source
        with pytest.raises(ValueError, match="there is no image 'gone'; put it and its split back as they were"):
            source.image("gone")
    finally:
        split.write_text(stems, encoding="utf-8")


def test_the_target_of_the_forecast_may_change(waiting: Path, config: Path, fewmask: Fewmask) -> None:
    done = fewmask("campaign", config, "campaign.target=0.9", "--out", waiting)
    assert done.code == 0, done.err


def test_an_interrupted_campaign_says_how_to_go_on(
    config: Path, tmp_path: Path, fewmask: Fewmask, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(import_module("fewmask.campaigns"), "campaign", stopped)
    done = fewmask("campaign", config, "--out", tmp_path / "run")
    assert (done.code, done.out) == (1, "")
    assert done.err.splitlines()[-1] == "error: stopped; the same command resumes from the files on the disk"


# ── Wrong input ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_no_campaign_is_refused(data: Path, tmp_path: Path, fewmask: Fewmask) -> None:
    config, run = write_config(tmp_path / "c.yaml", plain(data, "joint", steps=1)), tmp_path / "run"
    is_refused(fewmask("campaign", config, "--out", run), "campaign: missing")
    assert not run.exists()
    assert fewmask("train", config, "--out", run, "--json").code == 0
    is_refused(fewmask("query", run), f"{run}: a run of `fewmask train`", "give a folder of `fewmask campaign`")
    is_refused(fewmask("answer", run, "--from", tmp_path), f"{run}: a run of `fewmask train`")
    is_refused(fewmask("query", tmp_path), f"{tmp_path}: not a run")


def test_the_labelling_page_is_opened(waiting: Path, fewmask: Fewmask, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it is about, who guesses, and what is printed; the page itself is tested in test_page.py."""
    opened: list[tuple[Path, Run, Predictor | None, int | None]] = []
    selectors: list[Selector | None] = []
    learners: list[Learner | None] = []

    def serve(
        folder: Path,
        run: Run,
        who: Predictor | None,
        selector: Selector | None,
        learner: Learner | None,
        port: int | None,
        tell: Callable[[str], None],
        guidelines: Path | None,
        address: Address,
    ) -> None:
        assert address == Address()
        opened.append((folder, run, who, port))
        selectors.append(selector)
        learners.append(learner)
        tell("http://127.0.0.1:1234/token/")

    monkeypatch.setattr(server, "serve", serve)
    done = fewmask("answer", waiting, "--port", 1234, "--annotator", "ada", "--device", "cpu", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out) == {"link": "http://127.0.0.1:1234/token/"}
    shown = fewmask("answer", waiting, "--question", 2, "--question", 3, "--no-learn").out
    assert learners[0] is not None and learners[1] is None
    is_refused(fewmask("answer", waiting, "--sam", waiting / "e.onnx", "d.onnx"), "e.onnx: no such file")
    is_refused(fewmask("answer", waiting, "--sam", "e.onnx", "d.onnx", "--from", "x"), "--sam", "leave one")
    assert opened[1][1].only == {2, 3}
    assert shown.startswith("http://127.0.0.1:1234/token/\n")
    assert "3 questions are open" in shown
    folder, run, who, port = opened[0]
    assert (folder, port, run.name, run.annotator) == (waiting, 1234, waiting.name, "ada")
    assert run.only is None and run.rule.each == 1
    assert who is not None
    label, probability = who.predict("a", run.domains["a"].image(run.domains["a"].splits["train"][0]))
    assert label.dtype == np.uint8 and label.max() < 3 and label.shape == probability.shape == (40, 48)
    assert (probability >= 1 / 3 - 1e-6).all() and (probability <= 1).all()
    image, points = run.domains["a"].image(run.domains["a"].splits["train"][0]), Prompt(points=[Point(y=9, x=9)])
    assert selectors[0] is not None
    scores = selectors[0].select(("a", "0"), lambda: image, (4, 4, 34, 44), points)
    assert scores.values.shape == (30, 40) and scores.values.any()
    assert opened[1][3] is None and opened[1][1].annotator is None


def test_links_are_made_listed_and_revoked(waiting: Path, fewmask: Fewmask) -> None:
    assert "Nobody has a link" in fewmask("links", waiting).out
    is_refused(fewmask("answer", waiting, "--public-url", "https://a.example"), "nobody has a link", "--add NAME")
    is_refused(fewmask("answer", waiting, "--host", "0.0.0.0"), "--host 0.0.0.0", "--tls", "--public-url")
    is_refused(fewmask("answer", waiting, "--host", "0.0.0.0", "--from", "x"), "--host: is for the page")
    made = json.loads(fewmask("links", waiting, "--add", "anna", "--add", " ben ", "--json").out)
    assert list(made) == ["anna", "ben"]
    assert made["anna"] | {"link": ""} == {"link": "", "answered": 0, "skipped": 0, "seconds": 0.0}
    shown = fewmask("links", waiting, "--revoke", "anna").out
    assert "Revoked: anna. The answers stay." in shown
    assert made["ben"]["link"] in shown and made["anna"]["link"] not in shown
    is_refused(fewmask("links", waiting, "--revoke", "anna"), "'anna': has no link; those who have: ben")


def test_answers_come_from_a_folder(waiting: Path, tmp_path: Path, fewmask: Fewmask) -> None:
    is_refused(fewmask("answer", waiting, "--from", tmp_path / "no"), f"{tmp_path / 'no'}: no such folder")


def test_what_is_wrong_with_the_ledger_is_said_with_its_file(waiting: Path, fewmask: Fewmask) -> None:
    assert fewmask("query", waiting).code == 0
    paint(waiting / "questions")
    path = waiting / "ledger.sqlite"
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + bytes(len(whole) - 4096))
    for command in (["answer", waiting, "--from", waiting / "questions"], ["agreement", waiting]):
        failed = fewmask(*command)
        assert failed.code in (1, 2) and f"{path}: " in failed.err and "Traceback" not in failed.err, failed.err
    path.write_bytes(whole)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        full = fewmask("answer", waiting, "--from", waiting / "questions")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    is_refused(full, f"error: {path}: disk I/O error; its disk failed or is full; nothing was saved: see to the disk")
    assert "3 answered" in fewmask("answer", waiting, "--from", waiting / "questions").out


@pytest.mark.parametrize("tool", ["label-studio", "cvat", "coco"])
def test_questions_for_a_tool(tool: str, waiting: Path, tmp_path: Path, fewmask: Fewmask) -> None:
    done = fewmask("query", waiting, "--for", tool, "--out", tmp_path / "tasks")
    assert done.code == 0, done.err
    assert f"fewmask answer {waiting} --from FILE" in done.out
    assert any((tmp_path / "tasks").rglob("*.json")) or any((tmp_path / "tasks").rglob("*.xml"))
    both = fewmask("query", waiting, "--to", "http://localhost:8080", "--out", tmp_path)
    is_refused(both, "--to: sends to all people of a Label Studio server", "leave out --out")
    is_refused(fewmask("query", waiting, "--for", "paint"), "--for: no tool 'paint'; there are folder, label-studio")


def test_a_tool_is_told_what_the_network_expects(waiting: Path, tmp_path: Path, fewmask: Fewmask) -> None:
    config = load_config(waiting)
    network, domains = predictor(waiting, precision=config.train.precision), load_domains(config)
    assert network is not None
    guesses = Guesses(waiting / FOLDER, network)
    with Ledger(waiting / "ledger.sqlite") as ledger:
        questions = ledger.questions()
    # The small network expects one class in a whole region. For the first one there is a stored guess of two classes.
    first = questions[0]
    halves = domains[first.domain].image(first.stem)[..., 0] * np.uint8(0)
    halves[:, (first.box[1] + first.box[3]) // 2 :] = 1
    stored = PseudoFolder(waiting / FOLDER / network.version / first.domain, written=Written(waiting / FOLDER))
    stored.write(first.stem, halves, halves)
    assert fewmask("query", waiting, "--for", "coco", "--out", tmp_path / "tasks").code == 0
    expected = Counter[tuple[str, int]]()
    for question in questions:
        image = domains[question.domain].image(question.stem)
        label, _ = guesses.get(question.domain, question.stem, lambda image=image: image)
        crop = question.crop(label)
        expected.update((question.domain, int(value)) for value in crop[crop != NOT_LABELLED])
    areas = Counter[tuple[str, int]]()
    for path in (tmp_path / "tasks").glob("*/instances.json"):
        written = json.loads(path.read_text(encoding="utf-8"))
        classes = {c["id"]: domains[path.parent.name].space.names.index(c["name"]) for c in written["categories"][:-1]}
        for annotation in written["annotations"]:
            areas[path.parent.name, classes[annotation["category_id"]]] += int(annotation["area"])
    assert areas == expected and len({value for _, value in expected}) > 1


def test_answers_from_what_a_tool_wrote(waiting: Path, tmp_path: Path, fewmask: Fewmask) -> None:
    fewmask("query", waiting)
    domains = load_domains(load_config(waiting))
    taken = 0
    for folder in (path.parent for path in waiting.glob("questions/*/labels")):
        masks = [(path.stem, np.array(Image.open(path)) * 0 + 1) for path in folder.glob("labels/*.png")]
        file = tmp_path / f"{folder.name}.json"
        write_instances(file, domains[folder.name].space, masks)
        answered = fewmask("answer", waiting, "--from", file, "--json")
        assert answered.code == 0, answered.err
        taken += json.loads(answered.out)["answered"]
    assert taken == 3
    is_refused(fewmask("answer", waiting, "--from", tmp_path / "a.txt"), "no tool reads a file of this name")


# ── agreement ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_agreement_of_nobody_of_one_and_of_two(waiting: Path, tmp_path: Path, fewmask: Fewmask) -> None:
    assert fewmask("agreement", waiting).out == "Nobody has answered yet.\n"
    folder = tmp_path / "painted"
    assert fewmask("query", waiting, "--out", folder).code == 0
    paint(folder, 1)
    assert fewmask("answer", waiting, "--from", folder, "--annotator", "ada").code == 0
    alone = fewmask("agreement", waiting)
    assert alone.code == 0 and "Only ada has answered: there is nothing to compare" in alone.out
    assert "campaign.answers.each=2" in alone.out
    paint(folder, 2)
    bob = "answer", waiting, "--from", folder, "--annotator", "bob"
    closed = fewmask(*bob).out
    assert "0 answered" in closed and "3 not open, answered or skipped before by ada: " in closed
    assert f"fewmask answer {waiting} --from {folder} --annotator bob --corrections" in closed
    again = fewmask(*bob, "--corrections").out
    assert "THESE REPLACE answers by others: 3 by ada" in again and "--annotator bob --take-back" in again
    assert "3 taken back" in fewmask(*bob, "--take-back").out
    assert fewmask(*bob, "--corrections").code == 0
    is_refused(fewmask(*bob, "--corrections", "--take-back"), "--corrections, --take-back: give only one of them")
    done = fewmask("agreement", waiting)
    assert done.code == 0, done.err
    for part in ("ada", "bob", "Agreement is 0.0 %", "class of one annotator", f"fewmask answer {waiting} --question "):
        assert part in done.out
    report = json.loads(fewmask("agreement", waiting, "--worst", "2", "--json").out)
    regions = [region for part in report["domains"].values() for region in part["regions"]]
    assert 0 < len(regions) <= 4 and {region["agreement"] for region in regions} == {0}
    assert report["annotators"]["ada"]["answered"] == report["annotators"]["bob"]["shared"] == 3
    is_refused(fewmask("agreement", folder), f"{folder}: not a run")
    is_refused(fewmask("answer", waiting, "--from", folder, "--question", 1), "--question: is for the page")


def test_two_annotators_paint_in_folders_of_their_own(config: Path, tmp_path: Path, fewmask: Fewmask) -> None:
    run, two = tmp_path / "two", "campaign.answers.each=2"
    output = fewmask("campaign", config, two, "--out", run).out
    for line in ("query {0} --annotator NAME", "answer {0} --from {0}/questions-NAME --annotator NAME"):
        assert f"  fewmask {line.format(run)}\n" in output
    for who, folder, left in (("ada", "questions-ada", 3), ("../bob", "questions-..%2Fbob", 0)):
        query = fewmask("query", run, "--annotator", who)
        assert f"fewmask answer {run} --from {run / folder} --annotator {who}" in query.out
        paint(run / folder)
        command = "answer", run, "--from", run / folder, "--annotator", who, "--json"
        assert json.loads(fewmask(*command).out)["open"] == left
        assert f"No question is open to {who} in" in fewmask("query", run, "--annotator", who).out
    done = fewmask("campaign", config, two, "--out", run, "--json")
    assert (json.loads(done.out)["state"], json.loads(done.out)["answered"]) == ("done", 3)
