"""The run folder: what its format is, and what each of its files may suffer.

`fixtures/golden` holds what a training and a campaign wrote in format 1, without weights. A change of what stands in a
file has to raise `FORMAT`, or to leave these files readable as they are.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import runfolders
import torch
from command import Fewmask, is_refused
from hypothesis import given
from hypothesis import strategies as st

from fewmask.acquisition.regions import parse_regions
from fewmask.engine.checkpoint import load_state, load_weights, save_state, save_weights
from fewmask.engine.pool_scores import load_piece
from fewmask.runs import FORMAT, Budget, CampaignSummary, Description, Heads, Round, RunFolder, Summary, read_counts
from fewmask.runs.metrics import cut_after, read_steps
from fewmask.runs.reading import FileRecord

GOLDEN = Path(__file__).parents[1] / "fixtures" / "golden"
SCORES = "train/scores.npz"
PIECE = "campaign/pool/01/scores/a/00000.npz"
RECORDS: dict[str, type[FileRecord]] = {
    "train/summary.json": Summary,
    "campaign/summary.json": Summary,
    "train/model.json": Description,
    "campaign/campaign.json": CampaignSummary,
    "campaign/rounds/01.json": Round,
    "campaign/pool/01/budget.json": Budget,
}


# ── The format ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", RECORDS)
def test_a_golden_record_is_read_and_written_as_it_is(name: str, tmp_path: Path) -> None:
    record = RECORDS[name].read(GOLDEN / name)
    RunFolder(tmp_path).write_record(tmp_path / "again.json", record)
    assert (tmp_path / "again.json").read_text(encoding="utf-8") == (GOLDEN / name).read_text(encoding="utf-8")
    assert json.loads((GOLDEN / name).read_text(encoding="utf-8"))["format"] == FORMAT


def test_the_golden_runs_say_what_they_did() -> None:
    train, campaign = RunFolder(GOLDEN / "train"), RunFolder(GOLDEN / "campaign")
    summary = train.read_summary()
    assert (summary.method, summary.steps, summary.trained, train.finished) == ("joint", 2, ["a", "b"], True)
    assert [line.step for line in train.read_steps()] == [1, 2]
    assert set(train.read_steps()[0].terms) == {"supervised"}
    assert summary.weights.keys() == {"model.safetensors", "prototypes.safetensors"}
    counts = read_counts(train.counts)
    for name, scores in summary.domains.items():
        expected = [np.nan if v is None else v for v in scores.iou.values()]
        np.testing.assert_allclose(counts[name].iou, expected)
    assert [entry.round for entry in campaign.history] == [0, 1]
    assert campaign.spent().steps == sum(campaign.round(n).read_summary().steps for n in (0, 1))
    assert campaign.read_record(1).up_to == 3
    assert campaign.load_config().campaign is not None
    assert campaign.round(1).read_summary().model_copy(update={"round": 1, "seed": summary.seed}) == (
        campaign.read_summary()
    )
    assert len(load_piece(GOLDEN / PIECE).candidates)


def test_settings_are_the_same_but_for_seed_name_and_machine() -> None:
    run = RunFolder(GOLDEN / "train")
    one = run.settings()
    assert not {"seed", "name", "train.device", "train.workers"} & one.keys()
    assert one["domains.a.root"] == "a"  # the same data lies elsewhere on every machine


# ── Damage ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def weights(path: Path) -> Callable[[Path], object]:
    digest = save_weights(path, {"w": torch.arange(64.0)})
    return lambda file: load_weights(file, digest)


def state(path: Path) -> Callable[[Path], object]:
    save_state(path, {"step": 3, "model": {"w": torch.arange(64.0)}})
    return load_state


def heads(path: Path) -> Callable[[Path], object]:
    scores = runfolders.scores({"road": 0.5}) | {"labelled": 3, "steps": 2, "seed": 0, "way": "new head"}
    runfolders.write(path, {"format": FORMAT, "domains": {"a": scores}})
    return Heads.read


def superpixels(path: Path) -> Callable[[Path], object]:
    from fewmask.engine.pool import Regions

    path.write_bytes(parse_regions("superpixels:4").tile(np.zeros((16, 16, 3), np.uint8)).to_bytes("content"))
    return lambda file: Regions.from_bytes(file.read_bytes(), "content")


# Of each file of a run how it is read, or how one is made and then read.
GIVEN: dict[str, Callable[[Path], object]] = {
    **{name: kind.read for name, kind in RECORDS.items()},
    SCORES: read_counts,
    "train/metrics.jsonl": read_steps,
    "train/config.yaml": lambda file: RunFolder(file.parent).load_config(),
    PIECE: load_piece,
}
MADE = {"heads.json": heads, "model.safetensors": weights, "last.pt": state, "a.superpixels.npz": superpixels}
FILES = [*GIVEN, *MADE]
FOREIGN = {
    "png": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "nothing": b"",
    "list": b"[]",
    "mapping": b"{}",
    "deep": b"[" * 100_000,
    "number": b'{"format": 1, "steps": 1' + b"0" * 400 + b"}",
    "digits": b"1" * 5000,
    "not text": b"\xff\xfe\x00\x80{}",
    "zip": b"PK\x05\x06" + bytes(18),
}


def placed(name: str, folder: Path) -> tuple[Path, Callable[[Path], object]]:
    """A whole file in a folder of its own, and how it is read."""
    if name in MADE:
        return folder / name, MADE[name](folder / name)
    path = folder / Path(name).name
    shutil.copy(GOLDEN / name, path)
    return path, GIVEN[name]


FIXES = ("remove", "train the run again", "go on with", "put it back", "give a folder", "install the newer version")
FIXES += ("use that version", "evaluate")


def tried(read: Callable[[Path], object], path: Path) -> tuple[object, str]:
    """What is read, and the message of a refusal, which names the file (a region map's caller does) and says what to
    do; any other error fails the test."""
    try:
        return read(path), ""
    except ValueError as error:
        message = str(error)
    named = path.name in message or "region" in message or str(path.parent) in message
    assert named and any(fix in message for fix in FIXES), message
    return None, message


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_cut(name: str, tmp_path: Path) -> None:
    path, read = placed(name, tmp_path)
    whole = path.read_bytes()
    read(path)
    for length in {0, 1, len(whole) // 3, len(whole) // 2, len(whole) - 3}:
        path.write_bytes(whole[:length])
        if name.endswith(
            ("jsonl", "yaml")
        ):  # a log that was killed in a line, and text that may be whole where it is cut
            tried(read, path)
            continue
        assert tried(read, path)[1]


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_another_one(name: str, kind: str, tmp_path: Path) -> None:
    path, read = placed(name, tmp_path)
    path.write_bytes(FOREIGN[kind])
    if name.endswith("jsonl") and kind in ("nothing", "deep", "digits"):  # the one line is the last, which may be cut
        assert read(path) == []
        return
    if name.endswith("jsonl"):
        path.write_bytes(FOREIGN[kind] + b"\n")
    assert tried(read, path)[1]


@pytest.mark.parametrize("name", [*GIVEN, "heads.json", "model.safetensors", "last.pt"])
def test_a_file_that_is_missing(name: str, tmp_path: Path) -> None:
    path, read = placed(name, tmp_path)
    path.unlink()
    if name.endswith("jsonl"):
        assert read(path) == []  # nothing was logged yet
        return
    assert tried(read, path)[1]


@pytest.mark.parametrize("name", [*RECORDS, "heads.json"])
@pytest.mark.parametrize("number", [FORMAT + 1, 10**30, 0, -1, True, "1", None, 1.0])
def test_a_record_of_another_format(name: str, number: object, tmp_path: Path) -> None:
    path, read = placed(name, tmp_path)
    runfolders.write(path, json.loads(path.read_text(encoding="utf-8")) | {"format": number})
    newer = isinstance(number, int) and number > FORMAT
    assert ("written by a newer fewmask" if newer else "damaged") in tried(read, path)[1]


def test_arrays_and_states_of_a_newer_format(tmp_path: Path) -> None:
    for name, read in (("train/scores.npz", read_counts), (PIECE, load_piece)):
        path, _ = placed(name, tmp_path)
        with np.load(path) as stored:
            arrays = {key: stored[key] for key in stored.files}
        np.savez(path, **(arrays | {"format": np.array(FORMAT + 1)}))
        with pytest.raises(ValueError, match="written by a newer fewmask"):
            read(path)
    torch.save({"format": FORMAT + 1, "step": 3}, tmp_path / "last.pt")
    with pytest.raises(ValueError, match="written by a newer fewmask"):
        load_state(tmp_path / "last.pt")


@pytest.mark.parametrize("name", FILES)
def test_a_file_with_a_flipped_bit(name: str, tmp_path: Path) -> None:
    """It is refused, or read; weights, states and arrays are never read as others than were written."""
    path, read = placed(name, tmp_path)
    whole = bytearray(path.read_bytes())
    before: Any = read(path)
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(whole), 60):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        after, refusal = tried(read, path)
        if not refusal and path.suffix in (".npz", ".safetensors", ".pt"):
            kept = after.keys() if isinstance(after, dict) else ()  # of an archive's list a name may be lost
            whole_part = {key: before[key] for key in kept} if name == SCORES else before
            assert repr(plain(after)) == repr(plain(whole_part)), f"byte {place}"


def plain(value: Any) -> Any:
    """Arrays and tensors, at any depth, as lists."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, tuple):
        return [plain(one) for one in value]
    return plain(vars(value)) if hasattr(value, "__dict__") else value


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.data())
def test_a_record_with_any_other_value_is_refused_or_read(data: st.DataObject) -> None:
    """One value of a record, at any depth, becomes anything, is left out, or gets a stranger beside it."""
    name = data.draw(st.sampled_from(sorted(RECORDS)))
    record = json.loads((GOLDEN / name).read_text(encoding="utf-8"))
    inner = record
    while True:
        key = data.draw(st.sampled_from(sorted(inner) if isinstance(inner, dict) else list(range(len(inner)))))
        if isinstance(inner[key], dict | list) and inner[key] and data.draw(st.booleans()):
            inner = inner[key]
            continue
        break
    match data.draw(st.sampled_from(["other", "gone", "beside"])):
        case "other":
            inner[key] = data.draw(JSON)
        case "gone":
            del inner[key]
        case _ if isinstance(inner, dict):
            inner["stranger"] = data.draw(JSON)
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / Path(name).name
        path.write_text(json.dumps(record), encoding="utf-8")
        tried(RECORDS[name].read, path)


