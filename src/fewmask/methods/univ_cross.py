"""univ-cross: joint training, and unlabelled pixels aligned with the classes of the other domains (ICCV 2019).

    for each step:
        L_sup   = Σ_k CE(y, G_k(F(x)))                           labelled pixels
        v_ij    = ⟨E(F(x)), c^(j)⟩                               unlabelled pixels x of domain i, classes of domain j
        L_cross = Σ_i mean_x 1/(K−1) Σ_{j≠i} H(σ(v_ij))
        L       = L_sup + α L_cross        (+ the anchor of the default mode)

Shapes: see `methods.entropy_module`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeFloat

from fewmask.methods.entropy_module import EntropyModule, EntropyModuleSettings


class UnivCrossSettings(EntropyModuleSettings):
    name: Literal["univ-cross"] = "univ-cross"
    alpha: NonNegativeFloat = 0.02


class UnivCross(EntropyModule):
    Settings = UnivCrossSettings
    name = "univ-cross"
    settings: UnivCrossSettings

    @property
    def weights(self) -> tuple[float, float]:
        return self.settings.alpha, 0.0
