"""Rounds of train → look → ask → learn."""

from fewmask.campaign.rounds import campaign

__all__ = ["campaign"]
