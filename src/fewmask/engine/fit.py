"""The training loop of all methods.

    for each step:  draw the joint micro-batches → the method's terms → backward
                    stop if anything is not finite → optimisers → method.after_step
                    log · validate and keep the best · checkpoint

A run that is killed at any step and resumed gives, on a CPU and with the same versions, bit for bit the result of an
uninterrupted run. Every draw is a function of (seed, step, row), and the checkpoint holds the state between two steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewmask import card, distributed, stopping
from fewmask.config import Config
from fewmask.data.batch import Batch, Phase, mean_counts
from fewmask.data.batches import Steps, loader
from fewmask.data.domain import Domain
from fewmask.data.frequency import class_weights
from fewmask.data.parts import image_counts, with_parts
from fewmask.engine.automatic import resolve_auto
from fewmask.engine.average import average_of, best_evaluation, candidate_networks, network_of
from fewmask.engine.checkpoint import load_state, load_weights, save_state, save_weights
from fewmask.engine.device import autocast, choose_device, forget_peak, memory_mib
from fewmask.engine.evaluation import Progress, evaluate
from fewmask.engine.features import cache_features
from fewmask.engine.finite import check_finite
from fewmask.engine.log import Log
from fewmask.engine.longer import begin_longer, former_steps
from fewmask.engine.metrics import mean
from fewmask.engine.optimiser import Optimisers
from fewmask.engine.preflight import check_training, size_of_step
from fewmask.engine.progress import NonFiniteError as NonFiniteError
from fewmask.engine.progress import ProgressCallback as ProgressCallback
from fewmask.engine.progress import ProgressEvent as ProgressEvent
from fewmask.engine.prototypes import make_prototypes, save_prototypes
from fewmask.engine.run import build_network, came_to, hardware, load_domains, open_run, save_model, versions
from fewmask.methods import build
from fewmask.methods.common.base import Method
from fewmask.models.batch_norm import synchronise
from fewmask.models.memory import memory_for
from fewmask.models.universal import UniversalSegmenter, with_new_classes
from fewmask.paths import AnyPath
from fewmask.randomness import torch_generator, torch_seed
from fewmask.runs import ImageCounts, RunFolder, StepLine, Summary, Validation, ValidationLine, write_counts

# Rows of the stream "method". In a step each process has its own row, from 0 on, so that processes draw different
# boxes. Draws outside of a step have these rows and are equal in all processes.
PREPARE, BEGIN, AFTER = 2**32, 2**32 + 1, 2**32 + 2


class Training(nn.Module):
    """Model and method as one module, so that DDP averages the gradients of both."""

    def __init__(self, model: UniversalSegmenter, method: Method) -> None:
        super().__init__()
        self.model, self.method = model, method

    def forward(self, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        return self.method.step(self.model, batch, rng)


def train(
    config: Config,
    folder: AnyPath,
    observe: ProgressCallback = lambda event: None,
    domains: Mapping[str, Domain] | None = None,
    start: AnyPath | None = None,
    features: AnyPath | None = None,
) -> dict[str, Any]:
    """Train, or resume the run in `folder`, and return its summary (also in `summary.json`).

    `domains` replaces the domains of the configuration, if the caller has more labels. `start` is a file of initial
    weights, from a run of the same network. `features` is where a frozen encoder's features are kept, by default in
    `folder`. Raises ValueError for wrong settings, data or folder, NonFiniteError when training diverges, and
    `stopping.Stopped` after Ctrl-C or SIGTERM, when the step is done and saved.
    """
    folder = Path(folder)
    with stopping.defer_signals(), distributed.processes():
        config = RunFolder(folder).kept(config)
        loaded = load_domains(config) if domains is None else dict(domains)
        config, _ = resolve_auto(config, loaded)
        device = choose_device(config.train.device)
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            former = former_steps(RunFolder(folder), config)
            run = open_run(folder, config, other=former is not None)
            if domains is None and run.ledger.exists():
                raise ValueError(f"{folder}: holds a campaign; go on with `fewmask campaign`, or give another --out")
            if former is None and distributed.broadcast_int(run.summary.exists()):
                return came_to(run)
            # A caller who gives domains has determined which of their masks are partly labelled.
            loaded = with_parts(loaded) if domains is None else loaded
            fit = _Fit(config, run, loaded, device, observe, Path(start) if start is not None else None)
            try:
                with begin_longer(run, config, former, fit.method):
                    return fit.run_through(run.features if features is None else Path(features))
            finally:
                fit.training = Training(fit.model, fit.method)  # DDP would keep the process group alive


class _Fit:
    def __init__(
        self,
        config: Config,
        run: RunFolder,
        domains: dict[str, Domain],
        device: torch.device,
        observe: ProgressCallback,
        start: Path | None,
    ) -> None:
        self.config, self.run, self.domains, self.device, self.observe = config, run, domains, device, observe
        settings, seed = config.train, config.seed
        forget_peak(device)
        model = build_network(config.model, domains, seed)
        if start is not None:
            model.load_state_dict(with_new_classes(model.state_dict(), load_weights(start)))
        self.model = synchronise(model.to(device)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.method = build(config.method, domains, settings.steps).to(device)
        self.method.prepare(self.model, self._rng(0, PREPARE))
        self.network = self.method.inference_model(self.model)
        # Validation selects these modules together: a teacher with its student, a branch with its network.
        self.saved_modules = nn.ModuleDict({"model": self.network, **self.method.extra_modules(self.model)})
        self.average = average_of(self.saved_modules, settings)
        self.answering = candidate_networks(self.saved_modules, self.average, settings)
        self.class_weights = class_weights(domains, settings.class_weights)
        self.phases = [p for p in self.method.phases(settings.steps) if p.stop > p.start]
        # A head that no phase trains is not scored.
        self.trained = {n: d for n, d in domains.items() if any(n in p.trained for p in self.phases)}
        check_training(settings, self.phases, self.model, self.method)
        self.optimisers = Optimisers(settings.optimiser, self.model, self.method)
        strides = sorted({1, self.model.stride, self.model.embedding_stride})
        place = (seed, distributed.rank(), distributed.world())
        self.steps = Steps(domains, settings, self.phases, strides, self.model.multiple, *place)
        self.training: nn.Module = Training(self.model, self.method)
        if distributed.world() > 1:
            # A head without a row of its domain in a step has no gradient.
            self.training = distributed.spread(self.training, find_unused_parameters=True)
        self.log: Log | None = None
        self.done, self.seconds, self.history = 0, 0.0, list[Validation]()
        self.saved: tuple[int, int] | None = None
        """The step of the saved state, and the number of its validations."""
        self.saved_at = time.monotonic()
        self.best: dict[str, float] | None = None

    def run_through(self, features: Path) -> dict[str, Any]:
        settings = self.config.train
        if distributed.rank() == 0:
            self.log = Log(self.run.metrics, settings.tensorboard)
        self._resume()
        if self.model.packing is not None:
            progress = self._progress("features", "the features of its images")
            self.steps.features = cache_features(self.model, self.domains, self.phases, settings, features, progress)
        if self.done:
            self._validate()  # a stop may have interrupted the validation
            self._checkpoint()
        self.training.train()
        resumed, first = time.monotonic(), self.done
        began = resumed - self.seconds
        left = loader(self.steps, self.done, settings.workers, pin_memory=self.device.type == "cuda")
        with closing(left):
            for batches in left if not self._out_of_patience() else ():
                phase = next(p for p in self.phases if p.start <= self.done < p.stop)
                if phase.start == self.done:
                    self.method.begin(phase, self.model, self._rng(self.done, BEGIN))
                with memory_for(*size_of_step(settings, self.done + 1)):
                    terms = self._step(batches)
                self.done += 1
                now = time.monotonic()
                self.seconds = now - began
                self._log(terms, phase)
                if self.done == phase.stop and phase is not self.phases[-1] and distributed.rank() == 0:
                    answers = network_of(next(iter(self.answering.values())))
                    save_weights(self.run.phase(phase.name), answers.state_dict())
                self._validate()
                if self._checkpoint_is_due():
                    self._checkpoint()
                self._tell(phase.name, self.done, settings.steps, (self.done - first) / (now - resumed), terms)
                if self._out_of_patience():
                    break
                if self.done < settings.steps and distributed.any_process(stopping.stop_requested()):
                    self._checkpoint()
                    distributed.barrier()  # a process that ends stops the others
                    self._stop(f"step {self.done + 1}")
        self._checkpoint()
        return self._finish()

    def _out_of_patience(self) -> bool:
        """Whether `patience` validations of the last phase have passed since the best one."""
        patience, best = self.config.train.patience, self.best
        start = max(best["step"], self.phases[-1].start) if best else 0
        return bool(patience and best and sum(validation.step > start for validation in self.history) >= patience)

    def _stop(self, onward: str) -> None:
        message = f"{self.run.folder}: stopped after step {self.done} of {self.config.train.steps}, which is saved"
        raise stopping.Stopped(f"{message}; the same command goes on with {onward}")

    def _step(self, batches: list[Batch]) -> dict[str, float]:
        settings, step = self.config.train, self.done
        counts = mean_counts(batches)
        rng = self._rng(step, distributed.rank())
        self.optimisers.set_rates(step, self.phases)
        self.optimisers.zero_grad()
        parts: list[dict[str, Tensor]] = []
        for number, batch in enumerate(batches):
            # Dropout draws from the global generator alone, so its seed is a function of the step too.
            torch.manual_seed(torch_seed(self.config.seed, "model", step, distributed.rank() * len(batches) + number))
            last = number == len(batches) - 1
            with nullcontext() if last or distributed.world() == 1 else self.training.no_sync():  # type: ignore[operator]
                with autocast(self.device, settings.precision):
                    whole = replace(batch, counts=counts, class_weights=self.class_weights, loss=settings.loss)
                    terms = self.training(whole.to(self.device), rng)
                (torch.stack(list(terms.values())).sum() / len(batches)).backward()
            parts.append({name: term.detach() for name, term in terms.items()})
        values = check_finite(step, parts, self.optimisers.clip(), batches)
        self.optimisers.step()
        self.method.after_step(self.model, self._rng(step, AFTER))
        if self.average is not None:
            self.average.follow(self.saved_modules)
        return values

    def _validates(self) -> bool:
        """Whether this step is validated: at the end, where a new schedule begins, and at the interval in between."""
        images = sum(len(domain.splits.get("val", ())) for domain in self.trained.values()) * len(self.answering)
        every, steps = self.config.train.validation_interval(images), self.config.train.steps
        ends = {p.start for p in self.phases if p.restart} | {steps}
        now = self.done in ends or bool(every and self.done % every == 0)
        return now and self.done > 0 and not (self.history and self.history[-1].step == self.done)

    def _validate(self) -> None:
        """Validate this step, if it is due and was not validated before."""
        if not self._validates():
            return
        evaluations = {name: self._evaluate("val", network_of(modules)) for name, modules in self.answering.items()}
        if not any(result["domains"] for result in evaluations.values()):
            return
        best_name, chosen, means = best_evaluation(evaluations, self.phases[-1].trained)
        miou = {n: s["miou"] for n, s in evaluations[best_name]["domains"].items()}
        self.history.append(Validation(step=self.done, miou=miou, **means))
        self._write(ValidationLine(step=self.done, validation=miou, **means).to_dict())
        last_start = max((p.start for p in self.phases if p.restart), default=0)
        if chosen is None or self.done <= last_start or (self.best and chosen <= self.best["score"]):
            return
        self.best = {"score": chosen, "step": self.done}
        if distributed.rank() == 0:
            save_weights(self.run.best(self.done), self.answering[best_name].state_dict(), self.run.passing)

    def _evaluate(
        self,
        split: str,
        network: UniversalSegmenter,
        only: Mapping[str, Domain] | None = None,
        keep: Callable[[str, ImageCounts], object] = lambda name, counts: None,
    ) -> dict[str, Any]:
        train, onward = self.config.train, "its validation" if split == "val" else "its scores"
        progress = self._progress("evaluate", onward)
        return evaluate(
            network, only or self.trained, split, synonyms=self.config.synonyms,
            workers=train.workers, precision=train.precision, progress=progress, keep=keep,
        )  # fmt: skip

    def _progress(self, stage: str, onward: str) -> Progress:
        began = time.monotonic()

        def progress(done: int, total: int) -> None:
            self._tell(stage, done, total, done / (time.monotonic() - began))
            if stopping.stop_requested():  # every process gets the signal, and none waits here for another
                self._checkpoint()
                self._stop(onward)

        return progress

    def _tell(self, stage: str, step: int, steps: int, rate: float, terms: Mapping[str, float] | None = None) -> None:
        if distributed.rank() == 0:
            memory = memory_mib(self.device)
            self.observe(ProgressEvent(self.config.method.name, stage, step, steps, terms or {}, rate, memory))

    def _checkpoint_is_due(self) -> bool:
        """Whether a checkpoint is due, by steps, or by the time in the process that writes it."""
        train, waited = self.config.train, time.monotonic() - self.saved_at
        minutes = train.checkpoint_minutes
        late = minutes is not None and waited >= 60 * minutes and distributed.rank() == 0
        return late or self.done % train.checkpoint_every == 0 or self.done == train.steps

    def _checkpoint(self) -> None:
        """Save this step, unless it is saved. The first process writes, without waiting for the others."""
        if distributed.rank() > 0 or self.saved == (self.done, len(self.history)):
            return
        state = {
            "step": self.done,
            "seconds": self.seconds,
            "best": self.best,
            "history": [validation.to_dict() for validation in self.history],
            "model": self.model.state_dict(),
            "method": self.method.state_dict(),
            "optimisers": self.optimisers.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "class_weights": self.class_weights,
        }
        save_state(self.run.state, state, self.run.passing)
        best = [self.run.best(int(self.best["step"]))] if self.best else []
        self.run.passing.clear(keep=[self.run.state, *best])
        self.saved, self.saved_at = (self.done, len(self.history)), time.monotonic()

    def _resume(self) -> None:
        if self.run.state.exists():
            state = load_state(self.run.state)
            self.model.load_state_dict(state["model"])
            self.method.load_state_dict(state["method"])
            self.optimisers.load_state_dict(state["optimisers"])
            if self.average is not None:
                self.average.load_state_dict(state["average"])
            self.class_weights = state["class_weights"]
            self.done, self.seconds = state["step"], state["seconds"]
            self.best, self.history = state["best"], [Validation(**line) for line in state["history"]]
            self.saved = (self.done, len(self.history))
        if self.log is not None:
            self.log.begin(self.done, validated=bool(self.history) and self.history[-1].step == self.done)

    def _finish(self) -> dict[str, Any]:
        """Load the weights that validation selected, score them once, and write model and summary."""
        distributed.barrier()  # the first process has written them
        if self.best:
            self.saved_modules.load_state_dict(load_weights(self.run.best(int(self.best["step"]))))
        elif self.average is not None:
            self.saved_modules.load_state_dict(self.average.model.state_dict())
        split = self.config.train.score
        scored = {n: d for n, d in self.trained.items() if d.splits.get(split)}
        others = {n: d for n, d in self.trained.items() if n not in scored and d.splits.get("val")}
        counts: dict[str, ImageCounts] = {}
        domains = (self._evaluate(split, self.network, keep=counts.__setitem__)["domains"] if scored else {}) | (
            self._evaluate("val", self.network, others, counts.__setitem__)["domains"] if others else {}
        )
        record = {
            "name": self.config.name,
            "method": self.config.method.name,
            "seed": self.config.seed,
            "steps": self.done,
            "selected_step": int(self.best["step"]) if self.best else self.done,
            "avg_miou": mean([s["miou"] for s in domains.values()]),
            "domains": {n: domains[n] for n in self.domains if n in domains},
            "validation": self.history,
            "trained": list(self.trained),
            **image_counts(self.domains),
            "unseen": {n: list(d.unseen) for n, d in self.domains.items() if d.unseen},
            "seconds": round(self.seconds, 1),
            "memory_mib": memory_mib(self.device),
            "hardware": hardware(self.device),
            "versions": versions(),
        }
        if distributed.rank() == 0:
            self._save(record, counts)
        if self.log is not None:
            self.log.close()
        return came_to(self.run)

    def _save(self, record: Mapping[str, Any], counts: Mapping[str, ImageCounts]) -> None:
        """Write the results of the training. The summary comes last, since it marks the run as done."""
        run, train = self.run, self.config.train
        description = save_model(run, self.network)
        written = [run.weights, *(path for p in self.phases[:-1] if (path := run.phase(p.name)).exists())]
        for name in sorted(self.saved_modules.keys() - {"model"}):
            save_weights(run.module_weights(name), self.saved_modules[name].state_dict())
            written.append(run.module_weights(name))
        if len(self.trained) > 1 and any(d.labelled for d in self.trained.values()):
            prototypes = make_prototypes(self.network, self.trained, workers=train.workers, precision=train.precision)
            save_prototypes(run.folder, prototypes)
            written.append(run.prototypes)
        write_counts(run.counts, counts)
        summary = Summary(**record, weights=run.digests(written))
        settings = self.config.model_dump(mode="json", serialize_as_any=True)
        card.write_card(run.card, card.Record(summary, description, settings))
        run.write_record(run.summary, summary)

    def _log(self, terms: Mapping[str, float], phase: Phase) -> None:
        if self.done % self.config.train.log_every and self.done != self.config.train.steps:
            return
        metrics = {name: value.item() for name, value in self.method.metrics.items()}
        rate = self.optimisers.main.param_groups[0]["lr"]
        line = StepLine(
            step=self.done, phase=phase.name, loss=sum(terms.values()), terms={**terms, **metrics}, lr=rate,
            seconds=round(self.seconds, 3),
        )  # fmt: skip
        self._write(line.to_line())

    def _write(self, line: Mapping[str, Any]) -> None:
        if self.log is not None:
            self.log.write(line)

    def _rng(self, step: int, row: int) -> torch.Generator:
        return torch_generator(self.config.seed, "method", step, row, str(self.device))
