"""The settings of the network and of its training."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
)

from fewmask.config.base import ConfigPath, Fraction, Precision, Settings, Size
from fewmask.config.views import AugmentSettings


class EmbeddingSettings(Settings):
    dim: PositiveInt = 128
    """Channels of the embedding E."""
    stride: Literal[4, 8, 16] = 8
    """Pixels per cell of E. A 1×1 convolution commutes with upsampling, so the entropies need no finer grid."""


class Full(Settings):
    name: Literal["full"] = "full"
    """The whole encoder is trained."""


class Frozen(Settings):
    """The encoder keeps its weights and stays in eval mode."""

    name: Literal["frozen"] = "frozen"
    """The encoder keeps its weights."""
    cached: bool = False
    """Whether the encoder's features of each whole image are computed once and kept on the disk in half precision. A
    crop is a window of them, and training runs the decoder and the heads alone."""


class LastBlocks(Settings):
    """The last blocks of a ViT and the LayerNorm after them are trained."""

    name: Literal["last-blocks"] = "last-blocks"
    """The last blocks of a ViT are trained."""
    blocks: PositiveInt = 4
    """How many of the last blocks are trained."""


class Lora(Settings):
    """Differences of low rank are trained in some linear layers of all blocks of a ViT (Hu et al., ICLR 2022)."""

    name: Literal["lora"] = "lora"
    """Differences of low rank are trained."""
    rank: PositiveInt = 8
    """The rank of the differences."""
    alpha: PositiveFloat = 16.0
    """The factor of the difference is alpha/rank."""
    targets: Annotated[tuple[str, ...], Field(min_length=1)] = ("qkv", "proj")
    """Names of the layers in timm: qkv and proj of the attention, fc1 and fc2 of the MLP."""


def _by_name(tuning: Any) -> Any:
    return {"name": tuning} if isinstance(tuning, str) else tuning


class NormSettings(Settings):
    """Batch normalisation in training. `batch` takes the statistics of the rows of a forward pass. `frozen` keeps the
    running statistics: those of the pretrained weights, or 0 and 1 with random weights. Its factors and offsets are
    still trained. The rows are then independent of each other. Prediction is the same for both."""

    encoder: Literal["batch", "frozen"] = "batch"
    """Which statistics the encoder's batch normalisation takes in training."""
    decoder: Literal["batch", "frozen", "group"] = "batch"
    """Which statistics the decoder's batch normalisation takes in training. `group` replaces it by group normalisation
    (Wu and He, ECCV 2018), whose statistics are those of each row."""


Tuning = Annotated[Annotated[Full | Frozen | LastBlocks | Lora, Field(discriminator="name")], BeforeValidator(_by_name)]


class ModelSettings(Settings):
    encoder: str = "tu-mobilenetv2_100"
    """The encoder by its name in smp, such as `resnet50`, or in timm with `tu-` before the name."""
    encoder_options: dict[str, Any] = {}
    """Further arguments of the encoder, as smp or timm names them."""
    weights: ConfigPath | Literal["imagenet"] | None = None
    """A file of the encoder's weights (safetensors, or a .pth that holds tensors alone), "imagenet" for the pretrained
    weights of timm or smp, or None for random weights."""
    tuning: Tuning = Full()
    """Which part of the encoder is trained; a name stands for its defaults."""
    norm: NormSettings = NormSettings()
    """How features are normalised in training."""
    decoder: str = "deeplabv3plus"
    """A decoder of smp, or for a ViT `dpt` or `linear`."""
    decoder_options: dict[str, Any] = {}
    """Further arguments of the decoder, as smp names them."""
    output_stride: Literal[8, 16, 32] = 16
    """The stride of the encoder's last features. A ViT's stride is the side of its patches; leave this key out then."""
    embedding: EmbeddingSettings = EmbeddingSettings()
    """The embedding E, which methods that align domains train."""


Beta = Annotated[float, Field(ge=0, lt=1)]
Betas = tuple[Beta, Beta]


