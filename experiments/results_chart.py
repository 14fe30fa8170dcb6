"""Draw the first chart of docs/results.md: each method's difference from `joint`, with its 95 % interval, as one SVG.

python experiments/results_chart.py results/compare-half.json docs/pictures/results.svg
"""

from __future__ import annotations

import sys
from pathlib import Path

from fewmask.comparison import compare
from fewmask.document.svg import Scale, drawing, path, tag, text, ticks

ROW, LEFT, WIDTH = 22.0, 170.0, 640.0
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #333; } .grid { stroke: #ddd; } .zero { stroke: #333; }
.noise { stroke: #777; fill: #777; } .sure { stroke: #b34700; fill: #b34700; } rect.paper { fill: #fff; }
"""


def main(source: str, target: str) -> None:
    result = compare([source])
    first, domains = result["methods"][0]["name"], result["methods"][0]["domains"]
    every = [pair for pair in result["comparisons"] if len(pair["domains"]) == len(domains)]
    pairs = sorted(every, key=lambda pair: -pair["avg_miou"]["difference"])
    ends = [100 * end for pair in pairs for end in pair["avg_miou"]["interval"]]
    scale = Scale(min(ends) - 0.5, max(ends) + 0.5, LEFT, WIDTH - 16)
    height = ROW * len(pairs) + 50
    drawn: list[object] = [tag("style", STYLE), tag("rect", class_="paper", width=WIDTH, height=height)]
    for value in ticks(scale.low, scale.high, 8):
        x = scale(value)
        drawn.append(tag("line", class_="zero" if value == 0 else "grid", x1=x, x2=x, y1=6, y2=ROW * len(pairs) + 10))
        drawn.append(text(f"{value:+g}".replace("-", "−").replace("+0", "0"), x, height - 24, "middle"))
    for row, pair in enumerate(pairs):
        d, y = pair["avg_miou"], ROW * row + ROW / 2 + 8
        low, high = (scale(100 * end) for end in d["interval"])
        x, kind = scale(100 * d["difference"]), "sure" if d["verdict"] in ("higher", "lower") else "noise"
        drawn.append(text(pair["b"], LEFT - 12, y + 4, "end"))
        drawn.append(tag("path", d=path([(low, y), (high, y)]), class_=kind, stroke_width="2"))
        drawn.append(tag("rect", x=x - 4, y=y - 4, width=8, height=8, class_=kind))
    below = f"points of mIoU against {first}, mean of {len(domains)} domains; 95 %"
    drawn.append(text(below, (LEFT + WIDTH) / 2, height - 6, "middle"))
    told = "; ".join(f"{pair['b']} {100 * pair['avg_miou']['difference']:+.1f}" for pair in pairs)
    image = drawing(WIDTH, height, f"Methods against {first}", told, *drawn)
    Path(target).write_text(
        str(image).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1), encoding="utf-8"
    )


if __name__ == "__main__":
    main(*sys.argv[1:3])
