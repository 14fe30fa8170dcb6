"""From the folders of runs to a page about them."""

from fewmask.report.report import report

__all__ = ["report"]
