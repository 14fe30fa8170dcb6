"""Rounds of train → look → ask → learn."""

from fewmask.campaigns.rounds import campaign

__all__ = ["campaign"]
