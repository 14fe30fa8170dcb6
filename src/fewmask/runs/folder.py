"""The folder of a run: the place of each file, and its contents.

    config.yaml            the resolved configuration, written first
    metrics.jsonl          the log of the training, line by line
    state/last.pt          the state that a killed run resumes from; state/best-<step>.safetensors, the best weights
                           so far
    phases/<name>.…        the network at the end of every phase but the last
    model.json             the network, and its weights in model.safetensors; <name>.safetensors are further networks
    features/              the features of a frozen encoder, if they are kept; they are made again if missing
    scores.npz             the counts behind the scores, image by image
    model-card.md
    summary.json           the result of the training, written last; summary-<steps>.json is the one before more steps
    evaluations.jsonl      later evaluations of a split

A campaign's folder is a run's folder too, with the last round's network. It also holds

    ledger.sqlite          questions and answers; labels/, the answers as masks
    campaign.json          the progress; changes.json, the settings that changed between rounds
    rounds/<n>/            the training of a round, a run's folder; rounds/<n>.json, the labels that it began with
    pool/<n>/              the scores of the pool before a round, and the round's budget
    superpixels/           the superpixels of each image
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from fewmask import strict_yaml
from fewmask.config import Config, read_config
from fewmask.files import Written, hold, is_unfinished, write_json
from fewmask.paths import below
from fewmask.runs import settings
from fewmask.runs.counts import ImageCounts, write_counts
from fewmask.runs.metrics import StepLine, read_steps
from fewmask.runs.reading import FileRecord
from fewmask.runs.records import Budget, CampaignSummary, Change, Changes, Description, Entry, Heads, Round, Summary

SUMMARY = "summary.json"
LOCK = ".run.lock"


@dataclass(frozen=True)
class Spent:
    """The cost of a run's network. In a campaign this includes all trainings and all passes over the pool."""

    seconds: float
    steps: int
    memory_mib: float | None
    """The largest peak memory of its trainings; None where the system does not report it."""


