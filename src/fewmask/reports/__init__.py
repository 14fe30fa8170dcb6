"""From the folders of runs to a page about them."""

from fewmask.reports.report import report

__all__ = ["report"]
