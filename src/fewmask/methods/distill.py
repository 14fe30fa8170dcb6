"""Knowledge distillation (Hinton et al., 2015) of finished runs into a network of another, smaller architecture.

    for each step:  x labelled rows and rows of the pool; teachers m = 1 … M, frozen, in eval mode
        p     = 1/M_k Σ_m softmax(G_k^m(F^m(x)) / T)                    the M_k teachers that know domain k
        L_ce  = Σ_k CE(y, G_k(F(x)))                                    labelled pixels
        L_kd  = Σ_k 1/N_k Σ KL(p ‖ softmax(G_k(F(x)) / T))              N_k: all pixels but void, labelled or not
        L     = (1 − α) L_ce + α T² L_kd

Teachers and student get the same view. The factor T² makes the gradient's size independent of T.

Shapes: B rows of a batch, b of one domain · C_k classes of domain k · H×W pixels.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from fewmask.config.methods import DistillSettings
from fewmask.data.batch import Batch, Phase, take
from fewmask.labels import VOID
from fewmask.losses.divergence import kl_divergence, log_mean_softmax
from fewmask.losses.entropy import masked_mean
from fewmask.methods.common.base import Method, sum_over_domains, supervised_loss
from fewmask.models.saved import fingerprint, load_model
from fewmask.models.universal import UniversalSegmenter


class Distill(Method):
    Settings = DistillSettings
    name = "distill"
    settings: DistillSettings
    teachers: tuple[UniversalSegmenter, ...] = ()
    """The teachers are no submodules, so they are neither trained nor saved. The state of this run holds their hashes,
    (M,32) uint8."""
    hashes: Tensor

    @property
    def active(self) -> bool:
        """False with α = 0. The method is then joint training, bit for bit."""
        return self.settings.alpha > 0

    def phases(self, steps: int) -> list[Phase]:
        every = tuple(self.domains)
        return [Phase("train", 0, steps, every, every if self.active else ())]

    def prepare(self, model: UniversalSegmenter, rng: torch.Generator) -> None:
        """Raises ValueError for a folder without a trained network, and for teachers that do not know the classes."""
        folders = self.settings.teachers
        self.hashes = torch.tensor([list(fingerprint(folder)) for folder in folders], dtype=torch.uint8)
        loaded = [load_model(folder, rng.device).requires_grad_(False) for folder in folders]
        _check_classes(model, dict(zip(folders, loaded, strict=True)))
        self.teachers = tuple(t.to(memory_format=torch.channels_last) for t in loaded)  # type: ignore[call-overload]

    def get_extra_state(self) -> Tensor:
        return self.hashes

    def set_extra_state(self, state: Tensor) -> None:
        same = (self.hashes == state.cpu()).all(1).tolist()
        changed = [str(f) for f, unchanged in zip(self.settings.teachers, same, strict=True) if not unchanged]
        if changed:
            raise ValueError(
                f"method.teachers: {', '.join(changed)}: differs from the network that this run has learnt from; "
                "restore that network, or start again with another --out"
            )

    def step(self, model: UniversalSegmenter, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        s, features = self.settings, model.encode(batch.image)
        terms = {"supervised": (1 - s.alpha) * supervised_loss(model, features, batch)}
        if not self.active:
            return terms
        valid_pixels = batch.label != VOID

        def loss_and_agreement(k: int, rows: Tensor) -> Tensor:
            domain = model.domains[k]
            # A teacher may know other kinds of input, so it gets the domain's channels alone.
            image = take(batch.image, rows)[:, : len(model.inputs[domain].channels)]
            log_p = self._soft_labels(image, domain)
            logits = model.logits(take(features, rows), domain, batch.size)
            valid = take(valid_pixels, rows)
            divergence = kl_divergence(log_p, logits, s.temperature)
            agreed = (valid & (logits.argmax(1) == log_p.argmax(1))).sum()
            return torch.stack([masked_mean(divergence, valid, batch.counts[1].valid[k]), agreed])

        soft, agreed = sum_over_domains(batch.rows(), loss_and_agreement, features, 2)
        self.metrics["agreement"] = agreed.detach() / valid_pixels.sum().clamp_min(1)
        return terms | {"soft": s.alpha * s.temperature**2 * soft}

    @torch.no_grad()
    def _soft_labels(self, image: Tensor, domain: str) -> Tensor:
        """log p (b,C_k,H,W) of images (b,C,H,W) of the domain."""
        knowing = [t for t in self.teachers if domain in t.spaces]
        return log_mean_softmax([teacher(image, domain) for teacher in knowing], self.settings.temperature)


def _check_classes(model: UniversalSegmenter, teachers: dict[Path, UniversalSegmenter]) -> None:
    problems = []
    for domain, space in model.spaces.items():
        knowing = {folder: t.spaces[domain].names for folder, t in teachers.items() if domain in t.spaces}
        problems += [
            f"method.teachers: {folder} has other classes of {domain} ({', '.join(names)}, here "
            f"{', '.join(space.names)}); take a run with the same classes in the same order"
            for folder, names in knowing.items()
            if names != space.names
        ]
        problems += [
            f"method.teachers: {folder} learnt {domain} from other `channels`, `depth` or `stretch`; take a run with "
            "the same"
            for folder, t in teachers.items()
            if domain in t.spaces and t.inputs[domain] != model.inputs[domain]
        ]
        if not knowing:
            problems.append(f"method.teachers: no teacher was trained on {domain}; add a run that was")
    if problems:
        raise ValueError("\n".join(problems))
