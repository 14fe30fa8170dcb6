"""A score: the Gini impurity 1 − Σ p² of the members' mean softmax, 0 where one class is sure."""

from torch import Tensor

from fewmask.acquisition import Scorer, image_by_image, probabilities


@image_by_image
def impurity(logits: Tensor) -> Tensor:
    """Logits (M,C,H,W) of one image by M members → (H,W)."""
    return 1 - probabilities(logits).square().sum(0)


gini = Scorer(impurity)