@dataclass(frozen=True)
class RunFolder:
    """A run's folder, or a path where one will be."""

    folder: Path

    # ── Files of a training ──────────────────────────────────────────────────────────────────────────────────────────

    @property
    def config(self) -> Path:
        return self.folder / "config.yaml"

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.jsonl"

    @property
    def summary(self) -> Path:
        return self.folder / SUMMARY

    @property
    def counts(self) -> Path:
        return self.folder / "scores.npz"

    @property
    def evaluations(self) -> Path:
        return self.folder / "evaluations.jsonl"

    @property
    def card(self) -> Path:
        return self.folder / "model-card.md"

    @property
    def heads(self) -> Path:
        """Scores of domains that the run did not train. A recipe may ask for them."""
        return self.folder / "heads.json"

    @property
    def weights(self) -> Path:
        return self.module_weights("model")

    @property
    def model(self) -> Path:
        return self.folder / "model.json"

    @property
    def prototypes(self) -> Path:
        """Prototypes of the classes of all domains, for predictions by several heads."""
        return self.module_weights("prototypes")

    @property
    def state(self) -> Path:
        return self.folder / "state" / "last.pt"

    @property
    def passing(self) -> Written:
        """Files that are needed only during the training."""
        return Written(self.state.parent)

    def module_weights(self, name: str) -> Path:
        """The weights of a further network of the method, see `Method.extra_modules`."""
        return below(self.folder, name, ending=".safetensors")

    def phase(self, name: str) -> Path:
        """The network at the end of a phase that another phase follows, for example before the alignment."""
        return below(self.folder / "phases", name, ending=".safetensors")

    def best(self, step: int) -> Path:
        """The weights of the step with the best validation so far. The saved state names the step. The file stays
        until the state names another one."""
        return self.folder / "state" / f"best-{step:d}.safetensors"

    # ── Files of a campaign ──────────────────────────────────────────────────────────────────────────────────────────

    @property
    def ledger(self) -> Path:
        return self.folder / "ledger.sqlite"

    @property
    def campaign(self) -> Path:
        return self.folder / "campaign.json"

    @property
    def changes(self) -> Path:
        """The settings that changed between rounds, and the time of each change."""
        return self.folder / "changes.json"

    def former_summary(self, steps: int) -> Path:
        """The summary of a training before it was given more steps."""
        return self.folder / f"summary-{steps:d}.json"

    @property
    def labels(self) -> Path:
        """The answers as masks, by domain; a view of the ledger."""
        return self.folder / "labels"

    @property
    def features(self) -> Path:
        return self.folder / "features"

    @property
    def superpixels(self) -> Path:
        return self.folder / "superpixels"

    def round(self, number: int) -> RunFolder:
        return RunFolder(self.folder / "rounds" / f"{number:02d}")

    def record(self, number: int) -> Path:
        """The labels that a round's training began with."""
        return self.folder / "rounds" / f"{number:02d}.json"

    def pool(self, number: int) -> Path:
        """The scores of the pool before a round."""
        return self.folder / "pool" / f"{number:02d}"

    def pool_pieces(self, number: int, domain: str) -> Path:
        """The pieces of the pass over a domain's pool before a round; the pass writes one at a time."""
        return below(self.pool(number) / "scores", domain)

    def pseudo(self, number: int) -> Written:
        """The pseudo-labels that a round learns from, by domain. They are removed after the training."""
        return Written(self.pool(number) / "pseudo")

    def budget(self, number: int) -> Path:
        """The amount that a round was allowed to ask for."""
        return self.pool(number) / "budget.json"

    # ── Reading ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def check(self) -> Self:
        """Return this folder. Raises ValueError where it holds no run."""
        if not self.config.exists():
            raise ValueError(
                f"{self.folder}: not a run (no {self.config.name}); give a folder of `fewmask train` or `campaign`"
            )
        return self

    def read_config(self) -> dict[str, Any]:
        """The configuration as plain data. Raises ValueError for a missing or damaged file."""
        fix = "put it back from a copy, or train the run again"
        try:
            data, _ = strict_yaml.read_yaml(self.check().config)
        except OSError as error:
            raise ValueError(f"{self.config}: cannot be read ({error.strerror}); fix its permissions") from None
        except ValueError as error:
            raise ValueError(f"{self.config}: damaged ({str(error).removeprefix(f'{self.config}: ')}); {fix}") from None
        if not isinstance(data, dict) or not {"name", "seed", "domains", "method"} <= data.keys():
            raise ValueError(f"{self.config}: damaged (not the configuration of a run); {fix}")
        return data

    def kept(self, config: Config) -> Config:
        """The configuration with what this run, where there is one, has kept of its images."""
        return settings.with_stretch_of(config, self.load_config()) if self.config.exists() else config

    def load_config(self) -> Config:
        """The configuration. Raises ValueError where the folder holds none."""
        try:
            return read_config(self.check().config)
        except ValueError as error:
            if not self.config.exists():
                raise
            raise ValueError(
                f"{error}\n  A run wrote this file. If another version of fewmask wrote it, use that version"
            ) from None

    def read_summary(self) -> Summary:
        if not self.summary.exists():
            raise ValueError(f"{self.folder}: not finished (no {SUMMARY}); train it to its end")
        return Summary.read(self.summary)

    def read_campaign(self) -> CampaignSummary:
        return CampaignSummary.read(self.campaign)

    def read_description(self) -> Description:
        return Description.read(self.model)

    def read_network(self) -> Description:
        """The description of the trained network. Raises ValueError where it is missing or differs from the one that
        the summary names."""
        if not (self.model.exists() and self.weights.exists()):
            raise ValueError(f"{self.folder}: no trained model in it; let `fewmask train` finish first")
        description = self.read_description()
        if self.summary.exists() and self.read_summary().weights.get(self.weights.name) != description.weights:
            raise ValueError(
                f"{self.model}: not the network of {self.summary.name} beside it; go on with the same command, or put "
                "back the files that the run wrote"
            )
        return description

    def read_heads(self) -> Heads:
        return Heads.read(self.heads)

    def read_changes(self) -> list[Change]:
        return Changes.read(self.changes).changes if self.changes.exists() else []

    def read_record(self, number: int) -> Round:
        return Round.read(self.record(number))

    def read_budget(self, number: int) -> Budget:
        return Budget.read(self.budget(number))

    def read_steps(self) -> list[StepLine]:
        return read_steps(self.metrics)

    # ── Writing ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def write_record(self, path: Path, record: FileRecord) -> None:
        write_json(path, record.to_dict())

    def digests(self, files: Iterable[Path]) -> dict[str, str]:
        """SHA-256 of files of weights, by path in the folder."""
        return {
            file.relative_to(self.folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files
        }

    def digest_of(self, weights: Path) -> str:
        """The SHA-256 that the finished training recorded for a file of weights. Raises ValueError for a file that the
        run did not write."""
        name = weights.relative_to(self.folder).as_posix()
        written = self.read_summary().weights
        if name not in written:
            raise ValueError(f"{weights}: not written by the run; its weights are {', '.join(written)}")
        return written[name]

    def record_evaluation(self, split: str, result: Mapping[str, Any]) -> None:
        """Append an evaluation to `evaluations.jsonl`, so that every use of the test split is recorded."""
        with open(self.evaluations, "a", encoding="utf-8") as file:
            file.write(json.dumps({"split": split, **result}) + "\n")

    def record_counts(self, domains: Mapping[str, Any], counts: Mapping[str, ImageCounts]) -> None:
        """Write a missing `scores.npz` again, if the scores of this evaluation equal those of the summary."""
        if self.summary.exists() and not self.counts.exists() and self.read_summary().to_dict()["domains"] == domains:
            write_counts(self.counts, counts)

    def held(self) -> AbstractContextManager[None]:
        """Hold the run's lock, so that no other process writes the run. Raises ValueError that names the process that
        holds it. Readers do not take the lock."""
        return hold(self.folder / LOCK, "is being written", "wait for its end, or give another --out")

    @property
    def watch_lock(self) -> Path:
        """The lock that a process holds while it waits for people's answers and goes on by itself."""
        return self.folder / ".watch.lock"

    # ── Derived from several files ───────────────────────────────────────────────────────────────────────────────────

    @property
    def holds_something(self) -> bool:
        """Whether the folder holds more than a lock and unfinished files, which a run leaves that is killed early."""
        return any(path.name != LOCK and not is_unfinished(path) for path in self.folder.iterdir())

    @property
    def finished(self) -> bool:
        """Whether the run is finished. A campaign in progress already has the summary of its latest round."""
        if not self.summary.exists():
            return False
        if not self.campaign.exists():
            return not self.ledger.exists()
        return self.read_campaign().state == "done"

    @property
    def history(self) -> list[Entry]:
        """The rounds of a campaign; empty for a run of `fewmask train`."""
        return self.read_campaign().history if self.campaign.exists() else []

    def trainings(self) -> list[Summary]:
        """The summaries of the trainings behind the network: one for a plain run, one for each round of a campaign.

        Raises ValueError where a round's summary is missing.
        """
        if not self.campaign.exists():
            return [self.read_summary()]
        return [Summary.read(self.round(entry.round).summary) for entry in self.history]

    def spent(self) -> Spent:
        summaries = self.trainings()
        memory = [summary.memory_mib for summary in summaries if summary.memory_mib is not None]
        scoring_seconds = sum(entry.score_pool_seconds for entry in self.history)
        return Spent(
            sum(summary.seconds for summary in summaries) + scoring_seconds,
            sum(summary.steps for summary in summaries),
            max(memory, default=None),
        )

    def labelled_pixels(self) -> dict[str, int] | None:
        """By domain, the labelled pixels that a campaign's network was trained on; None for a plain run."""
        return self.history[-1].pixels if self.history else None

    def settings(self) -> dict[str, Any]:
        """By dotted key, the settings that the run shares with its other seeds."""
        return settings.settings_of(self.read_config())
