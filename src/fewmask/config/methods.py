"""The settings of every method. They do not depend on the networks, so that a configuration is read without torch."""

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
    """A placeholder for the method that `config.choices` names when the data is known."""

    name: Literal["auto"] = "auto"


class SupervisedSettings(MethodSettings):
    name: Literal["supervised"] = "supervised"
    domain: str | None = None
    """The domain to train on. It may be left out if there is only one."""


class JointSettings(MethodSettings):
    name: Literal["joint"] = "joint"


class FineTuneSettings(MethodSettings):
    name: Literal["fine-tune"] = "fine-tune"
    order: tuple[str, ...] = ()
    """Domains in the order of training; the order of the configuration by default. Each has the same number of
    steps."""


class EntropyMinSettings(MethodSettings):
    name: Literal["entropy-min"] = "entropy-min"
    pool_cost: ClassVar[float] = 1.0
    weight: NonNegativeFloat = 0.1
    """Weight of the entropy of unlabelled pixels in the loss."""


class ContrastSettings(Settings):
    weight: NonNegativeFloat = 1.0
    """Weight of the regional contrast in the loss. With 0 there is no representation head."""
    queries: PositiveInt = 128
    """Queries of each class in a step."""
    negatives: PositiveInt = 256
    """Negatives of each set: pixels of other classes."""
    sets: PositiveInt = 8
    """Sets of negatives that the queries of a class share. ReCo has a set for each query."""
    hard: Fraction = 0.95
    """δ_s: queries are pixels whose class has a lower probability than this."""
    sure: Fraction = 0.7
    """δ_w: pseudo-labels with a lower confidence are left out."""
    temperature: PositiveFloat = 0.5
    """Divisor of the similarities before the softmax."""
    dim: PositiveInt = 256
    """Channels of the representation."""
    kernel: Literal[1, 3] = 3
    """Side of the convolutions of the representation head."""
    stride: Literal[4, 8] = 4
    """Pixels of a cell's side. If it is coarser than F's features, they are averaged first."""

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
    """Pseudo-labels with a lower confidence are left out."""
    weigh: bool = False
    """Whether a pseudo-label is weighted by its confidence, instead of counting as much as a person's label."""
    gamma: NonNegativeFloat = 0.0
    """γ of the focal loss. It lowers the weight of pixels that the network predicts correctly. With 0 it is
    `train.loss.gamma`."""
    epsilon: float = Field(0.0, ge=-1)
    """ε of PolyLoss (Poly-1)."""
    noise: NoiseSettings = NoiseSettings()
    """The noise on the student's images of the pool."""
    contrast: ContrastSettings = ContrastSettings()
    """The regional contrast."""


class DealSettings(MethodSettings):
    name: Literal["deal"] = "deal"
    weight: NonNegativeFloat = 1.0
    """Weight of the loss of the error branch."""
    reach: Literal["features", "branch"] = "features"
    """Where the branch's gradient ends: in F, as published, or in the branch, so that the network is that of joint
    training."""
    channels: PositiveInt = 64
    """Channels of the error branch."""
    kernel: Literal[1, 3] = 3
    """Side of the error branch's convolutions."""


class DistillSettings(MethodSettings):
    name: Literal["distill"] = "distill"
    pool_cost: ClassVar[float] = 1.0
    teachers: Annotated[tuple[ConfigPath, ...], Field(min_length=1)]
    """Folders of finished runs, for example of a campaign's rounds. The soft labels are the mean of their
    probabilities. Each domain needs a teacher that was trained on it."""
    alpha: Fraction = 0.9
    """α, the weight of the soft labels. The weight of the hard labels is 1 − α, which Hinton et al. make much lower."""
    temperature: PositiveFloat = 2.0
    """The temperature T. Hinton et al. use 1 to 20, and lower values for small students."""


