"""The records of a run: one for each JSON file and for each part of such a file. Scores are fractions from 0 to 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, field_validator

from fewmask.config import Fraction, InputSettings, ModelSettings
from fewmask.config.scale import Scale
from fewmask.labels import LabelSpace
from fewmask.runs.reading import FileRecord, Record


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of the values that are not None; None if there are none."""
    numbers = [v for v in values if v is not None]
    return sum(numbers) / len(numbers) if numbers else None


Digest = str
Unit = Literal["pixels", "regions", "clicks", "seconds"]
Interval = tuple[float, float, float]


class Scores(Record):
    """The scores of a network on one domain."""

    miou: Fraction | None
    """The mean IoU over the classes that occur; None where no pixel is labelled."""
    miou_legacy: Fraction
    """The mean IoU with absent classes counted as 0."""
    pixel_accuracy: Fraction | None
    iou: dict[str, Fraction | None]
    """By class; None for absent classes."""
    pixels: NonNegativeInt
    split: str
    images: NonNegativeInt
    miou_shared: Fraction | None = None
    """The mean IoU over the classes that other domains of the network have too. Set if the network has several
    domains."""
    miou_private: Fraction | None = None

    @property
    def divided(self) -> bool:
        """Whether the means over shared and over private classes are set."""
        return "miou_private" in self.model_fields_set


class NewHeadScores(Scores):
    """Scores of a head that was trained afterwards on the frozen network."""

    labelled: NonNegativeInt
    steps: PositiveInt
    seed: NonNegativeInt
    way: str


class Validation(Record):
    """One validation during a training."""

    step: NonNegativeInt
    miou: dict[str, Fraction | None]
    avg_miou: Fraction | None
    weights: dict[str, Fraction | None] = {}
    """The mean mIoU of each candidate network; the better one was chosen."""


class Hardware(Record):
    device: str
    name: str
    threads: PositiveInt


class Summary(FileRecord):
    """`summary.json`: the result of a finished training. It is written last."""

    fix: ClassVar[str] = "remove it and go on with the same command, which writes it again"

    name: str
    method: str
    seed: NonNegativeInt
    steps: PositiveInt
    selected_step: PositiveInt
    avg_miou: Fraction | None
    domains: dict[str, Scores]
    """The domains that were scored."""
    validation: list[Validation]
    trained: list[str]
    """The domains whose heads were trained."""
    labelled: dict[str, NonNegativeInt]
    """By domain, images of train with at least one labelled pixel."""
    unlabelled: dict[str, NonNegativeInt]
    """By domain, images of train with at least one pixel that is not labelled."""
    in_part: dict[str, NonNegativeInt] = {}
    """By domain, images that are labelled in part. Both counts include them."""
    seconds: NonNegativeFloat
    memory_mib: NonNegativeFloat | None
    hardware: Hardware
    versions: dict[str, str]
    weights: dict[str, Digest]
    """SHA-256 of each file of weights that the training wrote, by file name."""
    unseen: dict[str, list[str]] = {}
    """By domain, the classes without a pixel in any labelled mask."""
    round: NonNegativeInt | None = None
    """In a campaign, the round that trained the network."""

    @property
    def selected(self) -> Validation | None:
        """The validation of the selected weights."""
        return next((v for v in self.validation if v.step == self.selected_step), None)


class Entry(Record):
    """One round of a campaign: all labels that it trained on, and its validation scores."""

    round: NonNegativeInt
    cost: dict[str, NonNegativeFloat]
    """By domain, in the budget's unit."""
    pixels: dict[str, NonNegativeInt]
    """By domain, labelled pixels."""
    miou: dict[str, Fraction | None]
    """By domain; None for a domain without validation images."""
    seconds: NonNegativeFloat
    """Duration of the training."""
    score_pool_seconds: NonNegativeFloat
    """Duration of the pass over the pool before it, summed over processes; 0 if there was none."""
    total_cost: NonNegativeFloat
    avg_miou: Fraction | None

    @classmethod
    def with_sums(
        cls,
        number: int,
        cost: Mapping[str, float],
        pixels: Mapping[str, int],
        miou: Mapping[str, float | None],
        seconds: float,
        score_pool_seconds: float,
    ) -> Entry:
        """The entry, with the sums computed from its parts."""
        return cls(
            round=number,
            cost=dict(cost),
            pixels=dict(pixels),
            miou=dict(miou),
            seconds=seconds,
            score_pool_seconds=score_pool_seconds,
            total_cost=sum(cost.values()),
            avg_miou=mean(list(miou.values())),
        )


