"""Files that survive: a kill in the middle of a save, a full disk, damage, and code in a state file."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from fewmask.engine.checkpoint import load_state, load_weights, save_state, save_weights
from fewmask.files import remove_unfinished, write_atomically, write_json, write_text


def state(step: int) -> dict[str, object]:
    return {"step": step, "best": None, "history": [{"miou": {"a": 0.5}}], "model": {"w": torch.full((9,), step)}}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_state(tmp_path / "state" / "last.pt", state(1))
    return tmp_path / "state" / "last.pt"


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    optimiser = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))], lr=0.1)
    original = {**state(3), "optimiser": optimiser.state_dict(), "seconds": 1.5, "best": {"score": 0.25, "step": 2}}
    save_state(tmp_path / "s.pt", original)
    loaded = load_state(tmp_path / "s.pt")
    assert torch.equal(loaded["model"]["w"], original["model"]["w"])  # type: ignore[index]
    assert {k: v for k, v in loaded.items() if k != "model"} == {k: v for k, v in original.items() if k != "model"}

    weights = {"a": torch.randn(3, 4), "b": torch.tensor(7), "c": torch.randn(2, 3, 4, 5).contiguous(
        memory_format=torch.channels_last
    )}  # fmt: skip
    save_weights(tmp_path / "w.safetensors", weights)
    again = load_weights(tmp_path / "w.safetensors")
    assert all(torch.equal(again[n], weights[n]) for n in weights)


def test_weights_may_share_their_memory(tmp_path: Path) -> None:
    whole = torch.arange(6.0)
    save_weights(tmp_path / "w", {"a": whole, "b": whole[:3], "c": whole})
    loaded = load_weights(tmp_path / "w")
    assert loaded["b"].tolist() == [0, 1, 2]
    assert torch.equal(loaded["a"], loaded["c"])


def test_nothing_is_left_beside_a_saved_file(saved: Path) -> None:
    save_state(saved, state(2))
    write_text(saved.with_name("t.txt"), "é\n")
    write_json(saved.with_name("j.json"), {"ä": 1.5})
    assert names(saved.parent) == ["j.json", "last.pt", "t.txt"]
    assert saved.with_name("t.txt").read_bytes() == "é\n".encode()
    assert "ä" in saved.with_name("j.json").read_text(encoding="utf-8")


def test_an_error_in_the_middle_leaves_the_old_file(saved: Path) -> None:
    before = saved.read_bytes()

    def half(file: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(saved, half)
    assert saved.read_bytes() == before
    assert names(saved.parent) == ["last.pt"]


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class DiesInside:
    """A file whose process is killed in its fourth write."""

    def __init__(self, file: Any) -> None:
        self.file, self.left = file, 4

    def write(self, data: Any) -> int:
        written = self.file.write(data)
        self.file.flush()
        self.left -= 1
        if not self.left:
            die()
        return int(written)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def saves_and_dies(path: Path, moment: str) -> None:
    """In a process of its own, which must not come back to the tests."""
    try:
        whole = torch.save
        if moment == "inside the write":
            torch.save = lambda state, file: whole(state, DiesInside(file))
        elif moment == "before the flush to the disk":
            os.fsync = die
        else:
            os.replace = die  # type: ignore[assignment]
        save_state(path, {"step": 2, "model": {"w": torch.zeros(1000, 1000)}})
    finally:
        os._exit(1)


def test_the_old_file_survives_a_kill(saved: Path) -> None:
    for moment in ("inside the write", "before the flush to the disk", "before it takes its place"):
        child = os.fork()
        if child == 0:
            saves_and_dies(saved, moment)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL, moment
        assert load_state(saved)["step"] == 1
    left = [n for n in names(saved.parent) if n != "last.pt"]
    assert len(left) == 3  # the unfinished files, which the run removes when it goes on
    assert all((saved.parent / n).stat().st_size > 0 for n in left)
    remove_unfinished(saved.parent.parent)
    assert names(saved.parent) == ["last.pt"]
    save_state(saved, state(3))
    assert load_state(saved)["step"] == 3


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """As on a full disk: no file of this process may grow beyond the size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_named_and_the_old_files_stay(saved: Path) -> None:
    save_weights(saved.with_name("model.safetensors"), {"w": torch.ones(2)})
    write_text(saved.with_name("metrics.jsonl"), "old\n")
    big = torch.randn(500_000)
    saves = {
        "last.pt": lambda path: save_state(path, {"step": 2, "w": big}),
        "model.safetensors": lambda path: save_weights(path, {"w": big}),
        "metrics.jsonl": lambda path: write_text(path, "x" * 400_000),
    }
    for name, save in saves.items():
        path = saved.with_name(name)
        with pytest.raises(OSError, match="File too large") as raised, files_of_at_most(300_000):
            save(path)
        assert str(raised.value).startswith(f"{path}: cannot be written (File too large)")
        assert "Make room" in str(raised.value)
    assert names(saved.parent) == ["last.pt", "metrics.jsonl", "model.safetensors"]
    assert load_state(saved)["step"] == 1
    assert load_weights(saved.with_name("model.safetensors"))["w"].tolist() == [1, 1]
    assert saved.with_name("metrics.jsonl").read_text() == "old\n"


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "zeros", "another thing", "absent", "a folder"])
def test_a_damaged_state_is_refused_with_its_name_and_the_fix(damage: str, saved: Path) -> None:
    data = saved.read_bytes()
    contents = {"empty": b"", "cut": data[: len(data) // 2], "text": b"hello", "zeros": bytes(len(data))}
    if damage == "another thing":
        torch.save([1, 2], saved)
    elif damage == "absent":
        saved.unlink()
    elif damage == "a folder":
        saved.unlink()
        saved.mkdir()
    else:
        saved.write_bytes(contents[damage])
    with pytest.raises(ValueError, match="remove the run's folder and start again") as raised:
        load_state(saved)
    assert str(raised.value).startswith(f"{saved}: not a readable state")
    assert "weights_only" not in str(raised.value)  # torch's advice is to load it unsafely


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def test_code_in_a_state_is_refused_and_not_executed(saved: Path) -> None:
    mark = saved.with_name("executed")
    torch.save({"step": 1, "model": Malicious(mark)}, saved)
    with pytest.raises(ValueError, match="not a readable state") as raised:
        load_state(saved)
    assert not mark.exists()
    assert "weights_only" not in str(raised.value)


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "absent"])
def test_damaged_weights_are_refused_with_their_name_and_the_fix(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_weights(path, {"w": torch.ones(100)})
    data = path.read_bytes()
    if damage == "absent":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "cut": data[:-10], "text": b"hello world"}[damage])
    with pytest.raises(ValueError, match="train the run again") as raised:
        load_weights(path)
    assert str(raised.value).startswith(f"{path}: ")
