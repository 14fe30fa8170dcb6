"""Comparing methods over seeds and images: which differences are more than luck."""

from fewmask.comparison.pairs import compare

__all__ = ["compare"]
