"""The settings of every method. They need no network, so that a configuration is read without one."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
)

from fewmask.config.base import ConfigPath, Fraction, MethodSettings, Settings
from fewmask.config.self_labelling import (
    FixMatchSettings,
    MeanTeacherSettings,
    PseudoLabelSettings,
    S4alSettings,
    SelfLabellingSettings,
    UniMatchSettings,
)
from fewmask.config.training import AdamSettings, HungAdamSettings, TranslatorSettings
from fewmask.config.views import NoiseSettings, StrongSettings


class AutoSettings(MethodSettings):
    """Stands for a method that `config.choices` names when the data is known."""

    name: Literal["auto"] = "auto"


class SupervisedSettings(MethodSettings):
    name: Literal["supervised"] = "supervised"
    domain: str | None = None
    """The domain to train on; may be left out where there is one."""


class JointSettings(MethodSettings):
    name: Literal["joint"] = "joint"


class FineTuneSettings(MethodSettings):
    name: Literal["fine-tune"] = "fine-tune"
    order: tuple[str, ...] = ()
    """Domains in the order of training; the order of the configuration by default. Steps are shared out evenly."""


class EntropyMinSettings(MethodSettings):
    name: Literal["entropy-min"] = "entropy-min"
    pool_cost: ClassVar[float] = 1.0
    weight: NonNegativeFloat = 0.1
    """Weight of the entropy of unlabelled pixels in the loss."""


class ContrastSettings(Settings):
    weight: NonNegativeFloat = 1.0
    """0: no representation head, no term."""
    queries: PositiveInt = 128
    """A class and step."""
    negatives: PositiveInt = 256
    """Pixels of other classes, in each set, that the queries are told apart from."""
    sets: PositiveInt = 8
    """Draws of negatives that the queries of a class share; as many as queries is ReCo's own."""
    hard: Fraction = 0.95
    """δ_s: queries are pixels whose class the network gives less than this."""
    sure: Fraction = 0.7
    """δ_w: pseudo-labels less sure than this take no part."""
    temperature: PositiveFloat = 0.5
    """What the similarities are divided by before the softmax."""
    dim: PositiveInt = 256
    """Channels of the representation."""
    kernel: Literal[1, 3] = 3
    """Side of the convolutions of the representation head."""
    stride: Literal[4, 8] = 4
    """Pixels a cell; coarser than F's features they are averaged first."""

    @field_validator("sets")
    @classmethod
    def _divides(cls, sets: int, info: ValidationInfo) -> int:
        queries = info.data.get("queries", sets)
        if queries % sets:
            raise ValueError(f"queries {queries} cannot be divided by it; take a divisor")
        return sets


class S4alPlusSettings(MethodSettings):
    name: Literal["s4al-plus"] = "s4al-plus"
    pool_cost: ClassVar[float] = 1.3
    self_training: ClassVar[bool] = True
    confidence: Fraction = 0.7
    """Pseudo-labels less sure than this are none."""
    weigh: bool = False
    """Whether a pseudo-label counts as much as it is sure, instead of as much as a person's."""
    gamma: NonNegativeFloat = 0.0
    """Of the focal loss: lowers what pixels count that are right already, which those of rare classes seldom are."""
    epsilon: float = Field(0.0, ge=-1)
    """Of PolyLoss (Poly-1)."""
    noise: NoiseSettings = NoiseSettings()
    """What the student sees of the pool."""
    contrast: ContrastSettings = ContrastSettings()
    """The regional contrast."""


class DealSettings(MethodSettings):
    name: Literal["deal"] = "deal"
    weight: NonNegativeFloat = 1.0
    """Weight of the loss of the error branch."""
    reach: Literal["features", "branch"] = "features"
    """How far the branch's gradient goes: into F, as published, or no further than the branch itself, so that the
    network is that of joint training."""
    channels: PositiveInt = 64
    """Channels of the error branch."""
    kernel: Literal[1, 3] = 3
    """Side of the error branch's convolutions."""


class DistillSettings(MethodSettings):
    name: Literal["distill"] = "distill"
    pool_cost: ClassVar[float] = 1.0
    teachers: Annotated[tuple[ConfigPath, ...], Field(min_length=1)]
    """Folders of finished runs, of rounds of a campaign, say: the mean of their probabilities is taught. Each domain
    needs a teacher that knows it."""
    alpha: Fraction = 0.9
    """Weight of the soft labels; 1 − α is that of the hard ones. Hinton et al.: the soft ones considerably more."""
    temperature: PositiveFloat = 2.0
    """T. Hinton et al. have 1 to 20, lower ones for small students."""


