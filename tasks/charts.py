"""Charts as SVG: a histogram, and curves over a common axis.

In: numbers with their names.
Out: one SVG document of a few kilobytes, and the same as a data URI.
Promise: equal numbers give equal text; a chart needs no font, script or picture from elsewhere.
Never: holds text of a document.
"""

import base64
import math
from dataclasses import dataclass
from html import escape

WIDTH, PANEL_HEIGHT = 720, 210
LEFT, RIGHT, TOP, BOTTOM = 64, 20, 44, 48
PAPER, INK, FAINT, COLOURS = "#ffffff", "#24292f", "#d0d7de", ("#1f6feb", "#d1242f")
MAX_POINTS = 150
"""Of a curve: more would not be seen, and every chart is kept in the server's database."""
_STEPS = (1, 2, 2.5, 5, 10)


@dataclass(frozen=True)
class Bar:
    """One bar of a histogram; its label stands at its left edge, where a new range begins."""

    label: str
    count: int


@dataclass(frozen=True)
class Mark:
    """A vertical line in a histogram, ``at`` so many bars from the left."""

    label: str
    at: float


@dataclass(frozen=True)
class Curve:
    """One panel: (x, y) in order of x."""

    label: str
    points: list[tuple[float, float]]


def histogram(title: str, axis: str, bars: list[Bar], mark: Mark | None = None) -> str:
    """Counts of adjacent ranges; each bar has its number."""
    inside = WIDTH - LEFT - RIGHT
    width = inside / max(1, len(bars))
    highest = max((bar.count for bar in bars), default=0) or 1
    parts = [_y_axis(TOP, 0.0, _nice_top(highest))]
    for position, bar in enumerate(bars):
        height = PANEL_HEIGHT * bar.count / _nice_top(highest)
        x, y = LEFT + position * width, TOP + PANEL_HEIGHT - height
        if bar.count:
            parts.append(f'<rect x="{x + 1:.1f}" y="{y:.1f}" width="{width - 2:.1f}" height="{max(height, 1):.1f}"/>')
            parts.append(_text(x + width / 2, y - 5, short(bar.count), size=10))
        parts.append(_text(x, TOP + PANEL_HEIGHT + 16, bar.label, size=11))
    if mark is not None:
        x = LEFT + mark.at * width
        parts.append(f'<path d="M{x:.1f} {TOP}V{TOP + PANEL_HEIGHT}" stroke="{COLOURS[1]}" stroke-dasharray="4 3"/>')
        parts.append(_text(x - 6, TOP + 12, mark.label, anchor="end", colour=COLOURS[1]))
    parts.append(_text(LEFT + inside / 2, TOP + PANEL_HEIGHT + 38, axis))
    return _document(title, TOP + PANEL_HEIGHT + BOTTOM, parts)


def curves(title: str, axis: str, panels: list[Curve]) -> str:
    """One panel above the other, over the same x."""
    first = min((x for panel in panels for x, _ in panel.points), default=0.0)
    last = max((x for panel in panels for x, _ in panel.points), default=1.0)
    parts: list[str] = []
    for number, panel in enumerate(panels):
        top = TOP + number * (PANEL_HEIGHT + BOTTOM)
        parts += _panel(panel, top, first, last, COLOURS[number % len(COLOURS)])
    bottom = TOP + len(panels) * (PANEL_HEIGHT + BOTTOM)
    parts.append(_text(LEFT + (WIDTH - LEFT - RIGHT) / 2, bottom - 10, axis))
    return _document(title, bottom, parts)


def data_uri(svg: str) -> str:
    """The picture itself as its address: nothing has to be fetched from anywhere."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"


def short(number: float) -> str:
    """A number as axes have it: 950, 1.2k, 30M, 2e-05."""
    if number and abs(number) < 0.01:
        return f"{number:.3g}"
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.4g}"


def _panel(panel: Curve, top: float, first: float, last: float, colour: str) -> list[str]:
    points = _thinned(panel.points)
    low, high = _y_range([y for _, y in points])
    across, down = (WIDTH - LEFT - RIGHT) / max(last - first, 1e-12), PANEL_HEIGHT / (high - low)
    placed = [(LEFT + (x - first) * across, top + (high - y) * down) for x, y in points]
    line = "L".join(f"{x:.1f} {y:.1f}" for x, y in placed)
    label = f"{panel.label} {short(points[-1][1])}" if points else panel.label
    parts = [_y_axis(top, low, high), _text(LEFT, top - 8, label, anchor="start", colour=colour)]
    parts += [
        _text(LEFT + (x - first) * across, top + PANEL_HEIGHT + 16, short(x), size=11) for x in _ticks(first, last)
    ]
    if len(placed) > 1:
        parts.append(f'<path d="M{line}" fill="none" stroke="{colour}" stroke-width="2" stroke-linejoin="round"/>')
    parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in placed[-1:]]
    return parts


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most MAX_POINTS, each the mean of its neighbours; the last point stays what it is. Only finite numbers."""
    points = [point for point in points if math.isfinite(point[1])]
    size = -(-len(points) // MAX_POINTS)
    if size <= 1:
        return points
    groups = [points[start : start + size] for start in range(0, len(points) - 1, size)]
    means = [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]
    return [*means, points[-1]]


def _y_axis(top: float, low: float, high: float) -> str:
    lines = []
    for value in _ticks(low, high):
        y = top + (high - value) * PANEL_HEIGHT / (high - low)
        lines.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="{FAINT}"/>')
        lines.append(_text(LEFT - 8, y + 4, short(value), anchor="end", size=11))
    return "".join(lines)


def _y_range(values: list[float]) -> tuple[float, float]:
    """From a round number below the values to a round number above them."""
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    step = _step(low, high)
    low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    return (low, high) if high > low else (low, low + step)


def _ticks(low: float, high: float) -> list[float]:
    step = _step(low, high)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{number * step:.10g}") for number in range(first, last + 1)]


def _step(low: float, high: float) -> float:
    """The round distance that divides a range into about five."""
    rough = (high - low) / 5 or abs(high) / 5 or 1.0
    magnitude = 10.0 ** math.floor(math.log10(rough))
    return next(step for step in _STEPS if step * magnitude >= rough * 0.999) * magnitude


def _nice_top(highest: float) -> float:
    return _y_range([0.0, highest * 1.05])[1]


def _text(x: float, y: float, text: str, *, anchor: str = "middle", size: int = 12, colour: str = INK) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{colour}">{escape(text)}</text>'
    )


def _document(title: str, height: float, parts: list[str]) -> str:
    heading = _text(WIDTH / 2, 20, title, size=15)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:.0f}" fill="{COLOURS[0]}"'
        f' font-family="system-ui,sans-serif"><rect width="100%" height="100%" rx="6" fill="{PAPER}"/>'
        f"{heading}{''.join(parts)}</svg>"
    )
