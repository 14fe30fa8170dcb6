"""What was written is noted, and nothing else is ever removed or replaced; what others are writing stays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewmask.files import NOTES, Written, is_unfinished, remove_unfinished, write_atomically, write_bytes


def contents(folder: Path) -> dict[str, bytes]:
    files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return {name: data for name, data in files.items() if not name.endswith(NOTES)}


def test_what_was_written_is_removed_and_its_folders_with_it(tmp_path: Path) -> None:
    written = Written(tmp_path / "f")
    for name in ("a.png", "d/b.png", "d/e/c.png"):
        write_bytes(tmp_path / "f" / name, name.encode(), written)
    assert sorted(written.names()) == ["a.png", "d/b.png", "d/e/c.png"]
    written.remove(["d/e/c.png"])
    assert not (tmp_path / "f/d/e").exists()
    assert sorted(written.names()) == ["a.png", "d/b.png"]
    Written(tmp_path / "f").clear()
    assert not (tmp_path / "f").exists()


ACTS = st.lists(
    st.tuples(
        st.sampled_from(["ours", "theirs", "remove", "clear", "half a note"]),
        st.sampled_from(["a", "b.x", "d/a", "d/e/a"]),
        st.binary(max_size=3),
    ),
    max_size=20,
)


@given(ACTS)
@settings(max_examples=60)
def test_what_others_put_there_stays_whatever_happens(tmp_path_factory: pytest.TempPathFactory, acts: list) -> None:
    """Beside a model of it: by name who wrote last, and every content that we ever gave that name."""
    folder = tmp_path_factory.mktemp("f") / "f"
    written, by = Written(folder), dict[str, tuple[str, bytes]]()
    given_by_us: dict[str, set[bytes]] = {}
    for who, name, data in acts:
        path = folder / name
        if who == "ours":
            write_bytes(path, data, written)
            by[name] = ("ours", data)
            given_by_us.setdefault(name, set()).add(data)
        elif who == "theirs":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            by[name] = ("theirs", data)
        elif who == "half a note":
            folder.mkdir(exist_ok=True)
            with open(folder / NOTES, "ab") as file:
                file.write(b'{"name": "a", "is')
        else:
            written.remove([name]) if who == "remove" else written.clear()
            for gone in [name] if who == "remove" else list(by):
                if gone in by and by[gone][1] in given_by_us.get(gone, ()):
                    del by[gone], given_by_us[gone]
        assert contents(folder) == {name: data for name, (_, data) in by.items()}


@pytest.mark.parametrize("replaces", ["named", "ours"])
def test_a_file_that_we_did_not_write_is_not_replaced(replaces: str, tmp_path: Path) -> None:
    theirs = tmp_path / "f" / "x.png"
    theirs.parent.mkdir()
    theirs.write_bytes(b"theirs")
    written = Written(tmp_path / "f", replaces)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"x\.png: exists and was not written by fewmask; move it away"):
        write_bytes(theirs, b"ours", written)
    with written.guard(), pytest.raises(ValueError, match="not written by fewmask"):
        write_bytes(theirs, b"ours")
    assert contents(tmp_path) == {"f/x.png": b"theirs"}
    write_bytes(theirs, b"theirs", written)  # the same, bit for bit: it may as well be ours
    write_bytes(theirs, b"ours", written)
    theirs.write_bytes(b"changed")
    if replaces == "named":
        write_bytes(theirs, b"ours again", written)
    else:
        with pytest.raises(ValueError, match="changed since it was written; move it away"):
            write_bytes(theirs, b"ours again", written)
        assert theirs.read_bytes() == b"changed"


def test_a_link_is_neither_replaced_nor_removed(tmp_path: Path) -> None:
    theirs, link = tmp_path / "theirs", tmp_path / "f" / "x"
    theirs.write_bytes(b"same")
    written = Written(tmp_path / "f", "named")
    write_bytes(link, b"same", written)
    link.unlink()
    link.symlink_to(theirs)
    with pytest.raises(ValueError, match="changed since it was written"):
        write_bytes(link, b"other", written)
    written.clear()
    assert link.is_symlink()
    assert theirs.read_bytes() == b"same"


@pytest.mark.parametrize("name", ["../theirs", "/etc/hostname", "a/../../theirs"])
def test_notes_of_strangers_lead_nowhere(name: str, tmp_path: Path) -> None:
    (tmp_path / "theirs").write_bytes(b"")
    folder = tmp_path / "f"
    write_bytes(folder / "x", b"", Written(folder))
    mark = json.loads((folder / NOTES).read_text())["is"]
    with open(folder / NOTES, "a") as file:
        file.write(json.dumps({"name": name, "is": mark}) + '\n[]\n{"name": {}, "is": 1}\n')
    with pytest.raises(ValueError, match="not a path below"):
        Written(folder).clear()
    assert (tmp_path / "theirs").exists()


def test_of_a_large_file_both_ends_and_the_size_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fewmask.files.WHOLE", 4)
    path, written = tmp_path / "f" / "x", Written(tmp_path / "f")
    for changed in (b"1bcdefgh9", b"abcdefg19", b"abcdefgh"):
        write_bytes(path, b"abcdefgh9", written)
        path.write_bytes(changed)
        written.clear()
        assert path.read_bytes() == changed


# ── What is being written ────────────────────────────────────────────────────────────────────────────────────────────

WRITES = """
import sys
from pathlib import Path
from fewmask.files import write_atomically
def write(file):
    file.write(b"whole")
    file.flush()
    print("writing", flush=True)
    sys.stdin.readline()
