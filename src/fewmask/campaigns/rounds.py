"""The campaign: rounds that a person can stop, kill and resume.

    for each round:
        score the pool with the last round's networks      pseudo-labels and scores, in one pass
        ask for the best regions                           within the budget, never twice
        wait for answers                                   of the oracle, or of people: then stop here and go on later
        learn                                              a new network, from labels, answers and pseudo-labels

Everything that is done is on the disk: the ledger has the questions and answers, `rounds/<n>` the training,
`rounds/<n>.json` which answers it knew, `pool/<n>` the scores of the pass. The same command goes on from there.
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
from fewmask.campaigns import remembered
from fewmask.campaigns.asking import bare, questions, why_nothing
from fewmask.campaigns.changes import changes, write_changes
from fewmask.campaigns.forecast import Scored, forecast
from fewmask.campaigns.history import cost_model, cost_of_image, needs, pool_cost, unit_of
from fewmask.campaigns.networks import committee
from fewmask.campaigns.settings import check_campaign, config_of_round, seed_of_round
from fewmask.campaigns.telling import looking
from fewmask.config import AskSettings, Config
from fewmask.data.domain import Domain
from fewmask.data.parts import in_part, known_pixels
from fewmask.data.pseudo import PseudoFolder
from fewmask.engine.automatic import settle
from fewmask.engine.committee import possible
from fewmask.engine.device import choose_device
from fewmask.engine.evaluation import Progress
from fewmask.engine.fit import ProgressCallback, ProgressEvent, train
from fewmask.engine.pool import ScoringRequest, score_pool
from fewmask.engine.pool_scores import PoolScores, scored_stems, scoring_seconds
from fewmask.engine.run import begin, load_domains, open_run
from fewmask.files import write_bytes
from fewmask.labels import NOT_LABELLED
from fewmask.paths import AnyPath, below
from fewmask.randomness import generator
from fewmask.runs import Budget, CampaignSummary, Entry, Round, RunFolder

# Each domain's look at its pool has a seed of its own, as each round has: its draws are numbered by its own images.
DOMAINS_APART = 2**40


def campaign(
    config: Config,
    folder: AnyPath,
    observe: ProgressCallback = lambda event: None,
    enough: bool = False,
    accept_older_ledger: bool = False,
) -> dict[str, Any]:
    """Run a campaign, or go on with the one in `folder`; returns its summary (also `campaign.json`).

    Its `state` is "done", or "waiting" when people have questions to answer; then call again. With `enough` the answers
    there are to the questions of now suffice: the training begins, and what is still open may be answered later.
    `accept_older_ledger` goes on with a ledger that lacks answers which rounds have learnt from.

    Raises ValueError for wrong settings, data or folder, and `stopping.Stopped` after Ctrl-C or SIGTERM, where the
    finished part of a training or of a pass over the pool is saved.
    """
    with stopping.defer_signals(), distributed.processes():
        rounds = _Rounds(config, Path(folder), observe, enough, accept_older_ledger)
        with begin(rounds.run, rounds.config, other=bool(rounds.changes)):
            write_changes(rounds.run, rounds.config, rounds.changes, rounds.domains)
            return rounds.run_through()


class _Rounds:
    def __init__(
        self, config: Config, folder: Path, observe: ProgressCallback, enough: bool, accept_older: bool = False
    ) -> None:
        config, _ = settle(config, domains := load_domains(config))
        self.known = {name: known_pixels(domain) for name, domain in domains.items()}
        self.domains = {name: in_part(domain, self.known[name]) for name, domain in domains.items()}
        self.config, self.observe, self.enough, self.accept_older = config, observe, enough, accept_older
        self.settings, self.device = check_campaign(config, self.domains), choose_device(config.train.device)
        self.run = _no_training(RunFolder(folder))
        self.changes = changes(self.run, config, self.domains, enough)
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
            self.enough_of = max(ledger.rounds(), default=None) if self.enough else None  # no later ones
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
            if self._published() < number:
                self._publish(number)
            self._remember(number)
            if number + 1 < self.settings.rounds and distributed.any_process(stopping.stop_requested()):
                where = f"{self.run.folder}: stopped after round {number + 1} of {self.settings.rounds}"
                raise stopping.Stopped(f"{where}; the same command goes on")
        self._answered(FOREVER)  # the view of all answers, also of those that came too late to be learnt from
        return self._tell("done")

    def _open_ledger(self) -> None:
        """Make the ledger where nothing was asked yet, or check that it has every answer that a round learnt from."""
        remembered.expect_ledger(self.run)
        with self._ledger() as ledger:
            ledger.examine()
            if self.accept_older:
                remembered.accept(self.run, ledger)
            remembered.expect_answers(self.run, ledger)
            if (up_to := remembered.of_masks_unnoted(self.run)) is not None:
                write_labels(ledger, self.domains, self.run.labels, up_to)

    # ── Look and ask ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _prepare(self, number: int) -> None:
        """Score the pool and ask, if that is not done yet."""
        ask = self._asks(number)
        with self._ledger() as ledger:
            asked = number in ledger.rounds()
            before = ledger.questions()
        if asked or not (ask or self._teaches(number)):
            return
        domains = self._answered(self._known_before(number))
        found = self._score_pools(number, domains, ask, before)
        if ask is not None and distributed.rank() == 0:
            self._ask(number, domains, ask, found, before)
        distributed.barrier()

    def _asks(self, number: int) -> AskSettings | None:
        if number == 0:
            return self.settings.first
        ask, pool = self.settings.ask, self.settings.pool
        return ask and possible(pool, ask, min(number, pool.generations) * len(pool.networks))

    def _teaches(self, number: int) -> bool:
        """The round learns from the pseudo-labels of the one before."""
        return number > 0 and self.config.method.self_training

    def _score_pools(
        self, number: int, domains: Mapping[str, Domain], ask: AskSettings | None, before: list[Question]
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
                request=None if ask is None else ScoringRequest(ask, number, [q for q in before if q.domain == name]),
                pseudo=self._pseudo(number, name) if self._teaches(number) else None,
                seed=seed_of_round(self.config, number) + k * DOMAINS_APART,
                batch_size=self.settings.pool.batch_size,
                workers=self.config.train.workers,
                progress=self._looking(number, name, ask),
            )
            if pool_scores is not None:
                knows = np.array([stem in self._answerable[name] for stem in domain.splits["train"]])
                candidates = pool_scores.candidates
                scores[name] = pool_scores._replace(candidates=candidates.take(knows[candidates.image]))
        return scores

    @cached_property
    def _answerable(self) -> dict[str, frozenset[str]]:
        """By domain, the images of train that the annotator can answer about: people all, the oracle those with a mask
        that was not labelled from the start: what such a mask leaves open the oracle does not know either."""
        if self.settings.annotator == "people":
            return {name: frozenset(domain.splits["train"]) for name, domain in self.domains.items()}
        return {
            name: frozenset(
                s for s in domain.splits["train"] if s not in self.known[name] and domain.source.has_mask(s)
            )
            for name, domain in self.domains.items()
        }

    def _ask(
        self,
        number: int,
        domains: Mapping[str, Domain],
        ask: AskSettings,
        found: Mapping[str, PoolScores],
        before: list[Question],
    ) -> None:
        rng = generator(seed_of_round(self.config, number), "ask", number)
        cost = self.cost.times(self.settings.answers.each)
        candidates = {name: one.candidates for name, one in found.items()}
        need = self._need(ask, {name: part for name, part in candidates.items() if len(part)})
        asked = questions(found, domains, ask, before, cost, need, self.run.superpixels, rng)
        # Where a later round asks nothing, one before has asked by the same settings, and the pool is used up.
        if not asked and number < 2 and (why := why_nothing(candidates, domains, self._answerable, ask, before, cost)):
            raise ValueError(f"campaign.{'ask' if number else 'first'}.{why}, and give another --out")
        if without := ", ".join(bare(asked, domains)):
            told = f"{buys_nothing(ask.budget.amount, ask.budget.unit)} in {without}, where nothing is labelled"
            raise ValueError(f"campaign.first.budget: {told}; raise it and give another --out")
        images = sum(len(self._answerable[name] & {*domain.unlabelled}) for name, domain in domains.items())
        amount = ask.budget.amount * (images if ask.budget.per == "image" else 1)
        self.run.write_record(self.run.budget(number), Budget(amount=amount))
        with self._ledger() as ledger:
            for name, domain in domains.items():
                ledger.add_images(domain, sorted({q.stem for q in asked if q.domain == name}))
            ledger.ask(number, asked)

    def _need(self, ask: AskSettings, found: Mapping[str, Candidates]) -> dict[str, float]:
        """The weight of each domain that has candidates."""
        if self.settings.need == "equal":
            return dict.fromkeys(found, 1.0)
        images = sum(len(np.unique(part.image)) for part in found.values())
        budget = ask.budget.amount * (images if ask.budget.per == "image" else 1)
        return needs(self.history, list(found), budget / max(len(found), 1))

    def _pseudo(self, number: int, domain: str) -> PseudoFolder:
        """Of the images that were looked at; one that was wholly answered then has none, whatever is taken back."""
        written = self.run.pseudo(number)
        return PseudoFolder(below(written.folder, domain), scored_stems(self.run.pool_pieces(number, domain)), written)

    # ── Answers ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _wait_for_answers(self, number: int) -> dict[str, Any] | None:
        """Let the oracle answer; the summary of a campaign that waits, where people still have questions."""
        if self._asks(number) is None or self.run.record(number).exists():
            return None
        if self.settings.annotator == "oracle" and distributed.rank() == 0:
            with self._ledger() as ledger:
                answer_all(ledger, Oracle(self.domains, self.cost), number)
        distributed.barrier()
        with self._ledger() as ledger:
            open_ = len(ledger.questions(number, open_only=True))
        open_ = distributed.broadcast_int(open_)
        return self._tell("waiting", number) if open_ and number != self.enough_of else None

    def _known_before(self, number: int) -> int:
        """The last answer that the round before knew of, so that a pass that is begun again sees the same labels."""
        return self.run.read_record(number - 1).up_to if number else 0

    def _answered(self, up_to: int) -> dict[str, Domain]:
        """The domains with what is answered up to that answer, as masks on the disk."""
        with self._ledger() as ledger:
            if distributed.rank() == 0:
                write_labels(ledger, self.domains, self.run.labels, up_to)
            distributed.barrier()
            return {n: answered_domain(d, ledger, self.run.labels, up_to) for n, d in self.domains.items()}

    # ── Learn ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _learn(self, number: int) -> None:
        with self._ledger() as ledger:
            for name in ledger.classes():
                ledger.expect_images(self.domains[name])
        domains = self._answered(self._begin(number))
        if self._teaches(number):
            domains = {
                name: replace(domain, pseudo=self._pseudo(number, name)) if domain.unlabelled else domain
                for name, domain in domains.items()
            }
        warm = self.settings.start == "warm" and number > 0
        start = self.run.round(number - 1).weights if warm else None
        run = self.run.round(number)
        config = config_of_round(self.config, number)
        train(config, run.folder, lambda event: self._hear(number, event), domains, start)

    def _begin(self, number: int) -> int:
        """The last answer that the round's training knows of. Written down, so that it begins again with the same."""
        if self.run.record(number).exists():
            return self.run.read_record(number).up_to
        with self._ledger() as ledger:
            up_to = distributed.broadcast_int(ledger.last_answer_id())
            answers = ledger.fingerprint(up_to)
        if without := bare((), self._answered(up_to)):
            raise ValueError(f"{self.run.folder}: nothing is labelled in {', '.join(without)}; answer questions there")
        if distributed.rank() == 0:
            self.run.write_record(self.run.record(number), Round(up_to=up_to, answers=answers, start=self._start))
        distributed.barrier()
        return up_to

    def _published(self) -> int:
        """The round whose model is the campaign's; −1 while there is none."""
        number = self.run.read_summary().round if self.run.summary.exists() else None
        return -1 if number is None else number

    def _publish(self, number: int) -> None:
        """Make the round's model the campaign's, and clear away what only its training needed. The summary comes last
        and says that it is done."""
        run = self.run.round(number)
        distributed.barrier()  # all have seen that it is not done
        if distributed.rank() == 0:
            for file in (run.model, run.counts, *sorted(run.folder.glob("*.safetensors"))):
                write_bytes(below(self.run.folder, file.name), file.read_bytes())
            for passing in (run.passing, self.run.pseudo(number)):
                passing.clear()
            own = {"seed": self.config.seed, "round": number}
            self.run.write_record(self.run.summary, run.read_summary().model_copy(update=own))
        distributed.barrier()

    # ── Tell ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _looking(self, number: int, name: str, ask: AskSettings | None) -> Progress:
        """Reports the progress of the pass over a domain's pool, with the score if it is not the one that was set."""
        stage = f"look by {ask.score}" if ask not in (None, self.settings.first, self.settings.ask) else "look"
        return looking(lambda event: self._hear(number, event), name, stage, self.device)

    def _hear(self, number: int, event: ProgressEvent) -> None:
        """Pass on an event of a training or of a pass, with the round that it belongs to."""
        rounds = self.settings.rounds
        # Between rounds people answer: nobody knows for how long.
        by_itself = self.settings.annotator != "people" and not event.stage.startswith(("look", "evaluate"))
        ahead = range(number + 1, rounds) if by_itself else ()
        later = sum(config_of_round(self.config, after).train.steps for after in ahead)
        self.observe(replace(event, stage=f"round {number + 1}/{rounds} {event.stage}", later=later))

    @cached_property
    def _start(self) -> dict[str, tuple[int, float]]:
        """By domain, what was labelled before anything was asked: pixels, and their cost in the budget's unit."""
        found = {}
        for name, domain in self.domains.items():
            known = [self.known[name][stem] for stem in domain.labelled]
            cost = sum(cost_of_image(self.settings, *image) for image in known)
            found[name] = sum(image.pixels for image in known), cost
        return found

    def _remember(self, number: int) -> None:
        """Add a finished round to the history."""
        summary, record = self.run.round(number).read_summary(), self.run.read_record(number)
        pixels = {name: own[0] for name, own in record.start.items()}
        cost = {name: own[1] for name, own in record.start.items()}
        with self._ledger() as ledger:
            for name in ledger.classes():
                for question, values in ledger.decisions(name, up_to=record.up_to):
                    cost[name] += question.cost
                    pixels[name] += int((values != NOT_LABELLED).sum())
        chosen = summary.selected
        miou = {name: chosen.miou.get(name) if chosen else None for name in self.domains}
        looked = sum(scoring_seconds(self.run.pool_pieces(number, name)) for name in self.domains)
        self.history.append(Entry.with_sums(number, cost, pixels, miou, summary.seconds, looked))

    def _tell(self, state: Literal["done", "waiting"], number: int | None = None) -> dict[str, Any]:
        """Write and return what the campaign has come to; `open` are the questions of the round that waits, or of all
        where none does."""
        last = self.run.summary
        with self._ledger() as ledger:
            progress, asked = ledger.progress(), ledger.rounds()
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
            budget=sum(self.run.read_budget(number).amount for number in asked),
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
                card.write(self.run.card, card.read(self.run.folder))
        distributed.barrier()
        return summary.to_dict()


def _no_training(run: RunFolder) -> RunFolder:
    """The folder. Raises ValueError where it holds a training that is no campaign's."""
    if not run.ledger.exists() and not run.campaign.exists() and (run.summary.exists() or run.state.parent.exists()):
        raise ValueError(f"{run.folder}: holds a run of `fewmask train`, which asks nothing; give another --out")
    return run
