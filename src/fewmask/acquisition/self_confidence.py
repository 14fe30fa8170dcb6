"""How likely a network finds the labels that people gave. Low values point to wrong labels.

This is the label quality of Northcutt et al., "Confident Learning" (JAIR 2021), for networks of which only the most
likely class and its probability are stored. The network must not have been trained on the labels.

Shapes: h×w pixels.
"""

from __future__ import annotations

import numpy as np

from fewmask.labels import Mask


def mean_self_confidence(given: Mask, predicted: Mask, probability: np.ndarray, classes: int) -> float | None:
    """The mean probability (0–1) of the given labels (h,w), from the predicted classes (h,w) and their `probability`
    (h,w).

    Where the prediction is another class, the given class gets an equal part of the remaining probability. Pixels
    without a given or a predicted class do not count. It is None where no pixel counts.
    """
    counted = (given < classes) & (predicted < classes)
    if not counted.any():
        return None
    others = (1.0 - probability) / max(classes - 1, 1)
    return float(np.where(given == predicted, probability, others)[counted].mean(dtype=np.float64))
