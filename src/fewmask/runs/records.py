"""The records of a run, one for each JSON file and each part of one. Scores are fractions from 0 to 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, field_validator

from fewmask.config import Fraction, ModelSettings
from fewmask.config.scale import Scale
from fewmask.labels import LabelSpace
from fewmask.runs.reading import FileRecord, Record


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of the values that exist; None of none."""
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


Digest = str
Unit = Literal["pixels", "regions", "clicks", "seconds"]
Interval = tuple[float, float, float]


class Scores(Record):
    """How good a network is on one domain."""

    miou: Fraction | None
    """The mean IoU over the classes that occur; None where no pixel is labelled."""
    miou_legacy: Fraction
    """With absent classes as 0."""
    pixel_accuracy: Fraction | None
    iou: dict[str, Fraction | None]
    """By class; None for absent ones."""
    pixels: NonNegativeInt
    split: str
    images: NonNegativeInt
    miou_shared: Fraction | None = None
    """Over the classes that other domains of the network have too. Given where it has several domains."""
    miou_private: Fraction | None = None

    @property
    def divided(self) -> bool:
        """Whether means over shared and over private classes are given."""
        return "miou_private" in self.model_fields_set


class NewHeadScores(Scores):
    """Scores of a head that was trained afterwards, on the frozen network."""

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
    """The mean mIoU of each of the networks of which the better one was taken."""


class Hardware(Record):
    device: str
    name: str
    threads: PositiveInt


class Summary(FileRecord):
    """`summary.json`: what a finished training came to. It is written last."""

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
    """By domain, images of train with a labelled pixel."""
    unlabelled: dict[str, NonNegativeInt]
    """By domain, images of train that are not wholly labelled: those that are labelled in part are counted here too."""
    in_part: dict[str, NonNegativeInt] = {}
    """By domain, how many images are labelled in part, and so are in both counts."""
    seconds: NonNegativeFloat
    memory_mib: NonNegativeFloat | None
    hardware: Hardware
    versions: dict[str, str]
    weights: dict[str, Digest]
    """SHA-256 of each file of weights that the training wrote, by the file's name."""
    unseen: dict[str, list[str]] = {}
    """By domain the classes of which no labelled mask had a pixel."""
    round: NonNegativeInt | None = None
    """Of a campaign: the round that the network comes from."""

    @property
    def selected(self) -> Validation | None:
        """The validation of the weights that were kept."""
        return next((v for v in self.validation if v.step == self.selected_step), None)


class Entry(Record):
    """One round of a campaign: the labels that it trained on, in all, and the scores on validation."""

    round: NonNegativeInt
    cost: dict[str, NonNegativeFloat]
    """By domain, in the budget's unit."""
    pixels: dict[str, NonNegativeInt]
    """By domain, labelled pixels."""
    miou: dict[str, Fraction | None]
    """By domain; None where there is nothing to validate on."""
    seconds: NonNegativeFloat
    """Of its training."""
    look_seconds: NonNegativeFloat
    """Of the pass over the pool before it, added up over processes; 0 without one."""
    total_cost: NonNegativeFloat
    avg_miou: Fraction | None

    @classmethod
    def of(
        cls,
        number: int,
        cost: Mapping[str, float],
        pixels: Mapping[str, int],
        miou: Mapping[str, float | None],
        seconds: float,
        look_seconds: float,
    ) -> Entry:
        """The entry with its sums."""
        return cls(
            round=number,
            cost=dict(cost),
            pixels=dict(pixels),
            miou=dict(miou),
            seconds=seconds,
            look_seconds=look_seconds,
            total_cost=sum(cost.values()),
            avg_miou=mean(list(miou.values())),
        )


class Forecast(Record):
    """The learning curve a − b·n^(−c) through a campaign's rounds, and what follows from it.

    An interval is (low, median, high) at 80 %.
    """

    a: float
    b: float
    c: float
    labels: NonNegativeFloat
    """Labels in all after the last round."""
    unit: Unit
    pool: NonNegativeFloat | None
    """About how many labels there can be in all; None where that is not known."""
    limit: Interval
    """The mIoU that ever more labels lead to."""
    target: Fraction | None
    needed: tuple[float | None, float | None, float | None] | None
    """Labels beyond `labels` that the target needs; None where it is out of reach."""
    budget: NonNegativeFloat | None
    """Labels of the next round, where that is one number for all domains."""
    gain: Interval | None
    """The mIoU that the next round's labels add."""
    change: float | None
    """How the last round changed the mIoU, if its labels do not explain that."""
    flat: bool
    """The rounds show no effect of the labels; a, b and c describe nothing then."""


class Change(Record):
    """A setting of a campaign that changed between two rounds, or the classes of a domain."""

    round: PositiveInt
    """The first round that was trained with it, counted from 1."""
    time: str
    key: str
    before: Any
    now: Any


class Changes(FileRecord):
    """`changes.json`: all of them, in order."""

    fix: ClassVar[str] = "put it back from a copy of the run, or remove it and what it tells"

    changes: list[Change] = []


class CampaignSummary(FileRecord):
    """`campaign.json`: how far a campaign is."""

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
    """Of the settings, between rounds."""
    result: Summary | None


class Round(FileRecord):
    """`rounds/<n>.json`: what a round's training knew."""

    fix: ClassVar[str] = "put it back from a copy of the run, or begin a new run with another --out"

    up_to: NonNegativeInt
    """The last answer in the ledger that the training knew of."""
    answers: str | None = None
    """A hash of all answers up to that one; an earlier version did not write it down."""
    start: dict[str, tuple[NonNegativeInt, NonNegativeFloat]]
    """By domain, what was labelled before anything was asked: pixels, and their cost in the budget's unit."""


class Budget(FileRecord):
    """`pool/<n>/budget.json`: what a round might have asked for in all."""

    fix: ClassVar[str] = "put it back from a copy of the run, or begin a new run with another --out"

    amount: NonNegativeFloat


class Normalisation(Record):
    mean: list[float]
    std: list[float]
    range: tuple[int, int] = (0, 255)


class Description(FileRecord):
    """`model.json`: the network whose weights lie beside it."""

    domains: dict[str, dict[str, Any]]
    """By domain, its label space as plain data."""
    sizes: dict[str, Scale] = {}
    """By domain, what its images were brought to in training; as they are by default."""
    model: ModelSettings
    members: int = Field(1, ge=1, le=16, strict=True)
    """Networks in it whose logits are averaged."""
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

    @property
    def spaces(self) -> dict[str, LabelSpace]:
        return {name: LabelSpace.from_dict(space) for name, space in self.domains.items()}


class Heads(FileRecord):
    """`heads.json`: scores of domains that a run did not train, with a head of their own on its network."""

    fix: ClassVar[str] = "remove it and run the recipe again, which writes it again"

    domains: dict[str, NewHeadScores] = Field(min_length=1)
