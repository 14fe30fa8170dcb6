"""Rounds of train → look → ask → learn."""

from fewmask.campaign.folder import Campaign
from fewmask.campaign.rounds import campaign

__all__ = ["Campaign", "campaign"]
