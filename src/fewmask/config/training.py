"""The network and its training."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
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
    """The encoder stays as it came, in eval mode."""

    name: Literal["frozen"] = "frozen"
    """The encoder stays as it came."""


class LastBlocks(Settings):
    """Of a ViT, the last blocks and the LayerNorm after them."""

    name: Literal["last-blocks"] = "last-blocks"
    """The last blocks of a ViT are trained."""
    blocks: PositiveInt = 4
    """How many of the last blocks are trained."""


class Lora(Settings):
    """Of a ViT, a difference of low rank in each of some linear layers of all blocks (Hu et al., ICLR 2022)."""

    name: Literal["lora"] = "lora"
    """Differences of low rank are trained."""
    rank: PositiveInt = 8
    """The rank of the differences."""
    alpha: PositiveFloat = 16.0
    """The difference counts alpha/rank."""
    targets: Annotated[tuple[str, ...], Field(min_length=1)] = ("qkv", "proj")
    """Names of the layers in timm: qkv and proj of the attention, fc1 and fc2 of the MLP."""


def _by_name(tuning: Any) -> Any:
    return {"name": tuning} if isinstance(tuning, str) else tuning


class NormSettings(Settings):
    """Batch normalisation in training. `batch` takes the statistics of the rows of a forward pass. `frozen` keeps the
    running statistics: those of the pretrained weights, or 0 and 1 of random ones; its factors and offsets still train.
    Rows then do not see each other. Prediction is the same for both."""

    encoder: Literal["batch", "frozen"] = "batch"
    """Which statistics the encoder's batch normalisation takes in training."""
    decoder: Literal["batch", "frozen", "group"] = "batch"
    """`group` replaces it by group normalisation (Wu and He, ECCV 2018), whose statistics are each row's own."""


Tuning = Annotated[Annotated[Full | Frozen | LastBlocks | Lora, Field(discriminator="name")], BeforeValidator(_by_name)]


class ModelSettings(Settings):
    encoder: str = "tu-mobilenetv2_100"
    """The encoder by its name in smp, such as `resnet50`; `tu-` and a name is one of timm's."""
    encoder_options: dict[str, Any] = {}
    """Further arguments of the encoder, as smp or timm names them."""
    weights: ConfigPath | Literal["imagenet"] | None = None
    """A file of the encoder (safetensors, or a .pth that holds tensors alone), "imagenet" for timm's or smp's own
    weights by name, whatever they were trained on, None for random ones."""
    tuning: Tuning = Full()
    """Which part of the encoder is trained; a name stands for its defaults."""
    norm: NormSettings = NormSettings()
    """How features are normalised in training."""
    decoder: str = "deeplabv3plus"
    """A decoder of smp, or for a ViT `dpt` or `linear`."""
    decoder_options: dict[str, Any] = {}
    """Further arguments of the decoder, as smp names them."""
    output_stride: Literal[8, 16, 32] = 16
    """Of a ViT it is the side of its patches, and this stays at its default."""
    embedding: EmbeddingSettings = EmbeddingSettings()
    """The embedding E, which methods that align domains train."""


Beta = Annotated[float, Field(ge=0, lt=1)]
Betas = tuple[Beta, Beta]


class NetworkOptimiserSettings(Settings):
    """Of a network that learns at one rate."""

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    """The optimiser."""
    lr: PositiveFloat = 5e-4
    """The learning rate; with `head_lr` beside it, that of the encoder alone."""
    weight_decay: float = Field(0.01, ge=0)
    """Weight decay; adamw's is decoupled from the gradient."""
    momentum: Fraction = 0.9
    """Of sgd."""
    nesterov: bool = True
    """Whether the momentum of sgd is Nesterov's."""
    betas: Betas = (0.9, 0.999)
    """Of adamw and adam."""
    schedule: Literal["poly", "cosine", "constant"] = "poly"
    """How the learning rate changes over the steps."""
    power: PositiveFloat = 0.9
    """The exponent of the poly schedule."""
    warmup: Fraction = 0.0
    """Part of the steps over which the learning rate rises from 0."""
    clip_norm: PositiveFloat | None = None
    """The norm that gradients are clipped to; null does not clip."""


class AdamSettings(NetworkOptimiserSettings):
    """Adam as GANs train with it: no weight decay, a short memory (Radford et al., DCGAN, ICLR 2016)."""

    name: Literal["adamw", "adam", "sgd"] = "adam"
    lr: PositiveFloat = 2e-4
    weight_decay: float = Field(0.0, ge=0)
    betas: Betas = (0.5, 0.999)


class HungAdamSettings(AdamSettings):
    """Of the discriminator of Hung et al. (BMVC 2018): the rate is the paper's, the betas are its code's."""

    lr: PositiveFloat = 1e-4
    betas: Betas = (0.9, 0.99)


class TranslatorSettings(Settings):
    """Of the networks that make images of one domain look like another's; CycleGAN (Zhu et al., ICCV 2017) has 64, 9,
    false, 70, 64 and 50."""

    channels: PositiveInt = 16
    """Of the first layer."""
    blocks: NonNegativeInt = 3
    """Residual blocks between the encoding and the decoding layers."""
    relights: bool = True
    """Whether it makes a gain and an offset for the image; CycleGAN's makes the whole image, which takes far longer to
    become sharp."""
    patch: Literal[16, 34, 70] = 34
    """Pixels a side of what a discriminator judges at a time."""
    discriminator_channels: PositiveInt = 16
    """Of its first layer."""
    history: NonNegativeInt = 50
    """Translations that are remembered for a discriminator."""


