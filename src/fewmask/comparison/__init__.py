"""Comparing methods over seeds and images, with intervals and verdicts for their differences."""

from fewmask.comparison.pairs import compare

__all__ = ["compare"]
