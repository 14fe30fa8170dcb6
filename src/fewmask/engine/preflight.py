"""What can be known of a training before its first step."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fewmask.config import TrainSettings
from fewmask.data.batch import Phase
from fewmask.methods.common.base import Method
from fewmask.models.batch_norm import lonely
from fewmask.models.universal import UniversalSegmenter


def check_rows(train: TrainSettings, phases: Sequence[Phase], model: UniversalSegmenter, method: Method) -> None:
    """Raises ValueError where torch would refuse the first step: batch normalisation of a single value."""
    labelled, unlabelled = train.batch_size, train.unlabelled_batch_size or train.batch_size
    pool = [unlabelled // train.accumulate if p.unlabelled else 0 for p in phases]
    rows = min(rows for u in pool for rows in method.forwards(labelled // train.accumulate, u))
    image = torch.zeros(1, 3, *train.crop, device=model.mean.device)
    if rows == 1 and (names := lonely(model, lambda: model.encode(image))):
        key = "batch_size" if labelled == train.accumulate else "unlabelled_batch_size"
        raise ValueError(
            f"train.{key}: with one image of {train.crop[0]}×{train.crop[1]} a micro-batch, batch normalisation "
            f"sees a single value per channel ({', '.join(names)}); take at least two images"
        )
