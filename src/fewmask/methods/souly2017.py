"""A GAN whose discriminator is the segmenter, with an additional class "fake" (Souly et al., ICCV 2017).

    for each step:  x labelled, u pool, z noise, l the classes that may be in u (all, or its weak labels)
        P(· | ·)  the softmax of G_k(F(·)) over C_k + 1 classes, the last of which is "fake"
        L_ce   = Σ_k −log P(y | x)                         labelled pixels
        L_real = Σ_k −log P(y ∈ l | u)                     the pool's pixels without a label
        v      = N(z, l)                                   N: the generator; void pixels of u are put into v
        L_fake = Σ_k −log P(fake | v)                      pixels of v but these
        F, G:  γ L_ce + L_real + L_fake                    N: −L_fake, by an Adam of its own

`generator_loss: non-saturating` has N minimise Σ_k −log(1 − P(fake | v)) instead, with F and G frozen.

Shapes: B rows of a batch, U of them of the pool · C_k classes of domain k · H×W pixels · N size of the noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from fewmask import strict_yaml
from fewmask.config.methods import Souly2017Settings
from fewmask.data.batch import Batch, Phase, take
from fewmask.data.batches import batch_name
from fewmask.data.domain import Domain
from fewmask.labels import NOT_LABELLED, VOID
from fewmask.losses.adversarial import surprise_if_fake, surprise_if_real, with_fake
from fewmask.losses.entropy import masked_mean
from fewmask.methods.common.adversary import frozen, reverse
from fewmask.methods.common.base import Method, OwnOptimiser, label_loss, sum_over_domains, supervised_loss
from fewmask.models.batch_norm import statistics_kept
from fewmask.models.generator import Generator
from fewmask.models.universal import UniversalSegmenter
from fewmask.strict_yaml import short


class Souly2017(Method):
    Settings = Souly2017Settings
    name = "souly2017"
    rgb_alone = True
    settings: Souly2017Settings
    generator: Generator

    def __init__(self, settings: Souly2017Settings, domains: Mapping[str, Domain]) -> None:
        super().__init__(settings, domains)
        unknown = sorted(settings.weak.keys() - domains.keys())
        if unknown:
            raise ValueError(f"method.weak: no domain {', '.join(unknown)}; there are {', '.join(domains)}")
        sizes = [d.space.num_classes for d in domains.values()]
        # Each row marks the classes of one domain among those of all domains.
        self.every = torch.block_diag(*[torch.ones(1, c) for c in sizes]).bool()
        self.slots = [slice(sum(sizes[:k]), sum(sizes[: k + 1])) for k in range(len(sizes))]
        self.weak: dict[str, Tensor] = {}
        for k, (name, domain) in enumerate(domains.items()):
            if name in settings.weak:
                for image, present in image_labels(settings.weak[name], domain).items():
                    self.weak[image] = torch.zeros(sum(sizes), dtype=torch.bool)
                    self.weak[image][self.slots[k]] = present

    @property
    def active(self) -> bool:
        """False with weights of 0. The method is then joint training, bit for bit."""
        return self.settings.real > 0 or self.settings.fake > 0

    def phases(self, steps: int) -> list[Phase]:
        every = tuple(self.domains)
        if not self.active:
            return [Phase("train", 0, steps, every)]
        return [Phase("train", 0, steps, every, every, whole=self.settings.whole)]

    def forward_batch_sizes(self, labelled: int, unlabelled: int) -> tuple[int, ...]:
        games = {"minimax": 1, "non-saturating": 2}[self.settings.generator_loss] if self.settings.fake else 0
        return (labelled + unlabelled, *[unlabelled] * games * self.active)

    def prepare(self, model: UniversalSegmenter, rng: torch.Generator) -> None:
        s = self.settings
        if s.fake:
            self.generator = Generator(s.noise + self.every.shape[1], s.side, s.channels, rng)

    def optimisers(self) -> dict[str, OwnOptimiser]:
        s = self.settings
        return {"generator": OwnOptimiser(list(self.generator.parameters()), s.optimiser)} if s.fake else {}

    def extra_modules(self, model: UniversalSegmenter) -> dict[str, nn.Module]:
        return {"generator": self.generator} if self.settings.fake else {}

    def step(self, model: UniversalSegmenter, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        s = self.settings
        features = model.encode(batch.image)
        if not self.active:
            return {"supervised": s.supervised * supervised_loss(model, features, batch)}

        def supervised(k: int, rows: Tensor) -> Tensor:
            logits = model.logits(take(features, rows), model.domains[k], batch.size)
            return label_loss(with_fake(logits), take(batch.label, rows), batch, k, rows)

        possible = self._possible(batch)
        terms = {"supervised": s.supervised * sum_over_domains(batch.labelled_rows(), supervised, features)}
        if s.real:
            terms["real"] = s.real * self._pool_mean(model, features[batch.pool :], batch, surprise_if_real, possible)
        if s.fake:
            terms |= self._game(model, self._generated(batch, possible, rng), batch)
        return terms

    def _game(self, model: UniversalSegmenter, fake: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The terms of the network and of the generator. In the minimax game both share one term. fake (U,3,H,W)."""
        minimax = self.settings.generator_loss == "minimax"
        with statistics_kept(model):
            features = model.encode(reverse(fake) if minimax else fake.detach())
            terms = {"fake": self.settings.fake * self._pool_mean(model, features, batch, surprise_if_fake)}
            if not minimax:
                with frozen(model):
                    features = model.encode(fake)
                    terms["generator"] = self._pool_mean(model, features, batch, surprise_if_real)
        return terms

    def _pool_mean(
        self,
        model: UniversalSegmenter,
        features: Tensor,
        batch: Batch,
        surprise: Callable[..., Tensor],
        possible: Tensor | None = None,
    ) -> Tensor:
        """Σ_k of the mean surprise of G_k over rows (U,C,·,·), the pool's or generated ones. The mean is over all
        pixels that are not void, or with `possible` classes (U,ΣC_k) over the pixels without a label."""
        labels = batch.label[batch.pool :]

        def term(k: int, rows: Tensor) -> Tensor:
            label, counts = take(labels, rows), batch.counts[1]
            logits = model.logits(take(features, rows), model.domains[k], batch.size)
            if possible is None:
                return masked_mean(surprise(logits), label != VOID, counts.pool[k])
            possible_classes = take(possible, rows)[:, self.slots[k]]
            return masked_mean(surprise(logits, possible_classes), label == NOT_LABELLED, counts.pool_unlabelled[k])

        return sum_over_domains(batch.pool_rows(), term, features)

    def _possible(self, batch: Batch) -> Tensor:
        """(U,ΣC_k) bool: the classes, among those of all domains, that each row of the pool may show."""
        names, owner = batch.names[batch.pool :], batch.domain[batch.pool :].tolist()
        rows = [self.weak.get(name, self.every[k]) for name, k in zip(names, owner, strict=True)]
        return torch.stack(rows).to(batch.image.device, non_blocking=True)

    def _generated(self, batch: Batch, possible: Tensor, rng: torch.Generator) -> Tensor:
        """Generate an image (U,3,H,W) for each row of the pool, with its possible classes and its void pixels."""
        real, label = batch.image[batch.pool :], batch.label[batch.pool :]
        noise = 2 * torch.rand((len(real), self.settings.noise), generator=rng, device=real.device) - 1
        image = self.generator(torch.cat([noise, possible.float()], 1), (real.shape[2], real.shape[3]))
        return torch.where((label == VOID)[:, None], real.float(), image)


