"""Runs campaigns: rounds of scoring the pool, asking, and training on the answers."""

from fewmask.campaigns.rounds import campaign

__all__ = ["campaign"]