def test_a_log_keeps_what_was_logged_up_to_a_step(tmp_path: Path) -> None:
    path, _ = placed("train/metrics.jsonl", tmp_path)
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole + '{"step": 3, "pha', encoding="utf-8")
    cut_after(path, 2)
    assert path.read_text(encoding="utf-8") == whole
    cut_after(path, 2, validated=False)
    assert path.read_text(encoding="utf-8") == "".join(whole.splitlines(keepends=True)[:-1])
    path.write_text("{\n" + whole, encoding="utf-8")
    with pytest.raises(ValueError, match=r"metrics\.jsonl: line 1 is damaged .* remove the line"):
        cut_after(path, 1)


@pytest.mark.parametrize("members", [0, -1, 1.5, "2", 10**9])
def test_a_network_of_an_impossible_number_of_members(members: object, tmp_path: Path) -> None:
    path, read = placed("train/model.json", tmp_path)
    runfolders.write(path, json.loads(path.read_text(encoding="utf-8")) | {"members": members})
    with pytest.raises(ValueError, match=r"model\.json: damaged \(members"):
        read(path)


# ── Commands ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["summary.json", "campaign.json", "config.yaml", "rounds/01/summary.json"])
@pytest.mark.parametrize("kind", ["png", "list", "deep", "mapping"])
def test_commands_end_with_code_2_and_name_the_file(name: str, kind: str, tmp_path: Path, fewmask: Fewmask) -> None:
    shutil.copytree(GOLDEN, tmp_path, dirs_exist_ok=True)
    (tmp_path / "campaign" / name).write_bytes(FOREIGN[kind])
    done = fewmask("compare", tmp_path / "train", tmp_path / "campaign")
    is_refused(done, Path(name).name)
    assert "Traceback" not in done.err


def test_a_run_of_a_newer_version_is_told(tmp_path: Path, fewmask: Fewmask) -> None:
    shutil.copytree(GOLDEN, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "train" / "summary.json"
    runfolders.write(path, json.loads(path.read_text(encoding="utf-8")) | {"format": FORMAT + 1, "more": 1})
    is_refused(fewmask("compare", tmp_path / "campaign", tmp_path / "train"), f"{path}: written by a newer fewmask")