class NetworkOptimiserSettings(Settings):
    """The optimiser of a network with one learning rate."""

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    """The optimiser."""
    lr: PositiveFloat = 5e-4
    """The learning rate. If there is a `head_lr`, this is the learning rate of the encoder alone."""
    weight_decay: float = Field(0.01, ge=0)
    """Weight decay; adamw's is decoupled from the gradient."""
    momentum: Fraction = 0.9
    """Momentum of sgd."""
    nesterov: bool = True
    """Whether the momentum of sgd is Nesterov's."""
    betas: Betas = (0.9, 0.999)
    """Betas of adamw and adam."""
    schedule: Literal["poly", "cosine", "constant"] = "poly"
    """How the learning rate changes over the steps."""
    power: PositiveFloat = 0.9
    """The exponent of the poly schedule."""
    warmup: Fraction = 0.0
    """Fraction of the steps over which the learning rate rises from 0."""
    clip_norm: PositiveFloat | None = None
    """The norm to which gradients are clipped; null does not clip."""


class AdamSettings(NetworkOptimiserSettings):
    """Adam with the settings of GANs: no weight decay and a low beta1 (Radford et al., DCGAN, ICLR 2016)."""

    name: Literal["adamw", "adam", "sgd"] = "adam"
    lr: PositiveFloat = 2e-4
    weight_decay: float = Field(0.0, ge=0)
    betas: Betas = (0.5, 0.999)


class HungAdamSettings(AdamSettings):
    """The optimiser of the discriminator of Hung et al. (BMVC 2018), with the paper's rate and the betas of its
    code."""

    lr: PositiveFloat = 1e-4
    betas: Betas = (0.9, 0.99)


class TranslatorSettings(Settings):
    """The networks that make images of one domain look like another's. CycleGAN (Zhu et al., ICCV 2017) has 64, 9,
    false, 70, 64 and 50 for the keys in their order."""

    channels: PositiveInt = 16
    """Channels of the translator's first layer."""
    blocks: NonNegativeInt = 3
    """Residual blocks between the encoding and the decoding layers."""
    relights: bool = True
    """Whether the translator predicts a gain and an offset for the image. CycleGAN's predicts the whole image, which
    takes far longer to become sharp."""
    patch: Literal[16, 34, 70] = 34
    """Side in pixels of the patch that a discriminator judges."""
    discriminator_channels: PositiveInt = 16
    """Channels of the discriminator's first layer."""
    history: NonNegativeInt = 50
    """Translations that are remembered for a discriminator."""


class OptimiserSettings(NetworkOptimiserSettings):
    head_lr: PositiveFloat = 2e-3
    """Learning rate of everything that is not the encoder."""


class ClassWeightSettings(Settings):
    """The weight of a labelled pixel in the cross-entropy by its class: w ∝ frequency^−exponent, at most `cap`, with a
    mean of 1 over the domain's labelled pixels."""

    exponent: Fraction = 0.0
    """0 weighs all classes equally. With .5 a class with a hundredth of the pixels has ten times the weight."""
    cap: float = Field(8.0, gt=1)
    """The largest weight that a class can have; the others are scaled so that the mean stays 1."""


class LossSettings(Settings):
    """The loss of labelled pixels, in every method. By default it is the cross-entropy."""

    gamma: NonNegativeFloat = 0.0
    """γ of the focal loss: pixels that the network predicts correctly count less. 2 is the usual value."""
    dice: NonNegativeFloat = 0.0
    """Weight of the soft Dice loss, which is added to the cross-entropy. It counts classes of few pixels as much as
    others. 1 is the usual value."""


class AverageSettings(Settings):
    """A moving average of the weights and of the statistics of batch normalisation, beside the network that trains."""

    lag: float = Field(0.0, ge=0, lt=1)
    """How many steps it lies behind, as a fraction of all steps: its momentum is 1 − 1/(lag · steps). With 0 there is
    no average."""
    answers: Literal["better", "average"] = "better"
    """Which network is selected and saved: the better one on validation, or the average. Without validation it is the
    average."""


AUTO = 0
"""The value of `steps: auto` until the number of steps is computed from the data."""


def _or_auto(value: Any) -> Any:
    if value == AUTO and isinstance(value, int) and not isinstance(value, bool):
        raise ValueError("input should be greater than 0, or auto")
    return AUTO if value == "auto" else value


Steps = Annotated[NonNegativeInt, BeforeValidator(_or_auto)]


