"""A tool: the questions' folder of PNGs as one .tar.gz, for people who paint elsewhere and send it back."""

import shutil
import tarfile
import tempfile
from pathlib import Path

from fewmask.annotation import folder as pngs


def write_questions(ledger, domains, folder, number=None, annotator=None):
    """Write the open questions into a folder, and pack it beside itself. Returns the questions."""
    asked = pngs.write_questions(ledger, domains, folder, number, annotator)
    shutil.make_archive(str(folder), "gztar", folder)
    return asked


def recognises(path: Path) -> bool:
    """Whether `answer --from PATH` leaves this file to this tool."""
    return path.name.endswith(".tar.gz")


def read_answers(ledger, domains, path, annotator, mode="open"):
    """Take what people painted: unpack it, and read it as a folder."""
    with tempfile.TemporaryDirectory() as unpacked, tarfile.open(path) as archive:
        archive.extractall(unpacked, filter="data")
        return pngs.read_answers(ledger, domains, Path(unpacked), annotator, mode)