class Forecast(Record):
    """The learning curve a − b·n^(−c) fitted to a campaign's rounds, and its predictions.

    An interval is (low, median, high) at 80 %.
    """

    a: float
    b: float
    c: float
    labels: NonNegativeFloat
    """Labels in all after the last round."""
    unit: Unit
    pool: NonNegativeFloat | None
    """An estimate of all labels that are possible; None if it is not known."""
    limit: Interval
    """The mIoU in the limit of infinitely many labels."""
    target: Fraction | None
    needed: tuple[float | None, float | None, float | None] | None
    """Labels beyond `labels` that the target needs; None if it is out of reach."""
    budget: NonNegativeFloat | None
    """Labels of the next round, if there is one budget for all domains."""
    gain: Interval | None
    """The mIoU that the next round's labels add."""
    change: float | None
    """The change of the mIoU in the last round, if the labels do not explain it."""
    flat: bool
    """Whether the rounds show no effect of the labels; a, b and c have no meaning then."""


class Change(Record):
    """A change of a campaign's setting, or of a domain's classes, between two rounds."""

    round: PositiveInt
    """The first round that was trained with the change, counted from 1."""
    time: str
    key: str
    before: Any
    now: Any


class Changes(FileRecord):
    """`changes.json`: all changes, in order."""

    fix: ClassVar[str] = "put it back from a copy of the run, or remove it and lose the list of changes"

    changes: list[Change] = []


class CampaignSummary(FileRecord):
    """`campaign.json`: the progress of a campaign."""

    fix: ClassVar[str] = "remove it and go on with the same `fewmask campaign` command, which writes it again"

    state: Literal["done", "waiting"]
    round: int
    rounds: PositiveInt
    open: NonNegativeInt
    unit: Unit
    asked: NonNegativeInt
    answered: NonNegativeInt
    spent: NonNegativeFloat
    budget: NonNegativeFloat
    seconds: NonNegativeFloat
    clicks: NonNegativeFloat
    history: list[Entry]
    forecast: Forecast | None
    changes: list[Change] = []
    """Changes of the settings between rounds."""
    result: Summary | None


class Round(FileRecord):
    """`rounds/<n>.json`: the labels that a round's training began with."""

    fix: ClassVar[str] = "put it back from a copy of the run, or begin a new run with another --out"

    up_to: NonNegativeInt
    """The last answer in the ledger that the training used."""
    answers: str | None = None
    """A hash of all answers up to that one; an earlier version did not write it."""
    start: dict[str, tuple[NonNegativeInt, NonNegativeFloat]]
    """By domain, the labels before the first question: pixels, and their cost in the budget's unit."""


class Budget(FileRecord):
    """`pool/<n>/budget.json`: the amount that a round was allowed to ask for."""

    fix: ClassVar[str] = "put it back from a copy of the run, or begin a new run with another --out"

    amount: NonNegativeFloat


class Normalisation(Record):
    mean: list[float]
    std: list[float]
    range: tuple[int, int] = (0, 255)


class Description(FileRecord):
    """`model.json`: the description of the network. Its weights are in the same folder."""

    domains: dict[str, dict[str, Any]]
    """By domain, its label space as plain data."""
    sizes: dict[str, Scale] = {}
    """By domain, the size of its images in training; their own size by default."""
    inputs: dict[str, InputSettings] = {}
    """By domain, what the pixels of its images are; 8-bit RGB by default."""
    model: ModelSettings
    members: int = Field(1, ge=1, le=16, strict=True)
    """The number of networks whose logits are averaged."""
    normalisation: Normalisation
    versions: dict[str, str]
    weights: Digest
    """SHA-256 of the file of weights."""

    @field_validator("domains")
    @classmethod
    def _are_label_spaces(cls, domains: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name, space in domains.items():
            try:
                LabelSpace.from_dict(space)
            except (KeyError, TypeError, AttributeError, IndexError) as error:
                raise ValueError(f"{name}: not a label space ({type(error).__name__}: {error})") from None
        return domains

    @field_validator("inputs")
    @classmethod
    def _are_settled(cls, inputs: dict[str, InputSettings]) -> dict[str, InputSettings]:
        if missing := [name for name, one in inputs.items() if one.unsettled]:
            raise ValueError(f"{', '.join(missing)}: no `stretch`, the values that become 0 and 255")
        return inputs

    @property
    def spaces(self) -> dict[str, LabelSpace]:
        return {name: LabelSpace.from_dict(space) for name, space in self.domains.items()}


class Heads(FileRecord):
    """`heads.json`: scores of domains that a run did not train, each with a new head on the run's network."""

    fix: ClassVar[str] = "remove it and run the recipe again, which writes it again"

    domains: dict[str, NewHeadScores] = Field(min_length=1)
