"""The campaign: rounds that a person can stop, kill and resume.

    for each round:
        score the pool with the last round's networks      pseudo-labels and scores, in one pass
        ask for the best regions                           within the budget, never twice
        wait for answers                                   of the oracle; for people, stop here and go on later
        train                                              a new network, from labels, answers and pseudo-labels

All results are on the disk: the ledger holds the questions and answers, `rounds/<n>` the training, `rounds/<n>.json`
the answers that it used, and `pool/<n>` the scores of the pass. The same command goes on from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fewmask import card, distributed, stopping
from fewmask.acquisition.budget import buys_nothing
from fewmask.acquisition.selection import Candidates
from fewmask.annotation.ledger import Ledger
from fewmask.annotation.oracle import Oracle, answer_all
from fewmask.annotation.questions import Question
from fewmask.annotation.record import FOREVER
from fewmask.annotation.view import answered_domain, write_labels
from fewmask.campaigns import ledger_check
from fewmask.campaigns.asking import domains_without_label, no_question_reason, questions
from fewmask.campaigns.changes import find_changes, write_changes
from fewmask.campaigns.forecast import Scored, forecast
from fewmask.campaigns.history import cost_model, cost_of_image, needs, pool_cost, unit_of
from fewmask.campaigns.networks import committee
from fewmask.campaigns.pool_progress import pool_progress
from fewmask.campaigns.settings import check_campaign, config_of_round, seed_of_round
from fewmask.config import AskSettings, Config
from fewmask.data.domain import Domain
from fewmask.data.parts import in_part, labelled_pixel_counts
from fewmask.data.pseudo import PseudoFolder
from fewmask.engine.automatic import resolve_auto
from fewmask.engine.committee import possible_request
from fewmask.engine.device import choose_device
from fewmask.engine.evaluation import Progress
from fewmask.engine.fit import ProgressCallback, ProgressEvent, train
from fewmask.engine.pool import ScoringRequest, score_pool
from fewmask.engine.pool_scores import PoolScores, scored_stems, scoring_seconds
from fewmask.engine.run import begin_run, load_domains, open_run
from fewmask.files import write_bytes
from fewmask.labels import NOT_LABELLED
from fewmask.paths import AnyPath, below
from fewmask.randomness import generator
from fewmask.runs import Budget, CampaignSummary, Entry, Round, RunFolder

# Each domain's scoring has its own seed, as each round has, because its draws are numbered by its own images.
DOMAINS_APART = 2**40


def campaign(
    config: Config,
    folder: AnyPath,
    observe: ProgressCallback = lambda event: None,
    enough: bool = False,
    accept_older_ledger: bool = False,
) -> dict[str, Any]:
    """Run a campaign, or go on with the one in `folder`. Returns its summary, which is also in `campaign.json`.

    Its `state` is "done", or "waiting" when people have questions to answer; then call again. With `enough` the
    training begins with the present answers. `accept_older_ledger` goes on with a ledger that lacks learnt answers.

    Raises ValueError for wrong settings, data or folder, and `stopping.Stopped` after Ctrl-C or SIGTERM.
    """
    with stopping.defer_signals(), distributed.processes():
        rounds = _Rounds(config, Path(folder), observe, enough, accept_older_ledger)
        with begin_run(rounds.run, rounds.config, other=bool(rounds.changes)):
            write_changes(rounds.run, rounds.config, rounds.changes, rounds.domains)
            return rounds.run_through()


class _Rounds:
    def __init__(
        self, config: Config, folder: Path, observe: ProgressCallback, enough: bool, accept_older: bool = False
    ) -> None:
        config, _ = resolve_auto(config := RunFolder(folder).kept(config), domains := load_domains(config))
        self.labelled_pixels = {name: labelled_pixel_counts(domain) for name, domain in domains.items()}
        self.domains = {name: in_part(domain, self.labelled_pixels[name]) for name, domain in domains.items()}
        self.config, self.observe, self.enough, self.accept_older = config, observe, enough, accept_older
        self.settings, self.device = check_campaign(config, self.domains), choose_device(config.train.device)
        self.run = _no_training(RunFolder(folder))
        self.changes = find_changes(self.run, config, self.domains, enough)
        open_run(folder, config, other=bool(self.changes))
        self.cost, self.unit, self.history = cost_model(self.settings), unit_of(self.settings), list[Entry]()

    def _ledger(self) -> Ledger:
        return Ledger(self.run.ledger, self.settings.answers)

    def run_through(self) -> dict[str, Any]:
        if distributed.rank() == 0:
            self._open_ledger()
        distributed.barrier()
        with self._ledger() as ledger:
            for name in ledger.classes():
                ledger.expect(self.domains[name])
            self.enough_of = max(ledger.rounds(), default=None) if self.enough else None
        distributed.barrier()
        for number in range(self.settings.rounds):
            if not self.run.round(number).summary.exists():
                try:
                    self._prepare(number)
                    if waiting := self._wait_for_answers(number):
                        return waiting
                    self._learn(number)
                except stopping.Stopped as end:
                    raise stopping.Stopped(f"round {number + 1} of {self.settings.rounds}: {end}") from None
            if self._published_round() < number:
                self._publish(number)
            self._add_to_history(number)
            if number + 1 < self.settings.rounds and distributed.any_process(stopping.stop_requested()):
                where = f"{self.run.folder}: stopped after round {number + 1} of {self.settings.rounds}"
                raise stopping.Stopped(f"{where}; the same command goes on")
        self._answered_domains(FOREVER)  # writes the masks of all answers, also of those that no round learnt from
        return self._write_summary("done")

    def _open_ledger(self) -> None:
        """Make the ledger where nothing was asked yet. Otherwise check that it has each answer a round learnt from."""
        ledger_check.expect_ledger(self.run)
        with self._ledger() as ledger:
            ledger.examine()
            if self.accept_older:
                ledger_check.accept(self.run, ledger)
            ledger_check.expect_answers(self.run, ledger)
            if (up_to := ledger_check.of_masks_unnoted(self.run)) is not None:
                write_labels(ledger, self.domains, self.run.labels, up_to)

    # ── Score and ask ────────────────────────────────────────────────────────────────────────────────────────────────

    def _prepare(self, number: int) -> None:
        """Score the pool and ask, unless that is done."""
        ask = self._ask_settings(number)
        with self._ledger() as ledger:
            is_asked = number in ledger.rounds()
            earlier = ledger.questions()
        if is_asked or not (ask or self._uses_pseudo_labels(number)):
            return
        domains = self._answered_domains(self._last_answer_before(number))
        pool_scores = self._score_pools(number, domains, ask, earlier)
        if ask is not None and distributed.rank() == 0:
            self._ask(number, domains, ask, pool_scores, earlier)
        distributed.barrier()

    def _ask_settings(self, number: int) -> AskSettings | None:
        if number == 0:
            return self.settings.first
        ask, pool = self.settings.ask, self.settings.pool
        return ask and possible_request(pool, ask, min(number, pool.generations) * len(pool.networks))

    def _uses_pseudo_labels(self, number: int) -> bool:
        """Whether the round trains on the pseudo-labels of the round before."""
        return number > 0 and self.config.method.self_training

    def _score_pools(
        self, number: int, domains: Mapping[str, Domain], ask: AskSettings | None, earlier: list[Question]
    ) -> dict[str, PoolScores]:
        first = max(number - self.settings.pool.generations, 0)
        runs = [self.run.round(n) for n in reversed(range(first, number))]
        networks, scores = committee(self.config, self.domains, runs, self.device), {}
        for k, (name, domain) in enumerate(domains.items()):
            pool_scores = score_pool(
                networks,
                domain,
                self.run.pool_pieces(number, name),
                cache=self.run.superpixels,
                request=None if ask is None else ScoringRequest(ask, number, [q for q in earlier if q.domain == name]),
                pseudo=self._pseudo(number, name) if self._uses_pseudo_labels(number) else None,
                seed=seed_of_round(self.config, number) + k * DOMAINS_APART,
                batch_size=self.settings.pool.batch_size,
                workers=self.config.train.workers,
                progress=self._pool_progress(number, name, ask),
            )
            if pool_scores is not None:
                answerable = np.array([stem in self._answerable[name] for stem in domain.splits["train"]])
                candidates = pool_scores.candidates
                scores[name] = pool_scores._replace(candidates=candidates.take(answerable[candidates.image]))
        return scores

    @cached_property
    def _answerable(self) -> dict[str, frozenset[str]]:
        """By domain, the images of train that the annotator can answer about: for people, all.

        For the oracle, they have a mask and were not labelled from the start: it cannot know what such masks leave
        open.
        """
        if self.settings.annotator == "people":
            return {name: frozenset(domain.splits["train"]) for name, domain in self.domains.items()}
        return {
            name: frozenset(
                s for s in domain.splits["train"] if s not in self.labelled_pixels[name] and domain.source.has_mask(s)
            )
            for name, domain in self.domains.items()
        }

    def _ask(
        self,
        number: int,
        domains: Mapping[str, Domain],
        ask: AskSettings,
        pool_scores: Mapping[str, PoolScores],
        earlier: list[Question],
    ) -> None:
        rng = generator(seed_of_round(self.config, number), "ask", number)
        cost = self.cost.times(self.settings.answers.each)
        candidates = {name: scores.candidates for name, scores in pool_scores.items()}
        need = self._need(ask, {name: part for name, part in candidates.items() if len(part)})
        selected = questions(pool_scores, domains, ask, earlier, cost, need, self.run.superpixels, rng)
        # A later round that asks nothing has used up the pool, because a round before asked by the same settings.
        empty = not selected and number < 2
        if empty and (reason := no_question_reason(candidates, domains, self._answerable, ask, earlier, cost)):
            raise ValueError(f"campaign.{'ask' if number else 'first'}.{reason}, and give another --out")
        if unlabelled := ", ".join(domains_without_label(selected, domains)):
            problem = f"{buys_nothing(ask.budget.amount, ask.budget.unit)} in {unlabelled}, where nothing is labelled"
            raise ValueError(f"campaign.first.budget: {problem}; raise it and give another --out")
        images = sum(len(self._answerable[name] & {*domain.unlabelled}) for name, domain in domains.items())
        amount = ask.budget.amount * (images if ask.budget.per == "image" else 1)
        self.run.write_record(self.run.budget(number), Budget(amount=amount))
        with self._ledger() as ledger:
            for name, domain in domains.items():
                ledger.add_images(domain, sorted({q.stem for q in selected if q.domain == name}))
            ledger.ask(number, selected)

    def _need(self, ask: AskSettings, candidates: Mapping[str, Candidates]) -> dict[str, float]:
        """The weight of each domain that has candidates."""
        if self.settings.need == "equal":
            return dict.fromkeys(candidates, 1.0)
        images = sum(len(np.unique(part.image)) for part in candidates.values())
        budget = ask.budget.amount * (images if ask.budget.per == "image" else 1)
        return needs(self.history, list(candidates), budget / max(len(candidates), 1))

    def _pseudo(self, number: int, domain: str) -> PseudoFolder:
        """The pseudo-labels of the scored images. An image that was wholly answered by then has none."""
        written = self.run.pseudo(number)
        return PseudoFolder(below(written.folder, domain), scored_stems(self.run.pool_pieces(number, domain)), written)

    # ── Answers ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _wait_for_answers(self, number: int) -> dict[str, Any] | None:
        """Let the oracle answer. Returns the summary of a waiting campaign where people still have questions."""
        if self._ask_settings(number) is None or self.run.record(number).exists():
            return None
        if self.settings.annotator == "oracle" and distributed.rank() == 0:
            with self._ledger() as ledger:
                answer_all(ledger, Oracle(self.domains, self.cost), number)
        distributed.barrier()
        with self._ledger() as ledger:
            open_ = len(ledger.questions(number, open_only=True))
        open_ = distributed.broadcast_int(open_)
        return self._write_summary("waiting", number) if open_ and number != self.enough_of else None

    def _last_answer_before(self, number: int) -> int:
        """The last answer that the round before used. A pass that is begun again then uses the same labels."""
        return self.run.read_record(number - 1).up_to if number else 0

    def _answered_domains(self, up_to: int) -> dict[str, Domain]:
        """The domains with the answers up to `up_to`, which are masks on the disk."""
        with self._ledger() as ledger:
            if distributed.rank() == 0:
                write_labels(ledger, self.domains, self.run.labels, up_to)
            distributed.barrier()
            return {n: answered_domain(d, ledger, self.run.labels, up_to) for n, d in self.domains.items()}

    # ── Train ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _learn(self, number: int) -> None:
        with self._ledger() as ledger:
            for name in ledger.classes():
                ledger.expect_images(self.domains[name])
        domains = self._answered_domains(self._begin(number))
        if self._uses_pseudo_labels(number):
            domains = {
                name: replace(domain, pseudo=self._pseudo(number, name)) if domain.unlabelled else domain
                for name, domain in domains.items()
            }
        warm = self.settings.start == "warm" and number > 0
        start = self.run.round(number - 1).weights if warm else None
        run = self.run.round(number)
        config = config_of_round(self.config, number)
        train(config, run.folder, lambda event: self._report_event(number, event), domains, start, self.run.features)

    def _begin(self, number: int) -> int:
        """The last answer that the round's training uses. It is recorded, so that a restart uses the same answers."""
        if self.run.record(number).exists():
            return self.run.read_record(number).up_to
        with self._ledger() as ledger:
            up_to = distributed.broadcast_int(ledger.last_answer_id())
            answers = ledger.fingerprint(up_to)
        if names := ", ".join(domains_without_label((), self._answered_domains(up_to))):
            raise ValueError(f"{self.run.folder}: nothing is labelled in {names}; answer questions there")
        if distributed.rank() == 0:
            self.run.write_record(self.run.record(number), Round(up_to=up_to, answers=answers, start=self._start))
        distributed.barrier()
        return up_to

    def _published_round(self) -> int:
        """The round whose model is the campaign's; −1 while the campaign has no model."""
        number = self.run.read_summary().round if self.run.summary.exists() else None
        return -1 if number is None else number

    def _publish(self, number: int) -> None:
        """Make the round's model the campaign's, and remove files of its training. The summary comes last, as a
        mark."""
        run = self.run.round(number)
        distributed.barrier()  # every process has seen that the round is not published
        if distributed.rank() == 0:
            for file in (run.model, run.counts, *sorted(run.folder.glob("*.safetensors"))):
                write_bytes(below(self.run.folder, file.name), file.read_bytes())
            for passing in (run.passing, self.run.pseudo(number)):
                passing.clear()
            update = {"seed": self.config.seed, "round": number}
            self.run.write_record(self.run.summary, run.read_summary().model_copy(update=update))
        distributed.barrier()

    # ── Report ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _pool_progress(self, number: int, name: str, ask: AskSettings | None) -> Progress:
        """A callback for the progress of the pass over a domain's pool. It names a score that was not set."""
        by = f" by {ask.score}" if ask not in (None, self.settings.first, self.settings.ask) else ""
        return pool_progress(lambda event: self._report_event(number, event), name, f"score pool{by}", self.device)

    def _report_event(self, number: int, event: ProgressEvent) -> None:
        """Pass on an event of a training or of a pass, with its round."""
        rounds = self.settings.rounds
        # People answer between rounds, for an unknown time.
        unattended = self.settings.annotator != "people" and not event.stage.startswith(("score pool", "evaluate"))
        ahead = range(number + 1, rounds) if unattended else ()
        later = sum(config_of_round(self.config, after).train.steps for after in ahead)
        self.observe(replace(event, stage=f"round {number + 1}/{rounds} {event.stage}", later=later))

    @cached_property
    def _start(self) -> dict[str, tuple[int, float]]:
        """By domain, the pixels that were labelled before anything was asked, and their cost in the budget's unit."""
        start = {}
        for name, domain in self.domains.items():
            images = [self.labelled_pixels[name][stem] for stem in domain.labelled]
            cost = sum(cost_of_image(self.settings, *image) for image in images)
            start[name] = sum(image.pixels for image in images), cost
        return start

    def _add_to_history(self, number: int) -> None:
        """Add a finished round to the history."""
        summary, record = self.run.round(number).read_summary(), self.run.read_record(number)
        pixels = {name: start[0] for name, start in record.start.items()}
        cost = {name: start[1] for name, start in record.start.items()}
        with self._ledger() as ledger:
            for name in ledger.classes():
                for question, values in ledger.decisions(name, up_to=record.up_to):
                    cost[name] += question.cost
                    pixels[name] += int((values != NOT_LABELLED).sum())
        chosen = summary.selected
        miou = {name: chosen.miou.get(name) if chosen else None for name in self.domains}
        scoring = sum(scoring_seconds(self.run.pool_pieces(number, name)) for name in self.domains)
        self.history.append(Entry.with_sums(number, cost, pixels, miou, summary.seconds, scoring))

    def _write_summary(self, state: Literal["done", "waiting"], number: int | None = None) -> dict[str, Any]:
        """Write and return the campaign's summary. Its `open` counts the questions of the waiting round, or of all."""
        last = self.run.summary
        with self._ledger() as ledger:
            progress, asked_rounds = ledger.progress(), ledger.rounds()
            open_ = len(ledger.questions(number, open_only=True))
        scored = [Scored(entry.total_cost, entry.avg_miou) for entry in self.history]
        summary = CampaignSummary(
            state=state,
            round=len(self.history) - 1 if number is None else number,
            rounds=self.settings.rounds,
            open=open_,
            unit=self.unit,
            asked=progress.asked,
            answered=progress.answered,
            spent=progress.cost,
            budget=sum(self.run.read_budget(number).amount for number in asked_rounds),
            seconds=progress.seconds,
            clicks=progress.clicks,
            history=self.history,
            forecast=forecast(scored, self.settings, pool_cost(self.settings, self.domains.values())),
            changes=self.run.read_changes(),
            result=self.run.read_summary() if last.exists() else None,
        )
        if distributed.rank() == 0:
            self.run.write_record(self.run.campaign, summary)
            if last.exists():
                card.write_card(self.run.card, card.read_record(self.run.folder))
        distributed.barrier()
        return summary.to_dict()


def _no_training(run: RunFolder) -> RunFolder:
    """Return the folder. Raises ValueError where it holds a training that belongs to no campaign."""
    if not run.ledger.exists() and not run.campaign.exists() and (run.summary.exists() or run.state.parent.exists()):
        raise ValueError(f"{run.folder}: holds a run of `fewmask train`, which is no campaign; give another --out")
    return run