class Hung2018Settings(SelfLabellingSettings):
    name: Literal["hung2018"] = "hung2018"
    pool_cost: ClassVar[float] = 1.35
    adversarial: NonNegativeFloat = 0.01
    """λ_adv, the weight of the adversarial term of labelled pixels."""
    semi_adversarial: NonNegativeFloat = 0.001
    """λ_advu, the weight of the adversarial term of the pool's pixels."""
    semi: NonNegativeFloat = 0.1
    """λ_semi, the weight of the self-training term."""
    threshold: Fraction = 0.2
    """T_semi: the network's labels are used where the discriminator's output is above it."""
    warmup: Fraction = 0.25
    """Fraction of the steps without the pool."""
    whole: bool = True
    """After the warm-up labelled rows are wholly labelled images, where there are any. Images with a few answered
    regions are then drawn from the pool alone, with their answers. The paper has no such images."""
    channels: PositiveInt = 64
    """Channels of the discriminator's first layer."""
    optimiser: HungAdamSettings = HungAdamSettings()
    """The discriminator's optimiser."""


class Souly2017Settings(MethodSettings):
    name: Literal["souly2017"] = "souly2017"
    pool_cost: ClassVar[float] = 2.4
    supervised: NonNegativeFloat = 1.0
    """γ, the weight of L_ce."""
    real: NonNegativeFloat = 1.0
    """Weight of L_real. The paper adds the terms without weights."""
    fake: NonNegativeFloat = 1.0
    """Weight of L_fake. The paper adds the terms without weights. With 0 there is no generator."""
    generator_loss: Literal["minimax", "non-saturating"] = "minimax"
    """The generator's loss: the published one, or the usual one with stronger gradients."""
    weak: dict[str, ConfigPath] = {}
    """By domain, a YAML file of image-level labels: `image: [class, …]`. Images that are not in it may show any
    class."""
    whole: bool = True
    """Labelled rows are wholly labelled images, where there are any. Images with a few answered regions are then drawn
    from the pool alone, with their answers. The paper has no such images."""
    noise: PositiveInt = 100
    """Length of the noise vector that the generator starts from."""
    side: Literal[8, 16, 32, 64, 128] = 64
    """Side in pixels of the generator's images, which are then resized to the crops."""
    channels: PositiveInt = 64
    """Channels of the generator's second to last layer."""
    optimiser: AdamSettings = AdamSettings()
    """The generator's optimiser."""


class CoTrainingSettings(SelfLabellingSettings):
    name: Literal["co-training"] = "co-training"
    pool_cost: ClassVar[float] = 3.6
    begin: Fraction = 0.0
    """Fraction of the steps that use labels alone, before the pool's term begins. The paper begins at once."""
    weight: NonNegativeFloat = 1.5
    """λ, the weight of L_cps. The paper has 1.5 on VOC and 6 on Cityscapes."""
    cutmix: Fraction = 1.0
    """Probability of a box in a row of the pool. 0 is the paper's method without CutMix, which has one forward pass of
    the pool instead of two. The paper takes the box from another batch of the pool."""
    whole: bool = True
    """Labelled rows are wholly labelled images, where there are any. Images with a few answered regions are then drawn
    from the pool alone. The paper has no such images."""
    answers: Literal["first", "mean"] = "first"
    """The run's model, which is validated, selected and saved: the first network, as in the paper, with the second one
    saved beside it; or both, with the mean of their logits, at twice the cost."""


class CycadaSettings(MethodSettings):
    name: Literal["cycada"] = "cycada"
    pool_cost: ClassVar[float] = 3.8
    target: str | None = None
    """The domain to adapt to; all others are sources. It may be left out if only one domain has no label."""
    classes: dict[str, dict[str, str | None]] = {}
    """By source: the target's class for each of its classes, null for none. Classes of equal name need no entry."""
    pretrain: Fraction = 0.25
    """Fraction of the steps that train f_S."""
    translate: Fraction = 0.4
    """Fraction of the steps that train the translators, after f_S. With 0 images are not translated."""
    adversarial: NonNegativeFloat = 1.0
    """λ_gan, the weight of L_gan."""
    cycle: NonNegativeFloat = 10.0
    """Weight of the loss between an image and its translation there and back."""
    identity: NonNegativeFloat = 5.0
    """Weight of the loss between an image and its translation into its own domain."""
    semantic: NonNegativeFloat = 1.0
    """Weight of the loss between the predictions of f_S for an image and for its translation."""
    features: NonNegativeFloat = 0.1
    """λ_feat, the weight of L_feat. With 0 there is no discriminator of features."""
    channels: PositiveInt = 128
    """Channels of the hidden layers of D_f."""
    translator: TranslatorSettings = TranslatorSettings()
    """The networks that translate images."""
    optimiser: AdamSettings = AdamSettings()
    """The optimiser of the translators and of all discriminators."""

    @field_validator("translate")
    @classmethod
    def _leaves_steps(cls, translate: float, info: ValidationInfo) -> float:
        pretrain = info.data.get("pretrain", 0.0)
        if pretrain + translate >= 1:
            raise ValueError(f"with pretrain {pretrain} no step is left to adapt in; their sum must be less than 1")
        return translate

    @field_validator("semantic")
    @classmethod
    def _has_learnt(cls, semantic: float, info: ValidationInfo) -> float:
        if semantic and info.data.get("translate") and not info.data.get("pretrain", 1.0):
            raise ValueError("with pretrain 0 there is no f_S for the semantic term; set semantic to 0 too")
        return semantic


