"""Losses: pure functions of tensors. Randomness, where one needs it, is handed in."""

from fewmask.losses.adversarial import verdict_loss
from fewmask.losses.alignment import Alignment, alignment, cosine_similarity, dot_similarity
from fewmask.losses.cross_entropy import cross_entropy
from fewmask.losses.dice import dice_loss
from fewmask.losses.difficulty import difficulty_loss
from fewmask.losses.divergence import js_divergence, kl_divergence, log_mean_softmax
from fewmask.losses.entropy import entropy, masked_mean
from fewmask.losses.mmd import linear_mmd, quadratic_mmd
from fewmask.losses.prototypes import pca_prototypes, sinkhorn
from fewmask.losses.pseudo_label import pseudo_label, pseudo_weight, ramp, sure_fraction
from fewmask.losses.regional_contrast import regional_contrast
from fewmask.losses.translation import image_distance, least_squares, semantic_consistency

__all__ = [
    "Alignment",
    "alignment",
    "cosine_similarity",
    "cross_entropy",
    "dice_loss",
    "difficulty_loss",
    "dot_similarity",
    "entropy",
    "image_distance",
    "js_divergence",
    "kl_divergence",
    "least_squares",
    "linear_mmd",
    "log_mean_softmax",
    "masked_mean",
    "pca_prototypes",
    "pseudo_label",
    "pseudo_weight",
    "quadratic_mmd",
    "ramp",
    "regional_contrast",
    "semantic_consistency",
    "sinkhorn",
    "sure_fraction",
    "verdict_loss",
]
