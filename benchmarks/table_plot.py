"""The picture beside the table: drop against seconds as SVG, one panel a setting and width.

Plain paths and no plotting library, as in edgeq/report: equal figures give equal bytes, and the colours follow the
reader's light or dark style. Both axes are logarithmic; what lies below the lowest drop is drawn there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from table_cells import Cells
from table_rows import BITS, PAIRS, SETTINGS

from edgeq.core.recipes import DEFAULT_RECIPE

# One panel, and what is around it.
WIDTH, HEIGHT = 168, 190
LEFT, TOP, GAP_X, GAP_Y = 44, 64, 14, 58
SECONDS = (3.0, 1000.0)
POINTS = (0.03, 100.0)
SECOND_TICKS = (10, 60, 180, 600)
POINT_TICKS = (0.1, 1, 10, 100)

KINDS = {
    "default": "edgeq",
    "data": "data recipe + edgeq",
    "numbers": "edgeq + numbers recipe",
    "pair": "published pair",
}
STYLE = """
  text { font: 11px system-ui, sans-serif; fill: #1b1f24; }
  .soft { fill: #59636e; }
  .grid { stroke: #d5dae0; stroke-width: 1; }
  .line { fill: none; stroke-width: 1; opacity: 0.7; }
  .default { stroke: #d1242f; fill: #d1242f; } .data { stroke: #1f6feb; fill: #1f6feb; }
  .numbers { stroke: #2f8f4e; fill: #2f8f4e; } .pair { stroke: #9a5b00; fill: #9a5b00; }
  .line.default { stroke-width: 2.5; opacity: 1; }
  .line.default, .line.data, .line.numbers, .line.pair, .own { fill: none; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6e9ed; } .soft { fill: #9aa4af; } .grid { stroke: #343b44; }
    .default { stroke: #ff7b72; fill: #ff7b72; } .data { stroke: #79b0ff; fill: #79b0ff; }
    .numbers { stroke: #6fcf8e; fill: #6fcf8e; } .pair { stroke: #e0a95a; fill: #e0a95a; }
    .line.default, .line.data, .line.numbers, .line.pair, .own { fill: none; }
  }
"""


def draw_table(cells: Cells) -> str:
    """Return the picture of every cell that is not stale."""
    width = LEFT + len(BITS) * (WIDTH + GAP_X)
    height = TOP + len(SETTINGS) * (HEIGHT + GAP_Y)
    words = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        "<title>Drop in points of top-1 against processor seconds, by setting and bits</title>",
        f"<style>{STYLE}</style>",
        *_legend(),
    ]
    for line, setting in enumerate(SETTINGS):
        for column, bits in enumerate(BITS):
            x, y = LEFT + column * (WIDTH + GAP_X), TOP + line * (HEIGHT + GAP_Y)
            found = _lines(cells, setting, bits)
            words += [f'<g transform="translate({x} {y})">', *_axes(setting, bits, column == 0)]
            words += [word for pair, dots in found for word in _curve(pair, dots)]
            words.append("</g>")
    return "\n".join([*words, "</svg>", ""])


# Seconds, points, and whether the budget is a published one.
Dot = tuple[float, float, bool]


def _lines(cells: Cells, setting: str, bits: str) -> list[tuple[str, list[Dot]]]:
    """Return the dots of each pair, by seconds; the default comes last, and so lies above."""
    found: dict[str, list[Dot]] = {}
    for (place, budget, pair, width), cell in cells.items():
        if (place, width) == (setting, bits) and not cell.is_stale:
            dot = (cell.mean("cpu_s"), cell.drop.points, budget == "own")
            found.setdefault(pair, []).append(dot)
    order = sorted(found, key=lambda pair: (_kind(pair) == "default", pair))
    return [(pair, sorted(found[pair])) for pair in order]


def _kind(pair: str) -> str:
    data, numbers = pair.split("+")
    if pair in PAIRS or DEFAULT_RECIPE not in (data, numbers):
        return "pair"
    if data == numbers:
        return "default"
    return "data" if numbers == DEFAULT_RECIPE else "numbers"


def _curve(pair: str, dots: Sequence[Dot]) -> list[str]:
    kind = _kind(pair)
    timed = [(_x(seconds), _y(points)) for seconds, points, is_own in dots if not is_own]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in timed)
    words = [f'<path class="line {kind}" d="M{path}"/>'] if len(timed) > 1 else []
    for seconds, points, is_own in dots:
        words.append(
            f'<circle class="{kind}{" own" if is_own else ""}" cx="{_x(seconds):.1f}" cy="{_y(points):.1f}" '
            f'r="{3.5 if kind == "default" else 2}">'
            f"<title>{escape(pair)}: {points:.2f} points, {seconds:.0f} s</title></circle>"
        )
    return words


def _axes(setting: str, bits: str, is_first: bool) -> list[str]:
    words = [f'<text y="-8">{setting}, {bits}</text>']
    for tick in POINT_TICKS:
        y = _y(tick)
        words.append(f'<path class="grid" d="M0 {y:.1f}H{WIDTH}"/>')
        if is_first:
            words.append(
                f'<text class="soft" x="-6" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>'
            )
    for tick in SECOND_TICKS:
        x = _x(tick)
        words.append(f'<path class="grid" d="M{x:.1f} 0V{HEIGHT}"/>')
        words.append(
            f'<text class="soft" x="{x:.1f}" y="{HEIGHT + 14}" text-anchor="middle">{tick}</text>'
        )
    return words


def _legend() -> list[str]:
    title = f"Drop in points of top-1 ({POINTS[0]:g} or less at the lower edge)"
    words = [f'<text x="{LEFT}" y="16">{title} against processor seconds</text>']
    x = LEFT
    for kind, name in KINDS.items():
        words.append(f'<circle class="{kind}" cx="{x + 4}" cy="30" r="3.5"/>')
        words.append(f'<text class="soft" x="{x + 12}" y="34">{name}</text>')
        x += 40 + 6 * len(name)
    words.append(
        f'<text class="soft" x="{x}" y="34">hollow: the method\'s own budget, cut if long</text>'
    )
    return words


def _x(seconds: float) -> float:
    return WIDTH * _share(seconds, *SECONDS)


def _y(points: float) -> float:
    return HEIGHT * (1 - _share(points, *POINTS))


def _share(value: float, low: float, high: float) -> float:
    """Return where a value lies between two others on a logarithmic axis, 0 to 1."""
    inside = min(max(value, low), high)
    return math.log(inside / low) / math.log(high / low)