class MmdSettings(MethodSettings):
    name: Literal["mmd"] = "mmd"
    pool_cost: ClassVar[float] = 1.0
    weight: NonNegativeFloat = 0.1
    """Weight of the MMD in the loss."""
    where: Literal["features", "embedding"] = "features"
    """The space that is aligned: F's features, or the embedding E."""
    estimator: Literal["linear", "quadratic"] = "linear"
    """The estimator of the MMD: of linear cost in the cells, or of quadratic cost and less variance."""
    cells: int = Field(512, ge=2)
    """Cells that are drawn of each domain in a micro-batch."""
    multiples: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (0.25, 0.5, 1.0, 2.0, 4.0)
    """The widths of the kernels, as multiples of the median squared distance."""


class AdversarialAlignSettings(MethodSettings):
    name: Literal["adversarial-align"] = "adversarial-align"
    pool_cost: ClassVar[float] = 1.2
    weight: NonNegativeFloat = 0.1
    """λ at the end of the steps."""
    gamma: PositiveFloat = 10.0
    """γ, how fast λ rises to its final value."""
    channels: PositiveInt = 128
    """Channels of the classifiers' two hidden layers."""


class UnivSettings(MethodSettings):
    alpha: NonNegativeFloat = 0.02
    """α, the weight of L_cross."""
    mode: Literal["anchored", "faithful"] = "anchored"
    """The loss with live prototypes and an anchor (decision 3), or as published."""
    pretrain: Fraction = 0.25
    """Fraction of the steps that use labels alone. Faithful prototypes are computed at its end, live ones settle in
    it."""
    initial_embedding: Literal["random", "pca"] = "random"
    """faithful: where E starts once the prototypes are fixed. "pca" is the projection that made them."""
    absent: Literal["refused", "left-out"] = "refused"
    """faithful: how classes without a labelled pixel are treated. Live prototypes leave them out until one is
    labelled."""
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
    """Momentum of the teacher, which this method requires."""
    within: NonNegativeFloat = 1.0
    """Weight of L_within."""
    across: NonNegativeFloat = 0.5
    """Weight of L_across."""
    pretrain: Fraction = 0.25
    """Fraction of the steps that use labels alone, in which teacher and prototypes settle."""
    threshold: Fraction = 0.8
    """Cells with a lower confidence of the teacher are left out, unless they are answered."""
    forward: Literal["separate", "joint"] = "separate"
    """Labelled rows and strong views in a forward of F each, or all in one with common statistics of batch
    normalisation."""
    anchor: NonNegativeFloat = 0.1
    """Weight of the cross-entropy of labelled cells to their own domain's prototypes, which trains E alone."""
    temperature: PositiveFloat = 0.1
    """What the similarities to prototypes are divided by before the softmax."""
    prototypes: PositiveInt = 3
    """Prototypes of each class."""
    momentum: Fraction = 0.99
    """Momentum of the prototypes."""
    drawn: PositiveInt = 64
    """Labelled cells of each class that move its prototypes in a step."""
    view: StrongSettings = StrongSettings(blur=0, brightness=0.25, contrast=0.25, saturation=0.25, hue=0, grey=0)
    """The strong view of the pool's images, which is the student's input."""


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
