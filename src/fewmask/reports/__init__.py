"""Writing a page about one or several runs from their folders."""

from fewmask.reports.report import report

__all__ = ["report"]
