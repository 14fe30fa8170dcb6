"""Whatever a loader's processes are handed can be sent to them where they are spawned or served, not forked."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch
import trees
from helpers import steps
from ondisk import plain, run_file, two_domains, write_config

from fewmask.annotation.view import AnsweredSource
from fewmask.config import (
    AskSettings,
    CamvidDomain,
    CityscapesDomain,
    DomainSettings,
    FolderDomain,
    IddDomain,
    ScenesDomain,
    SunrgbdDomain,
    VocDomain,
)
from fewmask.data.domain import Domain
from fewmask.data.layouts import index, load_domain
from fewmask.data.pseudo import PseudoFolder
from fewmask.engine.evaluation import LabelledBatches
from fewmask.engine.pool import Pieces, ScoringRequest
from fewmask.methods import METHODS, build, parse_config

# A campaign of two rounds that asks the masks themselves.
SIMULATED = {
    "labelled": {"images": 1},
    "campaign": {
        "rounds": 2,
        "annotator": "oracle",
        "ask": {"score": "entropy", "regions": "squares:16", "budget": {"amount": 4, "unit": "regions"}},
        "pool": {"scales": [1.0]},
    },
}

LAYOUTS: Mapping[str, Callable[[Path], DomainSettings]] = {
    "folder": lambda root: FolderDomain(root=trees.folder(root)),
    "folder, resized": lambda root: FolderDomain(root=trees.folder(root), size=(12, 16)),
    "camvid": lambda root: CamvidDomain(layout="camvid", root=trees.camvid(root)),
    "cityscapes": lambda root: CityscapesDomain(layout="cityscapes", root=trees.cityscapes(root)),
    "idd": lambda root: IddDomain(layout="idd", root=trees.idd(root)),
    "sunrgbd": lambda root: SunrgbdDomain(layout="sunrgbd", root=trees.sunrgbd(root)),
    "voc": lambda root: VocDomain(layout="voc", root=trees.voc(root)),
    "scenes": lambda root: ScenesDomain(layout="scenes", kind="rooms", size=(32, 48), train=3, val=1, test=1),
}


Thing = TypeVar("Thing")


def sent_on(thing: Thing) -> Thing:
    return pickle.loads(pickle.dumps(thing))  # noqa: S301 — our own bytes


def changed(domain: Domain, folder: Path) -> Domain:
    """The domain labelled in part, with a source of answers and pseudo-labels, as a campaign makes it."""
    first, none = domain.splits["train"][0], frozenset[str]()
    source = AnsweredSource(domain.source, folder, domain.space, none, both=none, hidden=frozenset({"hidden"}))
    return replace(domain, source=source, partial={first: 0.5}, pseudo=PseudoFolder(folder, frozenset()))


@pytest.fixture(params=LAYOUTS)
def domain(request: pytest.FixtureRequest, tmp_path: Path) -> Domain:
    return load_domain("a", LAYOUTS[request.param](tmp_path / "data"))


def test_a_domain_of_any_layout_comes_back_as_it_was(domain: Domain, tmp_path: Path) -> None:
    for sent in (domain, changed(domain, tmp_path)):
        got: Domain = sent_on(sent)
        assert got == sent
        np.testing.assert_array_equal(got.mask(got.labelled[0]), sent.mask(sent.labelled[0]))
        np.testing.assert_array_equal(got.image(got.labelled[0]), sent.image(sent.labelled[0]))


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "scenes"])
def test_an_index_comes_back_as_it_was(layout: str, tmp_path: Path) -> None:
    listed = index(LAYOUTS[layout](tmp_path))
    assert sent_on(listed) == listed


@pytest.mark.parametrize("regions", ["squares:8", "superpixels:4"])
def test_what_reads_the_pool_comes_back_as_it_was(regions: str, domain: Domain, tmp_path: Path) -> None:
    ask = AskSettings.model_validate(
        {"score": "random", "regions": regions, "budget": {"amount": 1, "unit": "regions"}}
    )
    domain = changed(replace(domain, labelled=domain.labelled[:1]), tmp_path)
    pieces = Pieces(domain, 2, ScoringRequest(ask, 1), tmp_path / "cache")
    (got,), (sent,) = sent_on(pieces)[0][:1], pieces[0][:1]
    for one, other in zip(got, sent, strict=True):
        assert one.stem == other.stem
        assert torch.equal(one.image, other.image)


def test_what_scores_comes_back_as_it_was(domain: Domain) -> None:
    batches = LabelledBatches(domain, domain.labelled, 2)
    ((image, mask), *_), ((other, its), *_) = batches[0], sent_on(batches)[0]
    assert torch.equal(image, other)
    assert torch.equal(mask, its)


@pytest.mark.parametrize("name", METHODS)
def test_the_steps_of_every_method_come_back_as_they_were(name: str, tmp_path: Path) -> None:
    config = parse_config(plain(two_domains(tmp_path), name))
    of = {n: load_domain(n, settings) for n, settings in config.domains.items()}
    drawn = steps(of, [p for p in build(config.method, of, 6).phases(6) if p.stop > p.start])
    got = sent_on(drawn)
    for step in range(6):
        (one,), (other,) = drawn[step], got[step]
        assert torch.equal(one.image, other.image)
        assert torch.equal(one.label, other.label)


# All loaders of all layouts in one real process. `sys.argv`: how it is started, a folder to work in, folders of tests.
LOADS = """
import multiprocessing, sys
from pathlib import Path
sys.path[:0] = sys.argv[3:]
if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    from helpers import steps
    from test_processes import LAYOUTS, changed
    from torch.utils.data import ConcatDataset, Subset
    from fewmask.data.batches import Phase, read_batches
    from fewmask.data.layouts import load_domain
    from fewmask.engine.evaluation import LabelledBatches
    from fewmask.engine.pool import Pieces
    loaders = []
    for name, make in LAYOUTS.items():
        root = Path(sys.argv[2]) / name
        domain = changed(load_domain("a", make(root / "data")), root)
        loaders += [LabelledBatches(domain, domain.labelled, 2), Pieces(domain, 2, None, root)]
        drawn = steps({"a": domain}, [Phase("train", 0, 2, ("a",), ("a",))])
        loaders.append(Subset(drawn, [0]))
    items = ConcatDataset(loaders)
    print(len(list(read_batches(items, range(len(items)), workers=1))) == len(items) >= 3 * len(LAYOUTS))
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_real_processes_read_every_layout(method: str, tmp_path: Path) -> None:
    script = tmp_path / "loads.py"
    script.write_text(LOADS, encoding="utf-8")
    done = run_file(script, method, tmp_path, Path(__file__).parent, Path(trees.__file__).parent)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == ["True"]


VERB = """
import multiprocessing, runpy, sys
if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    sys.argv = ["fewmask", *sys.argv[2:]]
    runpy.run_module("fewmask", run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_every_verb_with_workers_runs_in_real_processes(method: str, tmp_path: Path) -> None:
    """A campaign trains, looks at the pool and scores; then its network scores and predicts."""
    script, run = tmp_path / "verb.py", tmp_path / "run"
    script.write_text(VERB, encoding="utf-8")
    settings = {**plain(two_domains(tmp_path / "data"), "pseudo-label", steps=2, workers=1), **SIMULATED}
    config = write_config(tmp_path / "c.yaml", settings)
    for words in (
        ("campaign", config, "--out", run),
        ("evaluate", run),
        ("evaluate", run, "--on", tmp_path / "data" / "b"),
        ("predict", run, tmp_path / "data" / "a" / "images", "--domain", "a", "--out", tmp_path / "seen"),
        ("report", run),
    ):
        done = run_file(script, method, *words)
        assert done.returncode == 0, (words, done.stderr[-2000:])
