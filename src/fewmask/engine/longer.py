"""A training that goes on beyond the steps that it was begun with.

Schedules run over all steps: the rate rises again to what the next step of the longer training has, and the result is
not that of a training with as many steps from the start, unless the schedule is constant.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fewmask import distributed
from fewmask.config import Config, dump
from fewmask.engine.run import begin, load_config
from fewmask.files import renamed, write_text
from fewmask.methods.common.base import Method
from fewmask.runs import RunFolder, changed_settings


def former_steps(run: RunFolder, config: Config) -> int | None:
    """The steps that the run in the folder was begun with, where `config` has more and differs in nothing else but the
    patience."""
    if not run.config.exists() or not run.state.exists():
        return None
    changed = changed_settings(load_config(run.folder), config)
    steps = [before for key, before, _ in changed if key == "train.steps"]
    if not steps or {key for key, _, _ in changed} - {"train.steps", "train.patience"}:
        return None
    before = int(steps[0])
    return before if before < config.train.steps else None


def check_longer(method: Method, before: int, steps: int) -> None:
    """Raises ValueError where the steps that were trained would be other phases of the longer training."""
    old, new = ([p for p in method.phases(s) if p.stop > p.start] for s in (before, steps))
    if [(p.name, p.start) for p in old] != [(p.name, p.start) for p in new]:
        told = " and ".join(
            f"{p.name} from step {p.start} ({s})" for s, ps in ((before, old), (steps, new)) for p in ps
        )
        raise ValueError(
            f"train.steps: {before} so far, {steps} now: {method.name} shares its steps out over phases, which would "
            f"begin elsewhere: {told}; put {before} back, or give another --out to train anew"
        )


def check_patience(run: RunFolder, config: Config) -> None:
    """Raises ValueError where validations ended the run before its steps did, and would end it again at once."""
    patience = config.train.patience
    if not run.summary.exists() or patience is None:
        return
    ended, former = run.read_summary().steps, load_config(run.folder).train
    if ended < former.steps and (former.patience or patience) >= patience:
        raise ValueError(
            f"train.patience: {patience} validations without a better one ended this run at step {ended}; "
            "set train.patience=null to go on"
        )


@contextmanager
def begun(run: RunFolder, config: Config, before: int | None, method: Method) -> Iterator[None]:
    """`begin`; where the run was begun with `before` steps and is to have more, its summary is laid aside first."""
    if before is not None:
        check_longer(method, before, config.train.steps)
        check_patience(run, config)
    with begin(run, config, other=before is not None):
        if before is not None and distributed.rank() == 0:
            if run.summary.exists():
                renamed(run.summary, run.former_summary(before))
            write_text(run.config, dump(config))
        yield
