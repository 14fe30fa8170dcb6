"""Rounds of training and asking."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from fewmask.config.base import Fraction, Settings, Shrink

Scale = Annotated[float, Field(gt=0, le=8)]


class BudgetSettings(Settings):
    amount: NonNegativeFloat
    """How much may be asked for in one round."""
    unit: Literal["pixels", "regions", "clicks", "seconds"] = "regions"
    """What the budget counts: pixels, regions, or expected clicks or seconds of an annotator."""
    per: Literal["pool", "image"] = "pool"
    """One budget for all images of all domains, or as much in every image."""


class AskSettings(Settings):
    budget: BudgetSettings
    """How much is asked for."""
    score: str = "entropy"
    """What regions are ranked by, such as `entropy`, `margin` or `random`."""
    regions: str = "squares:30"
    """squares:SIDE, superpixels:COUNT or points."""
    balance: Literal["none", "class", "diverse"] = "none"
    """Whether the chosen regions are spread over predicted classes, or over the feature space, beside their scores."""
    border: bool = True
    """Whether regions at the image's border may be asked; S4AL+ never does."""
    answered: Literal["zero", "leave-out"] = "zero"
    """How answered pixels count in a region's mean score."""
    top: Shrink = 0.05
    """points: they are drawn from this part of an image's pixels, the best-scored ones (PixelPick)."""
    candidates: PositiveInt = 256
    """At most so many regions of an image are considered, the best-scored ones."""


class PoolSettings(Settings):
    """Who looks at the pool between two rounds, and how: the members whose opinions are scored."""

    network: str | Annotated[tuple[str, ...], Field(min_length=1)] = "model"
    """"model", or another network that the method keeps, such as "student"; or several, who form a committee."""
    scales: Annotated[tuple[Scale, ...], Field(min_length=1)] = (0.5, 1.0, 2.0)
    """Sizes that an image is looked at in, as parts of its own; the predictions are averaged."""
    dropout: NonNegativeInt = 0
    """Draws with dropout left on; 0 is one look without."""
    generations: PositiveInt = 1
    """The last so many rounds' networks form a committee; the first looks have fewer."""
    combine: Literal["softmax", "logits"] = "softmax"
    """What the mean over scales is taken of."""
    batch_size: PositiveInt = 4
    """Images of one size that are looked at together. It changes memory and speed, and the results by rounding alone;
    a campaign may go on with another one."""

    @property
    def networks(self) -> tuple[str, ...]:
        """The names in `network`, without repetition."""
        return (self.network,) if isinstance(self.network, str) else tuple(dict.fromkeys(self.network))


class RateSettings(Settings):
    """Clicks of a region of one kind."""

    per_region: NonNegativeFloat = 1.0
    """Clicks of each region."""
    per_pixel: NonNegativeFloat = 0.0
    """Clicks of each pixel, added to those of the region."""


class CostSettings(Settings):
    """What an answer is expected to cost, where it is not as `acquisition.budget` states."""

    rates: dict[Literal["squares", "superpixels", "points", "image"], RateSettings] = {}
    """Clicks by the kind of region, where they differ from those that fewmask states."""
    seconds_per_click: PositiveFloat | None = None
    """Seconds of one click, where they differ from those that fewmask states."""


class AnswerSettings(Settings):
    """How many annotators answer each question, and what their answers come to."""

    each: PositiveInt = 1
    """Annotators that each question waits for."""
    decide: Literal["latest", "majority", "trust"] = "latest"
    """Whose answer counts where several disagree: the later one's, or a vote, pixel by pixel."""
    trust: Literal["estimated"] | dict[str, NonNegativeFloat] = "estimated"
    """trust: what each annotator's vote weighs, 1 where nothing is said; or as the answers show it."""


class CampaignSettings(Settings):
    rounds: PositiveInt = 3
    """Trainings; between two of them the pool is looked at and questions are asked."""
    first: AskSettings | None = None
    """Questions before the first training, by a score that needs no network."""
    ask: AskSettings | None = None
    """Questions between two trainings; none: self-training alone."""
    annotator: Literal["oracle", "people"] = "people"
    """Who answers: people, or the data set's own masks."""
    answers: AnswerSettings = AnswerSettings()
    """How answers of several annotators are combined."""
    start: Literal["fresh", "warm"] = "fresh"
    """Each round trains a new network, or the last round's goes on."""
    need: Literal["curve", "equal"] = "curve"
    """How much the domains' scores weigh against each other: by what each one's learning curve promises, or alike."""
    first_steps: PositiveInt | None = None
    """Steps of the first training, where others than `train.steps`."""
    last_steps: PositiveInt | None = None
    """Steps of the last training, where others than `train.steps`."""
    first_batch_size: PositiveInt | None = None
    """Its labelled images a step, where others than `train.batch_size`: the first teacher sees no pool beside them."""
    pool: PoolSettings = PoolSettings()
    """How the pool is looked at between two rounds."""
    cost: CostSettings = CostSettings()
    """What an answer is expected to cost."""
    target: Fraction | None = None
    """The mIoU to say how many labels are still missing for."""
