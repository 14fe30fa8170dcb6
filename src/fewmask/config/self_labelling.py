"""The settings of methods in which the network or a mean teacher labels the pool."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt, ValidationInfo, field_validator

from fewmask.config.base import Fraction, MethodSettings
from fewmask.config.views import StrongSettings, UniMatchStrongSettings

LAG = 0.02
"""The number of steps that a teacher with `ema: auto` lies behind its student, as a fraction of all steps."""


class SelfLabellingSettings(MethodSettings):
    labels_in: Literal["eval", "train"] = "eval"
    """Mode of the network when it labels the pool. `eval`: without dropout and with running statistics. `train`: in the
    forward pass that is trained, as in the authors' code."""


class PseudoLabelSettings(SelfLabellingSettings):
    name: Literal["pseudo-label"] = "pseudo-label"
    pool_cost: ClassVar[float] = 1.0
    alpha: NonNegativeFloat = 1.0
    """α_f, the final weight of the pool's term. The paper has 3, on digits."""
    begin: Fraction = 0.1
    """T1, as a fraction of the steps. Before it only labelled rows are drawn. The paper has 100 of an unknown
    number."""
    end: Fraction = 0.6
    """T2, as a fraction of the steps. The paper has 600 of an unknown number."""
    threshold: Fraction = 0.0
    """Pixels with a lower confidence are left out. With 0, as in the paper, every pixel is used."""

    @field_validator("end")
    @classmethod
    def _follows(cls, end: float, info: ValidationInfo) -> float:
        if end < info.data.get("begin", end):
            raise ValueError(f"it lies before begin {info.data['begin']}; the ramp rises from begin to end")
        return end


class MeanTeacherSettings(MethodSettings):
    ema: Fraction | Literal["auto"] | None = "auto"
    """Momentum of the teacher. `auto` makes it 1 − 1/(0.02 · steps), so that the teacher lies 2 % of the steps behind.
    With None there is no teacher, and the student labels the pool."""
    answers: Literal["teacher", "student", "auto"] = "teacher"
    """The network that is validated, selected and saved as the run's model. The other one is saved beside it under its
    name. With `auto` both are validated and the better one is the model. The other one is saved as `other`."""

    def over(self, steps: int) -> Self:
        return self.model_copy(update={"ema": momentum(LAG * steps)}) if self.ema == "auto" else self


def momentum(lag: float) -> float:
    """The momentum of a moving average that lies `lag` steps behind; 0 if the lag is less than one step."""
    return max(0.0, 1 - 1 / lag) if lag else 0.0


class ConsistencySettings(MeanTeacherSettings, SelfLabellingSettings):
    begin: Fraction = 0.0
    """Fraction of the steps that use labels alone, before the pool's terms begin. The paper begins at once."""
    supervised_weight: NonNegativeFloat = 0.5
    """Weight of the supervised loss. The paper halves the sum of both losses."""
    strong_weight: NonNegativeFloat
    """Weight of all strong views together."""
    threshold: Fraction = 0.95
    """Pixels with a lower confidence are left out, unless they are answered."""
    cutmix: Fraction = 0.5
    """Probability of a box in a strong view. The box comes from the same batch, as in UniMatch V2. The first version
    takes it from another batch of the pool, which its network labels in eval mode."""
    forward: Literal["separate", "joint"] = "separate"
    """`separate`, as in the paper: labelled and weak views in one forward, strong views in another. `joint`: all in one
    forward, with common statistics of batch normalisation."""
    whole: bool = True
    """Labelled rows are wholly labelled images, where there are any. Images with a few answered regions are then drawn
    from the pool alone. The paper has no such images."""
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
    """Weight of both strong views together."""
    features_weight: NonNegativeFloat = 0.25
    """Weight of the weak view with perturbed features. The perturbed features are F's output, which every encoder and
    decoder has. The paper drops channels of the encoder's first and last stage, which is a stronger perturbation."""
    complementary: bool = False
    """Dropout of UniMatch V2: the two strong views of a row have complementary halves of the channels, times two. A
    random half of the rows keeps all channels. The paper drops channels of the encoder's features, fewmask of F's."""


class S4alSettings(MeanTeacherSettings):
    name: Literal["s4al"] = "s4al"
    pool_cost: ClassVar[float] = 2.9
    ema: Fraction | Literal["auto"] = "auto"
    """Momentum of the teacher, which this method requires. The paper has .99 over 5,000 to 20,000 steps."""
    weight: NonNegativeFloat = 1.0
    """Weight of L_u."""
    replay_weight: NonNegativeFloat = 1.0
    """Weight of L_r. The authors' code adds the three losses. With `weight: 0` adaptive ClassMix replaces the plain
    one."""
    cold: Fraction = 0.1
    """Fraction of the steps that use labels alone, the cold start. The paper has 10 epochs."""
    cold_weight: NonNegativeFloat = 1.5
    """Weight of the cross-entropy in the cold start."""
    threshold: Fraction = 0.97
    """Confidence from which a pixel of the pool is sure. The fraction of sure pixels of a row weighs its pixels."""
    fraction: Literal["mixed", "source"] = "mixed"
    """The row whose fraction of sure pixels weighs a pixel: the mixed row, as in the authors' code, or the row that the
    pixel comes from."""
    mixing: Literal["classmix", "none"] = "classmix"
    """Whether rows of the pool are pasted together by class."""
    adaptive: Literal["auto", "always", "never"] = "auto"
    """Whether classes are pasted from memory. The paper begins with generation 1, and `auto` as soon as a domain has
    images with answered regions."""
    heads: NonNegativeInt = 2
    """Frequent classes that are pasted into a row. The authors' code has 3."""
    tails: NonNegativeInt = 3
    """Rare classes that are pasted into a row. The authors' code has 2 on CamVid and 3 on Cityscapes."""
    tail_share: Fraction = 0.1
    """Rare classes are the rarest ones that together have at most this fraction of all labelled pixels. The paper lists
    them by hand."""
    places: PositiveInt = 32
    """Rows with a rare class that are remembered in each domain. The paper does not state the number."""
    forward: Literal["separate", "joint"] = "separate"
    """`separate`, as in the paper: labelled, unlabelled and replayed rows each in their own forward. `joint`: all in
    one forward, with common statistics of batch normalisation, as S4AL+ recommends."""
    whole: bool = True
    """Labelled rows are wholly labelled images, where there are any. Images with answered regions are then drawn from
    the pool alone, with their answers. The paper does not say how it draws them."""
    view: StrongSettings = StrongSettings(blur=0, brightness=0.25, contrast=0.25, saturation=0.25, hue=0, grey=0)
    """Colour jitter 0.75–1.25 with probability .5; the authors' code leaves saturation and hue alone."""
