"""Renders the page as one HTML file without a script, an address or a file to load. The template escapes all text."""

from __future__ import annotations

import base64
from functools import cache
from importlib.resources import files
from io import BytesIO

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

from fewmask.document.maps import shape_key
from fewmask.document.model import Charts, Figures, Gallery, Note, Page, Picture, Table
from fewmask.formats.bands import as_rgb

KINDS = {Note: "note", Figures: "figures", Table: "table", Charts: "charts", Gallery: "gallery"}


def render(page: Page) -> str:
    """The HTML text of a page."""
    return _template().render(page=page, style=Markup(_read("page.css")))


def picture(pixels: np.ndarray, alt: str, caption: str = "", width: int | None = None, exact: bool = False) -> Picture:
    """A picture (H,W,3) uint8 as JPEG, at most `width` pixels wide.

    With `exact`, which masks need, it is a palette PNG, and it shrinks to the nearest pixel, so that no colour is
    mixed.
    """
    image = Image.fromarray(np.ascontiguousarray(as_rgb(pixels)))
    if width is not None and image.width > width:
        filter_ = Image.Resampling.NEAREST if exact else Image.Resampling.LANCZOS
        image = image.resize((width, max(round(image.height * width / image.width), 1)), filter_)
    buffer = BytesIO()
    if exact:
        image.quantize(256, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    else:
        image.save(buffer, "JPEG", quality=82, optimize=True)
    data = f"data:image/{'png' if exact else 'jpeg'};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return Picture(data, alt, caption, image.width, image.height)


def _kind(block: object) -> str:
    return KINDS[type(block)]


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"kind": _kind, "shape": shape_key}
    return environment.from_string(_read("page.html"))


def _read(name: str) -> str:
    return (files("fewmask.document") / name).read_text(encoding="utf-8")
