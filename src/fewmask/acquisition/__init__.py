"""Selection of the regions to label: pure functions of arrays, without access to masks or files of a dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewmask.lazy import attach

if TYPE_CHECKING:
    from fewmask.acquisition.budget import Budget as Budget
    from fewmask.acquisition.budget import CostModel as CostModel
    from fewmask.acquisition.curve import Curve as Curve
    from fewmask.acquisition.regions import Regions as Regions
    from fewmask.acquisition.regions import aggregate as aggregate
    from fewmask.acquisition.regions import dominant_class as dominant_class
    from fewmask.acquisition.regions import embed as embed
    from fewmask.acquisition.regions import points as points
    from fewmask.acquisition.regions import squares as squares
    from fewmask.acquisition.regions import superpixels as superpixels
    from fewmask.acquisition.regions import whole as whole
    from fewmask.acquisition.scores import Score as Score
    from fewmask.acquisition.scores import Scorer as Scorer
    from fewmask.acquisition.scores import bald as bald
    from fewmask.acquisition.scores import difficulty as difficulty
    from fewmask.acquisition.scores import disagreement as disagreement
    from fewmask.acquisition.scores import entropy as entropy
    from fewmask.acquisition.scores import image_by_image as image_by_image
    from fewmask.acquisition.scores import least_confidence as least_confidence
    from fewmask.acquisition.scores import margin as margin
    from fewmask.acquisition.scores import normalised_entropy as normalised_entropy
    from fewmask.acquisition.scores import probabilities as probabilities
    from fewmask.acquisition.scores import random as random
    from fewmask.acquisition.selection import Candidates as Candidates
    from fewmask.acquisition.selection import select as select

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "fewmask.acquisition.budget": "Budget CostModel",
        "fewmask.acquisition.curve": "Curve",
        "fewmask.acquisition.regions": "Regions aggregate dominant_class embed points squares superpixels whole",
        "fewmask.acquisition.scores": "Score Scorer bald difficulty disagreement entropy image_by_image "
        "least_confidence margin normalised_entropy probabilities random",
        "fewmask.acquisition.selection": "Candidates select",
    },
)