class OptimiserSettings(NetworkOptimiserSettings):
    head_lr: PositiveFloat = 2e-3
    """Learning rate of everything that is not the encoder."""


class ClassWeightSettings(Settings):
    """Of a labelled pixel in the cross-entropy, by its class: w ∝ frequency^−exponent, at most `cap`, with a mean of 1
    over the domain's labelled pixels."""

    exponent: Fraction = 0.0
    """0 weighs all classes alike. With .5 a class of a hundredth as many pixels has ten times the weight."""
    cap: float = Field(8.0, gt=1)
    """The largest weight that a class can have; the others are scaled so that the mean stays 1."""


class AverageSettings(Settings):
    """A moving average of the weights and of the statistics of batch normalisation, beside the network that trains."""

    lag: float = Field(0.0, ge=0, lt=1)
    """How many steps it lies behind, as a part of all: its momentum is 1 − 1/(lag · steps). 0: there is none."""
    answers: Literal["better", "average"] = "better"
    """Which network is selected and saved: the better one on validation, the average where there is none; or always the
    average."""


AUTO = 0
"""What `steps: auto` is until the data has said how many they are."""


def _or_auto(value: Any) -> Any:
    if value == AUTO and isinstance(value, int) and not isinstance(value, bool):
        raise ValueError("input should be greater than 0, or auto")
    return AUTO if value == "auto" else value


Steps = Annotated[NonNegativeInt, BeforeValidator(_or_auto)]


class TrainSettings(Settings):
    steps: Steps = 2000
    """A number, or `auto`: by the labelled pixels and the crop, see `fewmask.engine.automatic`; `fewmask check` prints
    it, and the run's configuration holds it."""
    by_data: bool = False
    """Whether `steps: auto` decided the number of steps. fewmask writes it into a run's configuration: trainings of one
    method have as many steps as their labels need."""
    patience: PositiveInt | None = None
    """So many validations in a row without a better one end the training; None: none do, but 4 with `steps: auto`."""
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
    optimiser: OptimiserSettings = OptimiserSettings()
    """The optimiser and its schedule."""
    average: AverageSettings = AverageSettings()
    """A moving average of the network's weights."""
    accumulate: PositiveInt = 1
    """Micro-batches that a step's images are split into, to save memory; the gradient is their sum."""
    precision: Precision = "auto"
    """Numbers of the forward pass; `auto` takes bf16 where the hardware computes in it, fp32 elsewhere."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda, cuda:1 or mps."""
    workers: NonNegativeInt = 2
    """Processes that read and crop images beside the one that trains; 0 reads in that one."""
    cache: Literal["none", "memory"] = "none"
    """`memory` keeps images and masks as they were read, at their `size`, in every process that reads: no step decodes
    again. 1,000 images of 360×480 are 700 MB for the training and for each of its workers."""
    checkpoint_every: PositiveInt = 200
    """Steps after which the state is saved, from which a killed run goes on."""
    checkpoint_minutes: PositiveFloat | None = 5.0
    """So is it, after any step, where the last save is so long ago."""
    evaluate_every: NonNegativeInt | None = None
    """Validate every so many steps, and at the end, and keep the best weights; 0 validates at the end alone. By default
    ten times, or so often that a quarter as many images are validated on as are trained on, where that is seldomer."""
    score: Literal["test", "val"] = "test"
    """The split that is scored once, with the selected weights, at the end; val where a domain has no test split."""
    log_every: PositiveInt = 10
    """Steps from one line of `metrics.jsonl` to the next."""
    tensorboard: bool = False
    """Whether TensorBoard files are written beside `metrics.jsonl`; needs the extra `tensorboard`."""

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = handler(self)
        return found | {"steps": "auto"} if found.get("steps") == AUTO else found

    # Of the field, not of the whole: a model's validator is silent as soon as any other key is wrong.
    @field_validator("accumulate")
    @classmethod
    def _divides(cls, parts: int, info: ValidationInfo) -> int:
        batches = {key: info.data.get(key) for key in ("batch_size", "unlabelled_batch_size")}
        wrong = [f"{key} {rows}" for key, rows in batches.items() if rows is not None and rows % parts]
        if wrong:
            raise ValueError(f"{' and '.join(wrong)} cannot be divided by it; take a divisor")
        return parts

    def validation_interval(self, images: int) -> int:
        """Steps from one validation, which looks at so many images, to the next; 0 for one at the end alone."""
        if self.evaluate_every is not None or not images:
            return self.evaluate_every or 0
        times = min(10, self.steps * self.batch_size // (4 * images))
        return -(-self.steps // times) if times > 1 else 0

    def check_division(self, processes: int) -> None:
        """Raises ValueError where a step's images cannot be shared out over processes and micro-batches."""
        parts = processes * self.accumulate
        for key, rows in (("batch_size", self.batch_size), ("unlabelled_batch_size", self.unlabelled_batch_size)):
            if rows is not None and rows % parts:
                raise ValueError(
                    f"train.{key} {rows} does not divide over {processes} processes × {self.accumulate} accumulated "
                    f"micro-batches; take a multiple of {parts}"
                )
