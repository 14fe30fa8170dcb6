"""The kinds of image files, and the verdict on each: accepted, converted or refused.

The reader follows these tables, `docs/formats.md` shows them, and the tests check every cell.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

CONTAINERS = ("JPEG", "PNG", "TIFF", "WebP", "BMP")


@dataclass(frozen=True)
class Kind:
    """The properties of an image file, from its header."""

    container: str
    channels: str
    """grey, grey and alpha, RGB, RGB and alpha, palette, CMYK, Lab, or bands: any other number of them."""
    depth: str
    """Bits a channel: 1, 2, 4, 5, 8, 12, 16 or 32; float, signed or mixed."""
    width: int
    height: int
    bands: int = 0
    pages: int = 1
    """Pages of a TIFF without smaller copies of other pages, or frames of an animation."""
    animated: bool = False
    orientation: int = 1
    """The orientation tag: 1 for pixels as stored, 2 to 8 if programs should turn them."""
    profile: bool = False
    """Whether it has a colour profile other than sRGB."""
    clear: bool = False
    """Whether colours of a PNG are transparent (a tRNS chunk)."""
    premultiplied: bool = False
    copies: bool = False
    """Whether further pictures follow: smaller copies in a TIFF, previews or depth behind a JPEG (MPF)."""
    compression: str = ""
    """Of a TIFF."""
    step: str = ""
    """progressive (JPEG) or interlaced (PNG)."""


class Cell(NamedTuple):
    """The verdict on a kind. `fewmask check` reports one that is not refused but has a `fix`."""

    verdict: Literal["accepted", "converted", "by colours", "refused"]
    """`by colours` is for masks. Their colours are classes if `classes.yaml` states the colour of each class. Otherwise
    the mask is refused."""
    how: str = ""
    fix: str = ""

    def of(self, kind: Kind) -> Cell:
        """The cell with the kind's own numbers."""
        numbers = {"bands": kind.bands, "pages": kind.pages, "orientation": kind.orientation}
        return self._replace(how=self.how.format(**numbers))

    def __str__(self) -> str:
        return ": ".join(filter(None, [self.verdict, "; ".join(filter(None, [self.how, self.fix]))]))


_OK = Cell("accepted")
_GREY = Cell("converted", "three equal channels")
_SCALED = Cell("converted", "scaled to 0–255, three equal channels")
_PALETTE = Cell("converted", "the palette's colours")
_ALPHA = Cell("converted", "its alpha is dropped", "save it without alpha if transparent pixels are not to be seen")
_CMYK = Cell(
    "converted",
    "CMYK becomes RGB by (1−C)(1−K) without a colour profile, so its colours are not exact",
    "save it as RGB from the program that knows its profile",
)
_DEEP = "save it with 8 bits a channel, scaled as the network is to see it"
_12_JPEG = Cell("refused", "12 bits a channel", _DEEP)
_SET = "write `depth: {depth}` in the domain's settings, or " + _DEEP
_12, _16, _32 = (
    Cell("refused", f"{bits} bits a channel", _SET.format(depth=32 if bits == 32 else 16)) for bits in (12, 16, 32)
)
_FLOAT = Cell("refused", "floating-point pixels", _SET.format(depth="float"))
_SIGNED = Cell("refused", "signed pixels", _SET.format(depth=16))
_LAB = Cell("refused", "pixels of the colour space Lab", "save it as RGB")
_BANDS_JPEG = Cell(
    "refused",
    "{bands} bands, which are not grey, RGB or CMYK with at most an alpha",
    "save the three that the network is to see as RGB",
)
_BANDS = _BANDS_JPEG._replace(
    fix="name them in `channels` in the domain's settings, or save the three that the network is to see as RGB"
)

PIXELS: Mapping[tuple[str, str], Mapping[str, Cell]] = {
    ("grey", "1"): {"PNG": _SCALED, "TIFF": _SCALED},
    ("grey", "2"): {"PNG": _SCALED, "TIFF": _SCALED},
    ("grey", "4"): {"PNG": _SCALED, "TIFF": _SCALED},
    ("grey", "8"): {"JPEG": _GREY, "PNG": _GREY, "TIFF": _GREY},
    ("grey", "12"): {"JPEG": _12_JPEG, "TIFF": _12},
    ("grey", "16"): {"PNG": _16, "TIFF": _16},
    ("grey", "32"): {"TIFF": _32},
    ("grey", "float"): {"TIFF": _FLOAT},
    ("grey", "signed"): {"TIFF": _SIGNED},
    ("grey and alpha", "8"): {"PNG": _ALPHA, "TIFF": _ALPHA},
    ("grey and alpha", "16"): {"PNG": _16, "TIFF": _16},
    ("RGB", "5"): {"BMP": Cell("converted", "5 or 6 bits a channel are scaled to 0–255")},
    ("RGB", "8"): dict.fromkeys(CONTAINERS, _OK),
    ("RGB", "12"): {"JPEG": _12_JPEG, "TIFF": _12},
    ("RGB", "16"): {"PNG": _16, "TIFF": _16},
    ("RGB", "float"): {"TIFF": _FLOAT},
    ("RGB", "signed"): {"TIFF": _SIGNED},
    ("RGB and alpha", "8"): {"PNG": _ALPHA, "TIFF": _ALPHA, "WebP": _ALPHA, "BMP": _ALPHA},
    ("RGB and alpha", "16"): {"PNG": _16, "TIFF": _16},
    ("palette", "1"): {"PNG": _PALETTE, "TIFF": _PALETTE, "BMP": _PALETTE},
    ("palette", "2"): {"PNG": _PALETTE, "TIFF": _PALETTE},
    ("palette", "4"): {"PNG": _PALETTE, "TIFF": _PALETTE, "BMP": _PALETTE},
    ("palette", "8"): {"PNG": _PALETTE, "TIFF": _PALETTE, "BMP": _PALETTE},
    ("CMYK", "8"): {"JPEG": _CMYK, "TIFF": _CMYK},
    ("CMYK", "16"): {"TIFF": Cell("refused", "CMYK of 16 bits a channel", "save it as RGB")},
    ("Lab", "8"): {"TIFF": _LAB},
    ("bands", "8"): {"JPEG": _BANDS_JPEG, "TIFF": _BANDS},
    ("bands", "16"): {"TIFF": _BANDS},
}
"""The verdict on an image, by channels and bits. All other images are refused."""

