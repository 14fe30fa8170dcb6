"""The settings of a campaign: rounds of training and asking."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from fewmask.config.base import Fraction, Settings, Shrink

Scale = Annotated[float, Field(gt=0, le=8)]


class BudgetSettings(Settings):
    amount: NonNegativeFloat
    """The budget of one round."""
    unit: Literal["pixels", "regions", "clicks", "seconds"] = "regions"
    """The unit of the budget: pixels, regions, or expected clicks or seconds of an annotator."""
    per: Literal["pool", "image"] = "pool"
    """Whether the budget is for all images of all domains together, or for each image."""


class AskSettings(Settings):
    budget: BudgetSettings
    """The budget of a round of questions."""
    score: str = "entropy"
    """The score that ranks regions, such as `entropy`, `margin` or `random`."""
    regions: str = "squares:30"
    """The kind of regions: squares:SIDE, superpixels:COUNT or points."""
    balance: Literal["none", "class", "diverse"] = "none"
    """Whether the chosen regions are spread over predicted classes, or over the feature space, beside their scores."""
    border: bool = True
    """Whether regions at the image's border may be asked for. S4AL+ never asks for them."""
    answered: Literal["zero", "leave-out"] = "zero"
    """How answered pixels count in a region's mean score."""
    top: Shrink = 0.05
    """points: the fraction of an image's pixels, those with the best scores, from which points are drawn
    (PixelPick)."""
    candidates: PositiveInt = 256
    """The largest number of regions of an image that are considered. They are the ones with the best scores."""


class PoolSettings(Settings):
    """How the pool is scored between two rounds: the members whose predictions the score compares."""

    network: str | Annotated[tuple[str, ...], Field(min_length=1)] = "model"
    """"model", or another network that the method keeps, such as "student". Several networks form a committee."""
    scales: Annotated[tuple[Scale, ...], Field(min_length=1)] = (0.5, 1.0, 2.0)
    """Sizes at which an image is predicted, as factors of its own size. The predictions are averaged."""
    dropout: NonNegativeInt = 0
    """The number of predictions with dropout left on. 0 is a single prediction without dropout."""
    generations: PositiveInt = 1
    """The number of last rounds whose networks form a committee. The first rounds have fewer."""
    combine: Literal["softmax", "logits"] = "softmax"
    """The outputs that are averaged over scales."""
    batch_size: PositiveInt = 4
    """Images of one size that are predicted together. It changes memory and speed, and the results by rounding alone. A
    campaign may be resumed with another value."""

    @property
    def networks(self) -> tuple[str, ...]:
        """The names in `network`, without repetition."""
        return (self.network,) if isinstance(self.network, str) else tuple(dict.fromkeys(self.network))


class RateSettings(Settings):
    """The clicks that a region of one kind takes."""

    per_region: NonNegativeFloat = 1.0
    """Clicks of each region."""
    per_pixel: NonNegativeFloat = 0.0
    """Clicks of each pixel, added to those of the region."""


class CostSettings(Settings):
    """The expected cost of an answer, where it differs from `acquisition.budget`."""

    rates: dict[Literal["squares", "superpixels", "points", "image"], RateSettings] = {}
    """Clicks by the kind of region, where they differ from those that fewmask states."""
    seconds_per_click: PositiveFloat | None = None
    """Seconds of one click, where they differ from those that fewmask states."""


class AnswerSettings(Settings):
    """How many annotators answer each question, and how their answers are combined."""

    each: PositiveInt = 1
    """The number of annotators that each question waits for."""
    decide: Literal["latest", "majority", "trust"] = "latest"
    """How a disagreement is resolved: by the latest answer, or by a vote on each pixel, which `trust` weighs."""
    trust: Literal["estimated"] | dict[str, NonNegativeFloat] = "estimated"
    """trust: the weight of each annotator's vote, 1 by default; or `estimated` from the answers."""


class CampaignSettings(Settings):
    rounds: PositiveInt = 3
    """The number of trainings. Between two of them the pool is scored and questions are asked."""
    first: AskSettings | None = None
    """Questions before the first training, by a score that needs no network."""
    ask: AskSettings | None = None
    """Questions between two trainings. Without them the campaign is self-training alone."""
    annotator: Literal["oracle", "people"] = "people"
    """Who answers: people, or the data set's own masks."""
    answers: AnswerSettings = AnswerSettings()
    """How answers of several annotators are combined."""
    start: Literal["fresh", "warm"] = "fresh"
    """Whether each round trains a new network, or continues with the last round's."""
    need: Literal["curve", "equal"] = "curve"
    """How the domains' scores are weighted: by the gain that each learning curve predicts, or equally."""
    first_steps: PositiveInt | None = None
    """Steps of the first training, if they differ from `train.steps`."""
    last_steps: PositiveInt | None = None
    """Steps of the last training, if they differ from `train.steps`."""
    first_batch_size: PositiveInt | None = None
    """Labelled images a step of the first training, if they differ from `train.batch_size`. The first training has no
    images of the pool beside them."""
    pool: PoolSettings = PoolSettings()
    """How the pool is scored between two rounds."""
    cost: CostSettings = CostSettings()
    """The expected cost of an answer."""
    target: Fraction | None = None
    """The mIoU for which the number of missing labels is estimated."""
