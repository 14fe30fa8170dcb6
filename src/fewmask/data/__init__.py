"""Datasets as domains: their files, splits and masks, joint mini-batches, and procedural scenes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewmask.lazy import attach

if TYPE_CHECKING:
    from fewmask.data.batch import Batch as Batch
    from fewmask.data.batch import Phase as Phase
    from fewmask.data.batch import PixelCounts as PixelCounts
    from fewmask.data.domain import Domain as Domain
    from fewmask.data.domain import FileSource as FileSource
    from fewmask.data.domain import Source as Source
    from fewmask.data.domains import load_domains as load_domains
    from fewmask.data.layouts import load_domain as load_domain
    from fewmask.data.pictures import write_image as write_image
    from fewmask.data.pictures import write_mask as write_mask
    from fewmask.data.reading import read_image as read_image
    from fewmask.data.reading import read_mask as read_mask

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "fewmask.data.batch": "Batch Phase PixelCounts",
        "fewmask.data.domain": "Domain FileSource Source",
        "fewmask.data.domains": "load_domains",
        "fewmask.data.layouts": "load_domain",
        "fewmask.data.pictures": "write_image write_mask",
        "fewmask.data.reading": "read_image read_mask",
    },
)
