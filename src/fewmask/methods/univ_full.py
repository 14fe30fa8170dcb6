"""univ-full: univ-cross, and unlabelled pixels aligned with the classes of their own domain too (ICCV 2019).

    for each step:
        L_sup    = Σ_k CE(y, G_k(F(x)))                          labelled pixels
        v_ij     = ⟨E(F(x)), c^(j)⟩                              unlabelled pixels x of domain i, classes of domain j
        L_cross  = Σ_i mean_x 1/(K−1) Σ_{j≠i} H(σ(v_ij))
        L_within = Σ_i mean_x H(σ(v_ii))
        L        = L_sup + α L_cross + β L_within        (+ the anchor of the default mode)

Shapes: see `methods.entropy_module`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeFloat

from fewmask.methods.entropy_module import EntropyModule, EntropyModuleSettings


class UnivFullSettings(EntropyModuleSettings):
    name: Literal["univ-full"] = "univ-full"
    alpha: NonNegativeFloat = 0.02
    beta: NonNegativeFloat = 0.02


class UnivFull(EntropyModule):
    Settings = UnivFullSettings
    name = "univ-full"
    settings: UnivFullSettings

    @property
    def weights(self) -> tuple[float, float]:
        return self.settings.alpha, self.settings.beta
