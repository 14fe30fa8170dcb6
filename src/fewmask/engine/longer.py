"""Continuation of a training beyond its original number of steps.

Schedules run over all steps. So the rate rises again to that of the next step of the longer training. The result
differs from that of a training with all steps from the start, unless the schedule is constant.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fewmask import distributed
from fewmask.config import Config, dump
from fewmask.engine.run import begin_run, load_config
from fewmask.files import renamed, write_text
from fewmask.methods.common.base import Method
from fewmask.runs import RunFolder, changed_settings


def former_steps(run: RunFolder, config: Config) -> int | None:
    """The steps of the run in the folder, if `config` has more and otherwise differs at most in the patience. None in
    all other cases."""
    if not run.config.exists() or not run.state.exists():
        return None
    changed = changed_settings(load_config(run.folder), config)
    steps = [before for key, before, _ in changed if key == "train.steps"]
    if not steps or {key for key, _, _ in changed} - {"train.steps", "train.patience"}:
        return None
    before = int(steps[0])
    return before if before < config.train.steps else None


def check_longer(method: Method, former: int, steps: int) -> None:
    """Raises ValueError where the trained steps would belong to other phases in the longer training."""
    old, new = ([p for p in method.phases(s) if p.stop > p.start] for s in (former, steps))
    if [(p.name, p.start) for p in old] != [(p.name, p.start) for p in new]:
        phases = " and ".join(
            f"{p.name} from step {p.start} ({s})" for s, ps in ((former, old), (steps, new)) for p in ps
        )
        raise ValueError(
            f"train.steps: {former} so far, {steps} now: {method.name} shares its steps out over phases, which would "
            f"begin elsewhere: {phases}; put {former} back, or give another --out to train anew"
        )


def check_patience(run: RunFolder, config: Config) -> None:
    """Raises ValueError where the patience ended the run early, and would end it again at once."""
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
def begin_longer(run: RunFolder, config: Config, before: int | None, method: Method) -> Iterator[None]:
    """Like `begin_run`. If the run had `before` steps and gets more, its summary is renamed first."""
    if before is not None:
        check_longer(method, before, config.train.steps)
        check_patience(run, config)
    with begin_run(run, config, other=before is not None):
        if before is not None and distributed.rank() == 0:
            if run.summary.exists():
                renamed(run.summary, run.former_summary(before))
            write_text(run.config, dump(config))
        yield
