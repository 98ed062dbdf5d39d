"""SVG shapes and scales for the report's plots, without a plotting library.

Colours are CSS classes, so that one drawing suits light and dark pages; `STYLE` defines them. The same input gives the
same drawing.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape as escape_markup

from fer_deploy.errors import printable

STYLE = """
.plot { font: 12px system-ui, -apple-system, "Segoe UI", sans-serif; }
.plot text { fill: #333; }
.plot .small { font-size: 10.5px; }
.plot .title { font-size: 13px; font-weight: 600; }
.plot .axis { stroke: #888; stroke-width: 1; fill: none; }
.plot .grid { stroke: #e4e4e4; stroke-width: 1; }
.plot .front { stroke: #555; stroke-width: 1.4; fill: none; stroke-dasharray: 5 3; }
.plot .bar { stroke-width: 1.2; opacity: .55; }
.plot .mark { stroke-width: 1.6; }
.plot .tick { stroke: #333; stroke-width: 1.4; }
.plot .c0 { fill: #0072B2; stroke: #0072B2; }
.plot .c1 { fill: #D55E00; stroke: #D55E00; }
.plot .c2 { fill: #009E73; stroke: #009E73; }
.plot .c3 { fill: #CC79A7; stroke: #CC79A7; }
.plot .c4 { fill: #E69F00; stroke: #E69F00; }
.plot .c5 { fill: #56B4E9; stroke: #56B4E9; }
.plot .hollow { fill: none; }
.plot .cell { fill: #0072B2; }
.plot .light { fill: #fff; }
@media (prefers-color-scheme: dark) {
  .plot text { fill: #ddd; }
  .plot .grid { stroke: #3a3a3a; }
  .plot .front { stroke: #bbb; }
  .plot .tick { stroke: #eee; }
  .plot .c0 { fill: #4FA8E0; stroke: #4FA8E0; }
  .plot .c1 { fill: #F08A4B; stroke: #F08A4B; }
  .plot .c2 { fill: #3CC79B; stroke: #3CC79B; }
  .plot .hollow { fill: none; }
}
"""
"""The colours are Okabe and Ito's, which colour-blind readers can distinguish."""

CHARACTER = 6.4
"""Assumed width of a label's character, in pixels."""

SMALL = 10.5
"""Height of the letters of the style `small`, in pixels."""


def escape(text: str) -> str:
    """Text for the page: markup escaped, and control characters, which a model's name may hold, made visible."""
    return escape_markup(printable(text))


def text_width(content: str) -> int:
    """About how wide a small text is, in pixels: East Asian characters are as wide as they are high."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in content)
    return round(CHARACTER * (len(content) - wide) + SMALL * wide)


def shortened(content: str, *, maximum: int = 24) -> str:
    """A text of at most so many characters."""
    return content if len(content) <= maximum else content[: maximum - 1] + "…"


@dataclass(frozen=True)
class Scale:
    """Maps figures to pixels along one axis, linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """The pixel of a figure; figures outside the axis are clipped to its ends."""
        value = min(max(value, self.low), self.high)
        if self.logarithmic:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round figures along the axis."""
        return _log_ticks(self.low, self.high) if self.logarithmic else _linear_ticks(self.low, self.high)


@dataclass(frozen=True)
class Label:
    """A text next to a point."""

    x: float
    y: float
    text: str


def spread(values: Iterable[float], *, logarithmic: bool) -> tuple[float, float]:
    """The ends of an axis that shows all of `values` with some room."""
    values = list(values)
    low, high = min(values), max(values)
    if logarithmic:
        return low / 1.35, high * 1.6
    room = max((high - low) * 0.12, 0.25)
    return low - room, high + room


def svg(width: int, height: int, parts: Iterable[str], *, title: str, standalone: bool = False) -> str:
    """A drawing; a standalone one includes its style and namespace."""
    style = f"<style>{STYLE}</style>" if standalone else ""
    space = ' xmlns="http://www.w3.org/2000/svg"' if standalone else ""
    body = "\n".join(parts)
    return (
        f'<svg{space} class="plot" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(title)}">{style}\n{body}\n</svg>'
    )


def line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    """A straight line."""
    return f'<line class="{style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def text(x: float, y: float, content: str, *, anchor: str = "start", style: str = "") -> str:
    """A text; `anchor` is start, middle or end."""
    named = f' class="{style}"' if style else ""
    return f'<text{named} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(content)}</text>'


def turned_text(x: float, y: float, content: str) -> str:
    """A text that reads upwards, centred at (x, y)."""
    turn = f"rotate(-90 {x:.1f} {y:.1f})"
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle" transform="{turn}">{escape(content)}</text>'


def upward_text(x: float, y: float, content: str, *, style: str) -> str:
    """A text that reads upwards and begins at (x, y)."""
    turn = f"rotate(-90 {x:.1f} {y:.1f})"
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" transform="{turn}">{escape(content)}</text>'


def mark(x: float, y: float, style: str, *, shape: str = "circle", size: float = 4.5) -> str:
    """A point: a circle, a square or a diamond."""
    if shape == "square":
        return (
            f'<rect class="mark {style}" x="{x - size:.1f}" y="{y - size:.1f}" width="{2 * size}" height="{2 * size}"/>'
        )
    if shape == "diamond":
        points = ((x, y - size - 1), (x + size + 1, y), (x, y + size + 1), (x - size - 1, y))
        return f'<polygon class="mark {style}" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in points)}"/>'
    return f'<circle class="mark {style}" cx="{x:.1f}" cy="{y:.1f}" r="{size}"/>'


def path(points: Sequence[tuple[float, float]], style: str, *, closed: bool = False) -> str:
    """A line through points."""
    steps = " L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f'<path class="{style}" d="M{steps}{" Z" if closed else ""}"/>'


def hover(parts: Iterable[str], tip: str, *, style: str = "", key: str = "") -> str:
    """Shapes that show `tip` when the pointer rests on them; `key` names them to the page's script."""
    named = f' class="{style}"' if style else ""
    keyed = f' data-key="{escape(key)}"' if key else ""
    return f"<g{named}{keyed}><title>{escape(tip)}</title>{''.join(parts)}</g>"


MOST_OVERLAP = 30.0
"""Square pixels of a label that may lie on something else."""


def place_labels(
    labels: Sequence[Label], *, left: float, right: float, top: float, bottom: float
) -> list[tuple[float, float, str, str]]:
    """Where to write each label, as (x, y, anchor, text): at one of its corners if possible.

    Earlier labels choose first. A label without room has an empty text.
    """
    taken = [(label.x - 5, label.y - 5, label.x + 5, label.y + 5) for label in labels]
    placed = []
    for label in labels:
        width = len(label.text) * CHARACTER
        tried = [
            (label.x + 7, label.y - 6, "start", label.x + 7),
            (label.x - 7, label.y - 6, "end", label.x - 7 - width),
            (label.x + 8, label.y + 13, "start", label.x + 8),
            (label.x - 8, label.y + 13, "end", label.x - 8 - width),
            (label.x, label.y - 9, "middle", label.x - width / 2),
            (label.x, label.y + 18, "middle", label.x - width / 2),
            (label.x + 8, label.y + 4, "start", label.x + 8),
            (label.x + 8, label.y + 28, "start", label.x + 8),
        ]

        def overlap(choice: tuple[float, float, str, float], width: float = width) -> float:
            _, y, _, start = choice
            box = (start, y - 11, start + width, y + 3)
            outside = (
                max(0.0, left - box[0]) + max(0.0, box[2] - right) + max(0.0, top - box[1]) + max(0.0, box[3] - bottom)
            )
            return 50 * outside + sum(_common(box, other) for other in taken)

        best = min(tried, key=overlap)
        x, y, anchor, start = best
        if overlap(best) > MOST_OVERLAP:
            placed.append((x, y, anchor, ""))
            continue
        taken.append((start, y - 11, start + width, y + 3))
        placed.append((x, y, anchor, label.text))
    return placed


def number(value: float) -> str:
    """A tick's figure without trailing zeros."""
    return f"{value:.10f}".rstrip("0").rstrip(".") if value < 1e6 else f"{value:g}"


def _common(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = [round(step * 10.0**decade, 12) for decade in decades for step in steps]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= 9:
            break
    return ticks


def _linear_ticks(low: float, high: float) -> list[float]:
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 10) for index in range(first, math.floor(high / step + 1e-9) + 1)]
