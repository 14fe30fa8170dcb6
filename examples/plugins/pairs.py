"""A layout: `<root>/<split>/<name>.jpg` with the mask `<name>.mask.png` beside it, and `<root>/classes.yaml`."""

from typing import Literal

from fewmask.config import PluginDomain
from fewmask.data.domain import SPLITS
from fewmask.data.layouts import Index, Listing
from fewmask.labels import LabelSpace


class Settings(PluginDomain):
    """What a configuration says of such a domain, beside `root`, `size` and `absent`."""

    layout: Literal["pairs"]
    mask: str = ".mask"


def index(settings: Settings) -> Index:
    """The dataset's files by stem. Opens no image; `finish` names every problem of the lists at once."""
    listing = Listing(settings.root, "the folder that holds classes.yaml, train/, val/ and test/")
    for split in SPLITS:
        for path in listing.files(split):
            if path.suffix == ".jpg":
                listing.add_image(path.stem, path)
                listing.put(split, path.stem, path)
            elif path.name.endswith(f"{settings.mask}.png"):
                listing.add_mask(path.name.removesuffix(f"{settings.mask}.png"), path)
    return listing.finish(LabelSpace.from_yaml(settings.root / "classes.yaml"))
