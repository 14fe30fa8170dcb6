"""The parts of a report page, its charts, and the page as one HTML file. It knows no runs and no networks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewmask.lazy import attach

if TYPE_CHECKING:
    from fewmask.document.model import Chart as Chart
    from fewmask.document.model import Charts as Charts
    from fewmask.document.model import Figure as Figure
    from fewmask.document.model import Figures as Figures
    from fewmask.document.model import Gallery as Gallery
    from fewmask.document.model import Key as Key
    from fewmask.document.model import Note as Note
    from fewmask.document.model import Page as Page
    from fewmask.document.model import Picture as Picture
    from fewmask.document.model import Section as Section
    from fewmask.document.model import Table as Table

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "fewmask.document.model": "Chart Charts Figure Figures Gallery Key Note Page Picture Section Table",
    },
)