class Hung2018Settings(SelfLabellingSettings):
    name: Literal["hung2018"] = "hung2018"
    pool_cost: ClassVar[float] = 1.35
    adversarial: NonNegativeFloat = 0.01
    """λ_adv of labelled pixels."""
    semi_adversarial: NonNegativeFloat = 0.001
    """λ_adv of the pool's."""
    semi: NonNegativeFloat = 0.1
    """λ_semi."""
    threshold: Fraction = 0.2
    """T_semi: of the pool's pixels those are believed that the discriminator gives more than this."""
    warmup: Fraction = 0.25
    """Part of the steps without the pool."""
    whole: bool = True
    """After the warm-up labelled rows show wholly labelled images, where there are any; images with a few answered
    regions then stand in the pool alone, with their answers. The source knows no such images."""
    channels: PositiveInt = 64
    """Of the discriminator's first layer."""
    optimiser: HungAdamSettings = HungAdamSettings()
    """The discriminator's optimiser."""


class Souly2017Settings(MethodSettings):
    name: Literal["souly2017"] = "souly2017"
    pool_cost: ClassVar[float] = 2.4
    supervised: NonNegativeFloat = 1.0
    """γ."""
    real: NonNegativeFloat = 1.0
    """Of L_real; the source adds the terms."""
    fake: NonNegativeFloat = 1.0
    """Of L_fake; the source adds the terms. 0: no generator."""
    generator_loss: Literal["minimax", "non-saturating"] = "minimax"
    """The generator's loss: the published one, or the usual one with stronger gradients."""
    weak: dict[str, ConfigPath] = {}
    """By domain, a YAML file of image-level labels: `image: [class, …]`. Images that are not in it may show any."""
    whole: bool = True
    """Labelled rows show wholly labelled images, where there are any; images with a few answered regions then stand in
    the pool alone, with their answers. The source knows no such images."""
    noise: PositiveInt = 100
    """Length of the noise vector that the generator starts from."""
    side: Literal[8, 16, 32, 64, 128] = 64
    """Pixels a side of what the generator makes; it is then brought to the size of the crops."""
    channels: PositiveInt = 64
    """Of the generator's last layer but one."""
    optimiser: AdamSettings = AdamSettings()
    """The generator's optimiser."""


class CoTrainingSettings(SelfLabellingSettings):
    name: Literal["co-training"] = "co-training"
    pool_cost: ClassVar[float] = 3.6
    begin: Fraction = 0.0
    """Part of the steps that sees labels alone, before the pool has a term. The source begins at once."""
    weight: NonNegativeFloat = 1.5
    """λ: the paper's on VOC; on Cityscapes it has 6."""
    cutmix: Fraction = 1.0
    """Probability of a box in a row of the pool; 0 is the paper's method without CutMix, for which the networks see
    the pool once instead of twice. The source takes the box from another batch of the pool."""
    whole: bool = True
    """Labelled rows show wholly labelled images, where there are any; images with a few answered regions then stand in
    the pool alone. The source knows no such images."""
    answers: Literal["first", "mean"] = "first"
    """Who is validated, selected and saved as the run's model: the first network, as in the source, with the second
    one beside it; or both, with the mean of their logits, at twice the cost."""


class CycadaSettings(MethodSettings):
    name: Literal["cycada"] = "cycada"
    pool_cost: ClassVar[float] = 3.8
    target: str | None = None
    """The domain to adapt to; all others are sources. May be left out where one domain alone has no label."""
    classes: dict[str, dict[str, str | None]] = {}
    """By source: which of the target's classes its classes are, null for none; those of equal name need no entry."""
    pretrain: Fraction = 0.25
    """Part of the steps that train f_S."""
    translate: Fraction = 0.4
    """Part of the steps that train the translators, which come next. 0: images stay as they are."""
    adversarial: NonNegativeFloat = 1.0
    """λ_gan."""
    cycle: NonNegativeFloat = 10.0
    """Weight of the loss between an image and its translation there and back."""
    identity: NonNegativeFloat = 5.0
    """Weight of the loss between an image and what the translator into its own domain makes of it."""
    semantic: NonNegativeFloat = 1.0
    """Weight of the loss between what f_S says of an image and of its translation."""
    features: NonNegativeFloat = 0.1
    """λ_feat. 0: no discriminator of features."""
    channels: PositiveInt = 128
    """Of the hidden layers of D_f."""
    translator: TranslatorSettings = TranslatorSettings()
    """The networks that translate images."""
    optimiser: AdamSettings = AdamSettings()
    """Of the translators and of all discriminators."""

    @field_validator("translate")
    @classmethod
    def _leaves_steps(cls, translate: float, info: ValidationInfo) -> float:
        pretrain = info.data.get("pretrain", 0.0)
        if pretrain + translate >= 1:
            raise ValueError(f"beside pretrain {pretrain} it leaves no step to adapt in; their sum must be less than 1")
        return translate

    @field_validator("semantic")
    @classmethod
    def _has_learnt(cls, semantic: float, info: ValidationInfo) -> float:
        if semantic and info.data.get("translate") and not info.data.get("pretrain", 1.0):
            raise ValueError("with pretrain 0 there is no f_S to be consistent with; set it to 0 too")
        return semantic