_IDS = "give every class its `colour` in classes.yaml, or save one channel of class ids (docs/faq.md has a script)"
MASKS: Mapping[tuple[str, str], Cell] = {
    **{
        ("grey", str(n)): Cell(
            "refused", f"{n} bit{'s' * (n > 1)} a pixel", "save it with 8, so that each value is one id"
        )
        for n in (1, 2, 4)
    },
    ("grey", "8"): Cell("accepted", "values are ids"),
    ("grey", "16"): Cell("accepted", "values are ids, up to 255"),
    **{("palette", bits): Cell("accepted", "indices are ids") for bits in "1248"},
    **{
        (channels, bits): Cell("refused", f"it holds colours ({channels})", _IDS)
        for channels, bits in (
            ("grey and alpha", "8"),
            ("grey and alpha", "16"),
            ("RGB", "16"),
            ("RGB and alpha", "16"),
        )
    },
    **{
        (channels, "8"): Cell("by colours", f"it holds colours ({channels})", _IDS)
        for channels in ("RGB", "RGB and alpha")
    },
}
"""The verdict on a PNG, a TIFF or a BMP as a mask, by channels and bits. A mask in any other container is refused."""
NO_MASK = Cell("refused", "not a PNG", "save masks as 8-bit PNG, which keeps every id")


class Property(NamedTuple):
    """A property that a file may have beside its pixels, whatever their kind."""

    name: str
    holds: Callable[[Kind], bool]
    cells: Mapping[str, Cell]


TURN_PIXELS = "turn the image's own pixels (`mogrify -auto-orient` does)"
_TURNED = Cell(
    "accepted",
    "its camera's orientation tag ({orientation}) is not applied: most programs show it turned",
    f"{TURN_PIXELS} before anybody draws masks",
)
_PROFILE = Cell(
    "accepted", "its colour profile is not sRGB and is not applied", "convert it to sRGB if others are in sRGB"
)
_ANIMATED = Cell("refused", "an animation of {pages} frames", "save each frame as an image of its own")
PROPERTIES = (
    Property("orientation tag", lambda k: k.orientation != 1, dict.fromkeys(("JPEG", "PNG", "TIFF", "WebP"), _TURNED)),
    Property(
        "ICC profile other than sRGB", lambda k: k.profile, dict.fromkeys(("JPEG", "PNG", "TIFF", "WebP"), _PROFILE)
    ),
    Property(
        "several pages",
        lambda k: k.pages > 1 and not k.animated,
        {"TIFF": Cell("refused", "{pages} pages", "save each page as an image of its own")},
    ),
    Property("animation", lambda k: k.animated, dict.fromkeys(("PNG", "WebP"), _ANIMATED)),
    Property(
        "further pictures: smaller copies of the page, previews and depth behind it (MPF)",
        lambda k: k.copies,
        dict.fromkeys(("JPEG", "TIFF"), Cell("accepted", "the first picture is read")),
    ),
    Property("a transparent colour (tRNS)", lambda k: k.clear, {"PNG": _ALPHA}),
    Property(
        "colours multiplied by alpha",
        lambda k: k.premultiplied,
        {"TIFF": Cell("refused", "its colours are multiplied by its alpha", "save it without alpha")},
    ),
    Property("progressive, interlaced", lambda k: bool(k.step), dict.fromkeys(("JPEG", "PNG"), _OK)),
    Property(
        "old-style JPEG in TIFF",
        lambda k: k.compression == "old-style JPEG",
        {"TIFF": Cell("refused", "compressed as old-style JPEG, which programs read differently", "save it again")},
    ),
)


def judge(kind: Kind) -> Iterator[Cell]:
    """The verdicts on an image of this kind: on its pixels first, then on each of its properties."""
    cells = PIXELS.get((kind.channels, kind.depth), {})
    other = Cell("refused", f"pixels of kind {kind.channels} with {kind.depth} bits a channel", "save it as 8-bit RGB")
    yield cells.get(kind.container, other).of(kind)
    yield from judge_properties(kind)


def judge_properties(kind: Kind) -> Iterator[Cell]:
    """The verdict on each property that a file of this kind has beside its pixels."""
    for has in PROPERTIES:
        if has.holds(kind):
            yield has.cells[kind.container].of(kind)


def markdown() -> str:
    """The tables as `docs/formats.md` shows them, with letters for numbers that depend on the file."""
    head = ["pixels", "bits", *CONTAINERS, "PNG as a mask"]
    rows = [
        [channels, bits, *(_cell(cells.get(c)) for c in CONTAINERS), _cell(MASKS.get((channels, bits)))]
        for (channels, bits), cells in PIXELS.items()
    ]
    beside = [[name, *(_cell(cells.get(c)) for c in CONTAINERS)] for name, _, cells in PROPERTIES]
    return _table(head, rows) + "\n" + _table(["beside its pixels", *CONTAINERS], beside)


def _cell(cell: Cell | None) -> str:
    return "" if cell is None else re.sub(r"{\w+}", "N", str(cell))


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in [head, ["---"] * len(head), *rows])
