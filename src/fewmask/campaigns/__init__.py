"""Rounds of training, scoring the pool, asking and learning."""

from fewmask.campaigns.rounds import campaign

__all__ = ["campaign"]