class MmdSettings(MethodSettings):
    name: Literal["mmd"] = "mmd"
    pool_cost: ClassVar[float] = 1.0
    weight: NonNegativeFloat = 0.1
    """Weight of the MMD in the loss."""
    where: Literal["features", "embedding"] = "features"
    """What is aligned: what the heads read, or E of it."""
    estimator: Literal["linear", "quadratic"] = "linear"
    """The estimator of the MMD: of linear cost in the cells, or of quadratic cost and less variance."""
    cells: int = Field(512, ge=2)
    """Drawn of each domain in a micro-batch."""
    multiples: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (0.25, 0.5, 1.0, 2.0, 4.0)
    """Of the median squared distance: the widths of the kernels."""


class AdversarialAlignSettings(MethodSettings):
    name: Literal["adversarial-align"] = "adversarial-align"
    pool_cost: ClassVar[float] = 1.2
    weight: NonNegativeFloat = 0.1
    """λ at the end of the steps."""
    gamma: PositiveFloat = 10.0
    """How soon λ gets there."""
    channels: PositiveInt = 128
    """Of the classifiers' two hidden layers."""


class UnivSettings(MethodSettings):
    alpha: NonNegativeFloat = 0.02
    """α, the weight of L_cross."""
    mode: Literal["anchored", "faithful"] = "anchored"
    """The loss with what it turned out to lack (decision 3), or as published."""
    pretrain: Fraction = 0.25
    """Part of the steps that sees labels alone: faithful prototypes come from the end of it, live ones settle in it."""
    initial_embedding: Literal["random", "pca"] = "random"
    """faithful: where E starts once the prototypes are fixed; "pca" is the projection that made them."""
    absent: Literal["refused", "left-out"] = "refused"
    """faithful: classes of which no pixel is labelled. Live prototypes leave them out until one is."""
    forward: Literal["separate", "joint"] = "separate"
    """Labelled rows and rows of the pool in a forward of F each, or all in one with common statistics of batch
    normalisation."""
    anchor: NonNegativeFloat = 0.1
    """anchored: weight of the cross-entropy of labelled cells to their own domain's prototypes."""
    anchor_trains: Literal["embedding", "encoder"] = "embedding"
    """anchored: E alone, or F with it."""
    temperature: PositiveFloat = 0.1
    """What the similarities to prototypes are divided by before the softmax."""
    prototypes: PositiveInt = 3
    """Prototypes of each class."""
    momentum: Fraction = 0.99
    """How slowly live prototypes move; 1 would keep them where they are."""
    drawn: PositiveInt = 64
    """anchored: labelled cells of each class that move its prototypes in a step."""
    private: Literal["unknown", "gate", "none"] = "unknown"
    """anchored: the answer to classes that the other domain lacks."""


class UnivCrossSettings(UnivSettings):
    name: Literal["univ-cross"] = "univ-cross"
    pool_cost: ClassVar[float] = 0.75


class UnivFullSettings(UnivSettings):
    name: Literal["univ-full"] = "univ-full"
    pool_cost: ClassVar[float] = 0.75
    beta: NonNegativeFloat = 0.02
    """β, the weight of L_within."""


class UnivTeacherSettings(MeanTeacherSettings):
    name: Literal["univ-teacher"] = "univ-teacher"
    pool_cost: ClassVar[float] = 1.0
    ema: Fraction | Literal["auto"] = "auto"
    """Momentum of the teacher, which this method cannot do without."""
    within: NonNegativeFloat = 1.0
    """Weight of L_within."""
    across: NonNegativeFloat = 0.5
    """Weight of L_across."""
    pretrain: Fraction = 0.25
    """Part of the steps that sees labels alone: teacher and prototypes settle in it."""
    threshold: Fraction = 0.8
    """Cells of which the teacher is less sure take no part; answered ones always do."""
    forward: Literal["separate", "joint"] = "separate"
    """Labelled rows and strong views in a forward of F each, or all in one with common statistics of batch
    normalisation."""
    anchor: NonNegativeFloat = 0.1
    """Weight of the cross-entropy of labelled cells to their own domain's prototypes, which trains E alone."""
    temperature: PositiveFloat = 0.1
    """What the similarities to prototypes are divided by before the softmax."""
    prototypes: PositiveInt = 3
    """A class."""
    momentum: Fraction = 0.99
    """Of the prototypes."""
    drawn: PositiveInt = 64
    """Labelled cells of each class that move its prototypes in a step."""
    view: StrongSettings = StrongSettings(blur=0, brightness=0.25, contrast=0.25, saturation=0.25, hue=0, grey=0)
    """Of the pool's images, as the student sees them."""


EVERY: tuple[type[MethodSettings], ...] = (
    SupervisedSettings,
    JointSettings,
    FineTuneSettings,
    EntropyMinSettings,
    PseudoLabelSettings,
    FixMatchSettings,
    UniMatchSettings,
    S4alSettings,
    S4alPlusSettings,
    DealSettings,
    DistillSettings,
    Hung2018Settings,
    Souly2017Settings,
    CoTrainingSettings,
    CycadaSettings,
    MmdSettings,
    AdversarialAlignSettings,
    UnivCrossSettings,
    UnivFullSettings,
    UnivTeacherSettings,
)