class TrainSettings(Settings):
    steps: Steps = 2000
    """The number of steps, or `auto`: computed from the labelled pixels and the crop, see `fewmask.engine.automatic`.
    `fewmask check` prints the number, and the run's configuration holds it."""
    by_data: bool = False
    """Whether `steps: auto` decided the number of steps. fewmask writes this key into a run's configuration."""
    patience: PositiveInt | None = None
    """The number of validations in a row without an improvement after which the training ends. None: never, or 4 with
    `steps: auto`."""
    batch_size: PositiveInt = 8
    """Labelled images a step, over all domains and processes."""
    unlabelled_batch_size: PositiveInt | None = None
    """Unlabelled images a step for methods that use them; as many as labelled ones by default."""
    crop: Size = (256, 256)
    """Height and width of the random crops that are trained on, in pixels."""
    augment: AugmentSettings = AugmentSettings()
    """How crops are changed at random."""
    class_weights: ClassWeightSettings = ClassWeightSettings()
    """Whether rare classes count more."""
    loss: LossSettings = LossSettings()
    """Focal and Dice loss."""
    optimiser: OptimiserSettings = OptimiserSettings()
    """The optimiser and its schedule."""
    average: AverageSettings = AverageSettings()
    """A moving average of the network's weights."""
    accumulate: PositiveInt = 1
    """Micro-batches that a step's images are split into, to save memory; the gradient is their sum."""
    precision: Precision = "auto"
    """Precision of the forward pass; `auto` takes bf16 where the hardware supports it, fp32 elsewhere."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda, cuda:1 or mps."""
    workers: NonNegativeInt = 2
    """Processes that read and crop images beside the one that trains; 0 reads in that one."""
    cache: Literal["none", "memory"] = "none"
    """`memory` keeps decoded images and masks, at their `size`, in every process that reads. 1,000 images of 360×480
    take 700 MB in the training process and in each of its workers."""
    checkpoint_every: PositiveInt = 200
    """Steps after which the state is saved. A killed run is resumed from this state."""
    checkpoint_minutes: PositiveFloat | None = 5.0
    """Minutes after which the state is saved too, after any step."""
    evaluate_every: NonNegativeInt | None = None
    """Steps from one validation to the next; the best weights are kept. 0 validates at the end alone. By default there
    are ten validations, or fewer if ten would take more than a quarter as many images as the training."""
    score: Literal["test", "val"] = "test"
    """The split that is scored once, with the selected weights, at the end. It is val if a domain has no test split."""
    log_every: PositiveInt = 10
    """Steps from one line of `metrics.jsonl` to the next."""
    tensorboard: bool = False
    """Whether TensorBoard files are written beside `metrics.jsonl`; needs the extra `tensorboard`."""

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        return values | {"steps": "auto"} if values.get("steps") == AUTO else values

    # A validator of the field, since a model's validator does not run if any other key is wrong.
    @field_validator("accumulate")
    @classmethod
    def _divides(cls, parts: int, info: ValidationInfo) -> int:
        batches = {key: info.data.get(key) for key in ("batch_size", "unlabelled_batch_size")}
        indivisible = [f"{key} {rows}" for key, rows in batches.items() if rows is not None and rows % parts]
        if indivisible:
            raise ValueError(f"{' and '.join(indivisible)} cannot be divided by it; take a divisor")
        return parts

    def validation_interval(self, images: int) -> int:
        """Steps from one validation on `images` images to the next; 0 for a single validation at the end."""
        if self.evaluate_every is not None or not images:
            return self.evaluate_every or 0
        times = min(10, self.steps * self.batch_size // (4 * images))
        return -(-self.steps // times) if times > 1 else 0

    def check_division(self, processes: int) -> None:
        """Raises ValueError where a step's images cannot be divided over processes and micro-batches."""
        parts = processes * self.accumulate
        for key, rows in (("batch_size", self.batch_size), ("unlabelled_batch_size", self.unlabelled_batch_size)):
            if rows is not None and rows % parts:
                raise ValueError(
                    f"train.{key} {rows} does not divide over {processes} processes × {self.accumulate} accumulated "
                    f"micro-batches; take a multiple of {parts}"
                )
