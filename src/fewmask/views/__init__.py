"""Views of an image: pure functions of pixels and a generator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewmask.lazy import attach

if TYPE_CHECKING:
    from fewmask.views.augment import jitter as jitter
    from fewmask.views.augment import weak_view as weak_view
    from fewmask.views.mixing import box_masks as box_masks
    from fewmask.views.mixing import class_masks as class_masks
    from fewmask.views.mixing import partners as partners
    from fewmask.views.mixing import paste as paste
    from fewmask.views.strong import cutout as cutout
    from fewmask.views.strong import noisy_view as noisy_view
    from fewmask.views.strong import strong_view as strong_view

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "fewmask.views.augment": "jitter weak_view",
        "fewmask.views.mixing": "box_masks class_masks partners paste",
        "fewmask.views.strong": "cutout noisy_view strong_view",
    },
)
