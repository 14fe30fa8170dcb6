"""The page's charts and its file, from plain data: what is drawn is what was given, and nothing of it is markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewmask.document.charts import Bar, Series, bars, columns, lines, marker, reliability
from fewmask.document.html import picture, render
from fewmask.document.intervals import Difference, intervals
from fewmask.document.maps import Cloud, class_colour, heat_map, scatter
from fewmask.document.model import Chart, Charts, Figure, Figures, Gallery, Key, Note, Page, Row, Section, Table
from fewmask.document.svg import Scale, plain_number, span, tag, ticks

EVIL = "</title><script>alert('&1')</script>"


def drawn(chart: Chart) -> ElementTree.Element:
    """The chart as a parser sees it."""
    return ElementTree.fromstring(chart.svg)


def words(chart: Chart) -> list[str]:
    return ["".join(e.itertext()) for e in drawn(chart).iter("text")]


def tips(chart: Chart) -> list[str]:
    return [e.text or "" for e in drawn(chart).iter("title")][1:]


# ── The few things that charts share ─────────────────────────────────────────────────────────────────────────────────


def test_everything_in_an_element_is_escaped_but_markup() -> None:
    made = tag("text", "<b>", tag("tspan", "&"), class_='a"b', text_anchor="end", x=1.26, y=3.0, left_out=None)
    assert made == '<text class="a&#34;b" text-anchor="end" x="1.3" y="3">&lt;b&gt;<tspan>&amp;</tspan></text>'


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 10))
def test_ticks_are_round_apart_alike_and_inside(low: float, width: float, about: int) -> None:
    high = low + width
    if not low < high:
        return
    values = ticks(low, high, about)
    assert len(values) <= 2 * about + 1
    slack = 1e-6 * width + 1e-9
    assert all(low - slack <= t <= high + slack for t in values)
    steps = np.diff(values)
    assert np.allclose(steps, steps[:1], rtol=1e-6, atol=1e-9)
    if len(steps):
        assert f"{steps[0] / 10 ** np.floor(np.log10(steps[0]) + 1e-9):.3g}" in {"1", "2", "2.5", "5", "10"}


@given(st.lists(st.floats(-1e3, 1e3), min_size=1), st.booleans())
def test_a_span_shows_all_values_and_is_never_empty(values: list[float], zero: bool) -> None:
    low, high = span(values, 0.02, zero)
    assert low <= min(values) and max(values) <= high and high - low >= 0.02
    assert not zero or low <= 0 <= high


def test_numbers_are_short() -> None:
    assert [plain_number(v) for v in (0.0, 7.0, 0.0512, 1234.0, 45678.0, 3.25e6, -2.5e9)] == [
        "0", "7", "0.0512", "1,234", "45.7k", "3.25M", "-2.5G",
    ]  # fmt: skip


def test_a_scale_may_run_downwards() -> None:
    assert [Scale(0, 10, 100, 0)(v) for v in (0, 5, 10)] == [100, 50, 0]


def test_markers_of_series_differ() -> None:
    assert len({marker(kind, 10, 10, 4) for kind in range(8)}) == 8
    assert len({class_colour(i) for i in range(40)}) == 40


# ── Charts ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_line_passes_through_its_points() -> None:
    series = [Series("a", [(0, 0.2), (10, 0.4)], dots=True), Series("b", [(5, 0.3)], 1)]
    chart = lines("t", series, "labels", "mIoU", description="d", target=0.5)
    path = next(e for e in drawn(chart).iter("path") if e.get("class") == "line s0")
    (x0, y0), (x1, y1) = ([float(v) for v in p.split(",")] for p in path.attrib["d"][1:].split("L"))
    dots = [e for e in drawn(chart).iter("path") if "dot" in e.attrib["class"]]
    assert x0 < x1 and y0 > y1
    assert len(dots) == 3
    middle = [float(v) for v in re.findall(r"[-\d.]+", dots[2].attrib["d"])[:2]]
    assert middle[0] == pytest.approx((x0 + x1) / 2, abs=6) and middle[1] == pytest.approx((y0 + y1) / 2, abs=6)
    assert [key.name for key in chart.keys] == ["a", "b"]
    assert "target 50 %" in words(chart)
    assert tips(chart)[1:3] == ["a: 20 % at 0", "a: 40 % at 10"]


def test_lines_of_a_single_point_and_of_a_flat_curve_are_drawn() -> None:
    for points in ([(3.0, 0.5)], [(0.0, 0.5), (1.0, 0.5)]):
        assert "NaN" not in lines("t", [Series("a", points)], "x", "y", description="d").svg


def test_bars_say_value_and_change() -> None:
    chart = bars(
        "t", [Bar("up", 0.5, 0.25), Bar("down", 0.2, 0.3), Bar("gone", None)], before="round 1", description="d"
    )
    texts = words(chart)
    assert "▲ +25.0" in texts and "▼ −10.0" in texts and "does not occur" in texts
    width = {e.find("title").text.split(":")[0]: float(e.attrib["width"]) for e in drawn(chart).iter("rect")}  # type: ignore[union-attr]
    assert width["up"] == pytest.approx(2.5 * width["down"], rel=0.02)
    assert [key.name for key in chart.keys] == ["now", "round 1"]
    assert "round 1" not in str(bars("t", [Bar("a", 0.1)], description="d").keys)


def test_columns_stack_their_parts() -> None:
    chart = columns("t", ["r1", "r2"], {"a": [1, 2], "b": [3, 0]}, "minutes", description="d")
    parts = [(float(e.attrib["y"]), float(e.attrib["height"])) for e in drawn(chart).iter("rect")]
    assert parts[1][0] + parts[1][1] == pytest.approx(parts[0][0], abs=0.2)  # b stands on a
    assert parts[1][1] == pytest.approx(3 * parts[0][1], rel=0.02)
    assert "NaN" not in columns("t", ["r1"], {"a": [0.0]}, "minutes", description="d").svg


def test_the_reliability_diagram_marks_the_gap_and_leaves_empty_bins_out() -> None:
    table = [(0.0, 0.0, 0.0), (10.0, 2.0, 7.0), (30.0, 29.0, 24.0)]
    chart = reliability("t", table, description="d")
    kinds = [e.attrib["class"] for e in drawn(chart).iter("rect")]
    assert kinds == ["bar", "gap over", "share", "bar", "gap under", "share"]
    assert chart.table is not None
    assert [row[1:] for row in chart.table.rows] == [("70 %", "20 %", "25 %"), ("80 %", "96.7 %", "75 %")]
    assert "rect" not in reliability("t", [(0.0, 0.0, 0.0)], description="d").svg


def test_a_heat_map_has_a_cell_for_each_pair_and_marks_private_classes() -> None:
    values = [[1.0, None], [-0.5, 0.25]]
    chart = heat_map("t", ["a", "b"], ["c", "d"], values, "x", "y", description="d", format_value=lambda v: f"{v:.2f}",
                     marked=([True, False], [False, False]), diverging=True)  # fmt: skip
    cells = [(e.attrib["class"], e.get("style")) for e in drawn(chart) if "cell" in e.get("class", "")]
    assert cells == [("cell", "--v:100%"), ("cell none", None), ("cell cold", "--v:50%"), ("cell", "--v:25%")]
    assert "b → c: -0.50" in tips(chart)
    assert any(word.endswith("○ a") for word in words(chart)) and "−50" in words(chart)


def test_a_heat_map_of_many_classes_stays_small() -> None:
    names = [f"class {i}" for i in range(250)]
    chart = heat_map("t", names, names, np.eye(250).tolist(), "x", "y", description="d", format_value=str)
    assert sum(e.tag == "rect" for e in drawn(chart).iter()) == 250
    assert len(chart.svg) < 2**20


def test_a_scatter_keeps_the_points_and_names_each_cloud() -> None:
    clouds = [
        Cloud("streets: road", np.array([[0.0, 0.0], [1.0, 1.0]]), "#112233", 0),
        Cloud("rooms: sofa", np.array([[4.0, 2.0]]), "#445566", 1, private=True),
    ]
    chart = scatter("t", clouds, description="d")
    paths = list(drawn(chart).iter("path"))
    assert [p.attrib["d"].count("Z") for p in paths] == [2, 1]
    assert [p.attrib["style"] for p in paths] == ["fill:#112233", "fill:#445566"]
    assert words(chart) == ["road", "○ sofa"]


def test_intervals_around_zero() -> None:
    given = [Difference("mean", 0.03, (0.01, 0.05), sure=True, head=True), Difference("sky", -0.01, None)]
    chart = intervals("t", given, "points", description="d")
    assert {"+3.0", "−1.0", "0"} <= set(words(chart))
    assert [e.attrib["class"] for e in drawn(chart).iter("path")] == ["line s2", "dot s2", "dot s6"]
    assert "mean: +3.0, 95 %: +1.0 … +5.0" in tips(chart)


def test_intervals_of_classes_do_not_shrink_those_of_means() -> None:
    given = [Difference("mean", 0.03, (0.01, 0.05), head=True), Difference("sky", 0.2, (-1.849, 2.141))]
    chart = intervals("t", given, "points", description="d")
    mean, sky = (e.attrib["d"] for e in drawn(chart).iter("path") if "line" in e.attrib["class"])
    ends = [[float(v) for v in re.findall(r"[MH]([-\d.]+)", line)] for line in (mean, sky)]
    assert ends[0][1] - ends[0][0] > 100  # of 600 pixels
    assert all(0 < end < 600 for pair in ends for end in pair)
    ticks_ = set(words(chart))
    assert {"−100.0", "+100.0"} <= ticks_ and not {"−150.0", "+200.0"} & ticks_
    assert "sky: +20.0, 95 %: −184.9 … +214.1" in tips(chart)


# ── The file ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Reader(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def everything(text: str) -> Page:
    """A page of all there is, with this text wherever text can be."""
    table = Table((text, text), [(text, text)], caption=text)
    series = Series(text, [(0, 0), (1, 1)], dots=True)
    charts = [
        lines(text, [series], text, text, description=text, marks=[(0.5, text)], table=table, caption=text),
        bars(text, [Bar(text, 0.5, 0.4)], before=text, description=text),
        columns(text, [text], {text: [1.0], "b": [2.0]}, text, description=text),
        reliability(text, [(1.0, 1.0, 0.5)], description=text),
        heat_map(text, [text], [text], [[0.9]], text, text, description=text, format_value=lambda v: text),
        scatter(text, [Cloud(f"d: {text}", np.zeros((1, 2)), "#000000", 0)], description=text),
        intervals(text, [Difference(text, 0.1, (0.0, 0.2))], text, description=text),
    ]
    keys = [Key(text, colour="#123456"), Key(text, 1), *(Key(text, shape=shape) for shape in ("2", "tick", "hatch"))]
    images = [picture(np.zeros((4, 6, 3), np.uint8), text, text, exact=exact) for exact in (False, True)]
    blocks = [
        Note(text), Note(text, "missing"), Figures([Figure(text, text, text)]), table, Charts(charts),
        Gallery(text, [Row(text, images, [text]), Row(text, images, [text, "b"])], (text, text), keys, text),
        Gallery(text, [Row(text, images)], narrow=True),
    ]  # fmt: skip
    return Page(text, text, [Section("all", text, blocks, text)], [text])


def test_text_from_strangers_is_text_everywhere() -> None:
    html = render(everything(EVIL))
    plain = Reader(render(everything("word")))
    evil = Reader(html)
    assert "<script" not in html
    assert [name for name, _ in evil.tags] == [name for name, _ in plain.tags]
    assert "".join(evil.words).count("alert('&1')") > 40
    assert not [key for _, attrs in evil.tags for key in attrs if key.startswith("on")]


def test_a_page_asks_for_nothing_and_runs_nothing() -> None:
    reader = Reader(render(everything("word")))
    addresses = [a[key] for _, a in reader.tags for key in ("src", "href", "data", "action") if key in a]
    assert addresses and all(value.startswith(("data:image/", "#")) for value in addresses)
    policy = next(a["content"] for name, a in reader.tags if name == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none'") and "script" not in policy
    assert "url(" not in render(everything("word")) and "@import" not in render(everything("word"))


def test_whoever_does_not_see_the_page_is_told() -> None:
    reader = Reader(render(everything("word")))
    assert all(a["alt"] == "word" for name, a in reader.tags if name == "img")
    images = [a for name, a in reader.tags if name == "svg" and a.get("aria-hidden") != "true"]
    assert len(images) == 7 and all(a["role"] == "img" for a in images)
    assert [name for name, _ in reader.tags if name == "desc"] == ["desc"] * 7
    assert {"header", "nav", "main", "footer"} <= {name for name, _ in reader.tags}
    assert next(a for name, a in reader.tags if name == "html")["lang"] == "en"


def test_a_page_says_what_is_missing() -> None:
    assert everything("word").missing == ["word"]


def test_pictures_shrink_and_masks_keep_their_colours() -> None:
    import base64
    from io import BytesIO

    from PIL import Image

    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (40, 3), dtype=np.uint8)
    mask = colours[rng.integers(0, 40, (60, 90))]
    shown = picture(mask, "mask", exact=True)
    decoded = np.array(Image.open(BytesIO(base64.b64decode(shown.data.partition(",")[2]))).convert("RGB"))
    assert np.array_equal(decoded, mask)
    small = picture(mask, "mask", width=45)
    assert (small.width, small.height) == (45, 30) and small.data.startswith("data:image/jpeg")
