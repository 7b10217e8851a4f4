"""A line chart as SVG, without a library: both axes logarithmic, or the upright one from 0; one line for each series.

It stands on white paper of its own, so that it reads alike on light and on dark pages.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 70, 190, 40, 50  # room for the axes' texts, and for the series' names at the right
COLOURS = ("#c2410c", "#2563eb", "#15803d", "#9333ea", "#b45309", "#0e7490")
NAME_HEIGHT = 16  # pixels that one name needs

Points = Sequence[tuple[float, float]]


def chart(
    path: Path, title: str, x_label: str, y_label: str, series: Mapping[str, Points], *, from_zero: bool = False
) -> None:
    """Write the chart of these series to `path`. Every number is above 0."""
    xs = sorted({x for points in series.values() for x, _ in points})
    ys = [y for points in series.values() for _, y in points]
    to_x = _scale(xs[0], xs[-1], LEFT, WIDTH - RIGHT)
    marks = _steps(max(ys)) if from_zero else _decades(min(ys), max(ys))
    to_y = (_even_scale if from_zero else _scale)(marks[0], marks[-1], HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'font-family="sans-serif" font-size="12">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        _text(LEFT, 20, title, size=14),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, x_label, anchor="middle"),
        _text(LEFT - 8, TOP - 8, y_label, anchor="end"),
    ]
    for mark in marks:
        y = to_y(mark)
        parts += [_line(LEFT, y, WIDTH - RIGHT, y), _text(LEFT - 8, y + 4, f"{mark:g}", anchor="end")]
    for x in xs:
        at = to_x(x)
        parts += [_line(at, TOP, at, HEIGHT - BOTTOM), _text(at, HEIGHT - BOTTOM + 18, f"{x:,g}", anchor="middle")]
    places = _apart({name: to_y(points[-1][1]) for name, points in series.items()})
    for (name, points), colour in zip(series.items(), COLOURS, strict=False):
        line = " ".join(f"{to_x(x):.1f},{to_y(y):.1f}" for x, y in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{to_x(x):.1f}" cy="{to_y(y):.1f}" r="3" fill="{colour}"/>' for x, y in points]
        parts.append(_text(WIDTH - RIGHT + 10, places[name] + 4, name, colour=colour))
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join([*parts, "</svg>", ""]))


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    width = math.log(high / low) or 1.0
    return lambda value: start + (end - start) * math.log(value / low) / width


def _even_scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    return lambda value: start + (end - start) * (value - low) / (high - low)


def _decades(low: float, high: float) -> list[float]:
    return [10.0**decade for decade in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]


def _steps(high: float) -> list[float]:
    """From 0 to above `high` in four to ten even steps."""
    decade = 10.0 ** math.floor(math.log10(high))
    step = next(step for step in (decade / 5, decade / 2, decade) if high <= 10 * step)
    return [step * number for number in range(math.ceil(high / step) + 1)]


def _apart(wanted: Mapping[str, float]) -> dict[str, float]:
    """Places for names near where their lines end, none upon another."""
    places: dict[str, float] = {}
    least = -math.inf
    for name in sorted(wanted, key=lambda one: wanted[one]):
        places[name] = max(wanted[name], least)
        least = places[name] + NAME_HEIGHT
    return places


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#dddddd"/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", colour: str = "#222222", size: int = 12) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" font-size="{size}"'
    return f"<text {place}>{escape(text)}</text>"