write_atomically(Path(sys.argv[1]), write)
"""


def writer(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITES, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    return process


def test_what_another_process_is_writing_is_left_alone(tmp_path: Path) -> None:
    living, killed = writer(tmp_path / "d" / "living"), writer(tmp_path / "d" / "killed")
    killed.kill()
    killed.wait()
    assert sum(map(is_unfinished, (tmp_path / "d").iterdir())) == 2
    remove_unfinished(tmp_path)
    assert sum(map(is_unfinished, (tmp_path / "d").iterdir())) == 1
    living.communicate("go on\n")
    assert living.returncode == 0
    assert [p.name for p in (tmp_path / "d").iterdir()] == ["living"]
    assert (tmp_path / "d" / "living").read_bytes() == b"whole"


def test_what_this_process_is_writing_is_left_alone(tmp_path: Path) -> None:
    def write(file: object) -> None:
        file.write(b"whole")  # type: ignore[attr-defined]
        remove_unfinished(tmp_path)

    write_atomically(tmp_path / "x", write)
    assert contents(tmp_path) == {"x": b"whole"}


def test_files_of_other_names_and_links_are_not_taken_for_unfinished(tmp_path: Path) -> None:
    names = [".a.tmp", ".fewmask-1.tmp", "fewmask-0123456789abcdef.tmp", ".fewmask-0123456789ABCDEF.tmp", ".x.77.tmp"]
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / ".fewmask-0123456789abcdef.tmp").symlink_to(tmp_path / ".a.tmp")
    (tmp_path / ".fewmask-1123456789abcdef.tmp").mkdir()
    before = sorted(tmp_path.iterdir())
    remove_unfinished(tmp_path)
    assert sorted(tmp_path.iterdir()) == before


def test_without_locks_nobody_can_tell_and_all_of_it_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")
    killed = writer(tmp_path / "killed")
    killed.kill()
    killed.wait()

    def no_locks(*_: object) -> None:
        raise OSError(38, os.strerror(38))

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", no_locks)
        write_bytes(tmp_path / "x", b"whole")
        remove_unfinished(tmp_path)
    assert sum(map(is_unfinished, tmp_path.iterdir())) == 1


def test_a_name_as_long_as_the_system_allows_is_written(tmp_path: Path) -> None:
    write_bytes(tmp_path / ("n" * 255), b"whole")
    with pytest.raises(OSError, match=r"cannot be written \(File name too long\).* Shorten"):
        write_bytes(tmp_path / ("n" * 256), b"whole")
    assert contents(tmp_path) == {"n" * 255: b"whole"}