def image_labels(path: Path, domain: Domain) -> dict[str, Tensor]:
    """The classes (C,) bool of each image in a file of image-level labels, by the image's name in a batch.

    Raises ValueError that names the file and lists all errors in it.
    """
    try:
        data, text = strict_yaml.read_yaml(path, times=16)  # a program may have written it for a whole dataset
    except (OSError, ValueError) as error:
        raise ValueError(f"method.weak.{domain.name}: {path} cannot be read ({error})") from None
    if not isinstance(data, dict):
        raise ValueError(f"method.weak.{domain.name}: {path} holds no mapping; write `image: [class, …]` in each line")
    classes, train = domain.space.names, set(domain.splits["train"])
    labels, problems = {}, []
    for stem, names in data.items():
        if str(stem) not in train:
            problems.append(f"{stem}: no image of train")
        elif not isinstance(names, list) or not names or not all(name in classes for name in names):
            position = next((i for i, n in enumerate(names) if not isinstance(n, str)), None) if names else None
            fix = "" if position is None else f" ({strict_yaml.unquoted(text, [stem, position], names[position])})"
            problems.append(f"{stem}: {short(names)} is no list of classes{fix}; there are {', '.join(classes)}")
        else:
            labels[batch_name(domain, str(stem))] = torch.tensor([name in names for name in classes])
    if problems:
        raise ValueError(f"method.weak.{domain.name}: {path}\n" + "\n".join(f"  {p}" for p in problems))
    return labels
