"""The settings of methods that label the pool for themselves, or have a mean teacher do it."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt, ValidationInfo, field_validator

from fewmask.config.base import Fraction, MethodSettings
from fewmask.config.views import StrongSettings, UniMatchStrongSettings

LAG = 0.02
"""How many steps a teacher with `ema: auto` lies behind its student, as a part of all."""


class SelfLabellingSettings(MethodSettings):
    labels_in: Literal["eval", "train"] = "eval"
    """Mode of the network when it labels the pool for itself. `eval`: without dropout and with running statistics.
    `train`: in the forward pass that learns, as the source's code does."""


class PseudoLabelSettings(SelfLabellingSettings):
    name: Literal["pseudo-label"] = "pseudo-label"
    pool_cost: ClassVar[float] = 1.0
    alpha: NonNegativeFloat = 1.0
    """α_f. The source has 3, on digits."""
    begin: Fraction = 0.1
    """T1, as a part of the steps; before it labelled rows alone are drawn. The source says 100, of how many it does not
    say."""
    end: Fraction = 0.6
    """T2; the source says 600."""
    threshold: Fraction = 0.0
    """0, as the source: every pixel takes part."""

    @field_validator("end")
    @classmethod
    def _follows(cls, end: float, info: ValidationInfo) -> float:
        if end < info.data.get("begin", end):
            raise ValueError(f"it lies before begin {info.data['begin']}; the ramp rises from begin to end")
        return end


class MeanTeacherSettings(MethodSettings):
    ema: Fraction | Literal["auto"] | None = "auto"
    """Momentum of the teacher. `auto` ties it to the length of the training: 1 − 1/(0.02 · steps), so that the teacher
    lies 2 % of the steps behind. None: the student labels the pool itself."""
    answers: Literal["teacher", "student", "auto"] = "teacher"
    """Which of the two is validated, selected and saved as the run's model; the other one is kept beside it, by its own
    name. `auto`: both are validated, and the better one answers; the one that does not is kept as `other`."""

    def over(self, steps: int) -> Self:
        return self.model_copy(update={"ema": momentum(LAG * steps)}) if self.ema == "auto" else self


def momentum(lag: float) -> float:
    """Of a moving average that lies so many steps behind; 0 where that is less than one step."""
    return max(0.0, 1 - 1 / lag) if lag else 0.0


class ConsistencySettings(MeanTeacherSettings, SelfLabellingSettings):
    begin: Fraction = 0.0
    """Part of the steps that sees labels alone, before the pool has a term. The source begins at once."""
    supervised_weight: NonNegativeFloat = 0.5
    """The source halves the sum of both losses."""
    strong_weight: NonNegativeFloat
    """Of the strong views, all together."""
    threshold: Fraction = 0.95
    """Pixels whose label is less sure take no part; answered ones always do."""
    cutmix: Fraction = 0.5
    """Probability of a box in a strong view. The source takes it from another batch of the pool (its second version
    from the batch itself, as here), so that its one network labels the box in eval mode and the rest in train mode."""
    forward: Literal["separate", "joint"] = "separate"
    """`separate`, as the source: labelled and weak views in one forward, strong ones in another. `joint`: all in one,
    with common statistics of batch normalisation."""
    whole: bool = True
    """Labelled rows show wholly labelled images, where there are any; images with a few answered regions then stand in
    the pool alone. The source knows no such images."""
    view: StrongSettings = UniMatchStrongSettings()
    """The strong view."""


class FixMatchSettings(ConsistencySettings):
    name: Literal["fixmatch"] = "fixmatch"
    pool_cost: ClassVar[float] = 2.1
    strong_weight: NonNegativeFloat = 0.5
    """Weight of the strong view's cross-entropy in the loss."""


class UniMatchSettings(ConsistencySettings):
    name: Literal["unimatch"] = "unimatch"
    pool_cost: ClassVar[float] = 3.1
    strong_weight: NonNegativeFloat = 0.25
    """Of both strong views together."""
    features_weight: NonNegativeFloat = 0.25
    """Of the weak view with perturbed features. Ours are those that the heads read; the source drops channels of what
    the encoder hands to the decoder, twice, at its first and its last stage. F here is any encoder with any decoder,
    and only its output is the same thing in all of them. Before a 1×1 head it is the milder perturbation."""
    complementary: bool = False
    """The second version's dropout: the two strong views of a row see complementary halves of the channels, times two;
    half of the rows, at random, see all in both. There it is of the encoder's features, here of those that the heads
    read."""


class S4alSettings(MeanTeacherSettings):
    name: Literal["s4al"] = "s4al"
    pool_cost: ClassVar[float] = 2.9
    ema: Fraction | Literal["auto"] = "auto"
    """Momentum of the teacher, which this method cannot do without; the source has .99 over 5,000 to 20,000 steps."""
    weight: NonNegativeFloat = 1.0
    """Of L_u."""
    replay_weight: NonNegativeFloat = 1.0
    """Of L_r. The authors' code adds the three losses; `weight: 0` has adaptive ClassMix in the place of the plain
    one."""
    cold: Fraction = 0.1
    """Part of the steps that sees labels alone: 10 epochs in the source."""
    cold_weight: NonNegativeFloat = 1.5
    """Of the cross-entropy in it."""
    threshold: Fraction = 0.97
    """Pixels of the pool whose label is less sure than this take no part."""
    fraction: Literal["mixed", "source"] = "mixed"
    """Whose part of sure pixels weighs a pixel: of the mixed row that it is in, as in the authors' code, or of the row
    that it comes from."""
    mixing: Literal["classmix", "none"] = "classmix"
    """Whether rows of the pool are pasted together by class."""
    adaptive: Literal["auto", "always", "never"] = "auto"
    """Whether classes are pasted from memory: the source begins with generation 1, which `auto` recognises by images
    with answered regions in some domain."""
    heads: NonNegativeInt = 2
    """Frequent classes pasted into a row. The authors' code has 3."""
    tails: NonNegativeInt = 3
    """Rare ones. The authors' code has 2 on CamVid and 3 on Cityscapes."""
    tail_share: Fraction = 0.1
    """The rarest classes that have at most this part of all labelled pixels together are rare. The source lists them by
    hand."""
    places: PositiveInt = 32
    """Rows remembered a domain, those with a rare class. The source does not say."""
    forward: Literal["separate", "joint"] = "separate"
    """`separate`, as the source: labelled, unlabelled and replayed rows each in a forward of their own. `joint`: all in
    one, with common statistics of batch normalisation, as S4AL+ recommends."""
    whole: bool = True
    """Labelled rows show wholly labelled images, where there are any; images with answered regions then stand in the
    pool alone, with their answers. The source does not say how it draws them."""
    view: StrongSettings = StrongSettings(blur=0, brightness=0.25, contrast=0.25, saturation=0.25, hue=0, grey=0)
    """Colour jitter 0.75–1.25 with probability .5; the authors' code leaves saturation and hue alone."""
