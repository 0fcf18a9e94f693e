"""Just enough SVG for a report's charts: elements with everything escaped, scales, axes, labels.

Colours are classes (s0 to s7 for series) that the report's style sheet fills in for light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

from markupsafe import Markup, escape

WIDTH, HEIGHT = 620, 380
LEFT, RIGHT, TOP, BOTTOM = 58, 16, 14, 46
SERIES = 8
"""Colours; series beyond them differ by the marker's shape."""
SHAPES = 5
LETTER = 6.4
"""Width of a letter at the charts' 12 px, for placing labels."""
LONGEST_LABEL = 30


def el(name: str, *children: object, **attributes: object) -> Markup:
    """An element. Attribute names: `class_` is class, `_` is -; None leaves an attribute out."""
    told = "".join(
        f' {_name(key)}="{_short(value)}"' for key, value in attributes.items() if value is not None
    )
    if not children:
        return Markup(f"<{name}{told}/>")  # noqa: S704 (attributes are escaped above)
    inner = "".join(child if isinstance(child, Markup) else escape(child) for child in children)
    return Markup(f"<{name}{told}>{inner}</{name}>")  # noqa: S704


@cache
def _name(key: str) -> str:
    return key.rstrip("_").replace("_", "-")


def _short(value: object) -> str:
    if isinstance(value, int | float):
        return f"{value:.1f}".removesuffix(".0")
    return _escaped(str(value))


@lru_cache(maxsize=1024)
def _escaped(text: str) -> Markup:
    return escape(text)


@dataclass(frozen=True, slots=True)
class Scale:
    """Data to pixels. With `log` the data must be above 0."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = math.log10(low), math.log10(high), math.log10(value)
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        return log_ticks(self.low, self.high) if self.log else linear_ticks(self.low, self.high)


def spanning(
    values: Sequence[float], start: float, end: float, *, log: bool = False, floor: float | None = None
) -> Scale:
    """A scale with some room around the values."""
    low, high = min(values), max(values)
    if log:
        return Scale(low / 1.4, high * 1.6, start, end, log=True)
    room = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    low = low - room if floor is None else max(floor, low - room)
    return Scale(low, high + room, start, end)


def linear_ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round values between the two."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten between the two; with 2 and 5 where there are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1,) if len(powers) > 4 else (1, 2, 5)
    return [tick for p in powers for f in factors if low <= (tick := f * 10.0**p) <= high]


def axes(x: Scale, y: Scale, x_title: str, y_title: str, *, height: float = HEIGHT) -> Markup:
    """Grid lines with their figures, and what the axes show."""
    bottom, parts = height - BOTTOM, []
    for tick in y.ticks():
        parts += [
            el("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y(tick), y2=y(tick), class_="grid"),
            el("text", _tick(tick), x=LEFT - 6, y=y(tick) + 4, class_="tick end"),
        ]
    for tick in x.ticks():
        parts += [
            el("line", x1=x(tick), x2=x(tick), y1=bottom, y2=bottom + 4, class_="axis"),
            el("text", _tick(tick), x=x(tick), y=bottom + 17, class_="tick middle"),
        ]
    middle = (TOP + bottom) / 2
    parts += [
        el("line", x1=LEFT, x2=WIDTH - RIGHT, y1=bottom, y2=bottom, class_="axis"),
        el("text", x_title, x=(LEFT + WIDTH - RIGHT) / 2, y=height - 8, class_="title middle"),
        el("text", y_title, x=14, y=middle, transform=f"rotate(-90 14 {middle:.0f})", class_="title middle"),
    ]
    return Markup("").join(parts)


def _tick(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.6g}"


def marker(series: int, x: float, y: float, tip: str, *, size: float = 6, focus: bool = True) -> Markup:
    """A point with a shape of its own; `tip` is shown on hover and on focus, and read out."""
    shapes = (
        f"M{x - size:.1f},{y:.1f}a{size:.1f},{size:.1f} 0 1,0 {2 * size:.1f},0a{size:.1f},{size:.1f} 0 1,0 {-2 * size:.1f},0",
        _polygon(x, y, ((-size, -size), (size, -size), (size, size), (-size, size)), 0.88),
        _polygon(x, y, ((0, -size), (size, size), (-size, size)), 1.15),
        _polygon(x, y, ((0, -size), (size, 0), (0, size), (-size, 0)), 1.25),
        _polygon(x, y, ((-size, -size), (size, -size), (0, size)), 1.15),
    )
    return el(
        "path", d=shapes[series % SHAPES], class_=f"mark {colour(series)}", data_series=series, data_tip=tip,
        tabindex=0 if focus else None, role="img" if focus else None, aria_label=tip if focus else None,
    )  # fmt: skip


def _polygon(x: float, y: float, corners: Sequence[tuple[float, float]], grow: float) -> str:
    return "M" + "L".join(f"{x + dx * grow:.1f},{y + dy * grow:.1f}" for dx, dy in corners) + "Z"


def colour(series: int) -> str:
    return f"s{series % SERIES}"


def path(points: Sequence[tuple[float, float]], **attributes: object) -> Markup:
    """A line through pixels, which are whole: a tenth of one is not seen and costs room."""
    return el("path", d="M" + "L".join(f"{x:.0f},{y:.0f}" for x, y in points), **attributes)


def place_labels(points: Sequence[tuple[float, float, str]], bottom: float) -> list[tuple[float, float, str]]:
    """(x, y, anchor) of each label beside its point, where it covers neither a point nor a label."""
    taken = [(x - 8, y - 8, x + 8, y + 8) for x, y, _ in points]
    found = []
    for x, y, label in points:
        wide = len(label) * LETTER
        choices = [
            (x + 11, y + 4, "start"), (x - 11, y + 4, "end"), (x, y - 12, "middle"), (x, y + 20, "middle"),
            (x + 11, y - 10, "start"), (x + 11, y + 18, "start"), (x - 11, y - 10, "end"), (x - 11, y + 18, "end"),
            (x + 11, y - 24, "start"), (x + 11, y + 32, "start"),
        ]  # fmt: skip

        def cost(choice: tuple[float, float, str], wide: float = wide) -> float:
            box = _box(choice, wide)
            outside = (
                max(0, LEFT - box[0]) + max(0, box[2] - WIDTH) + max(0, -box[1]) + max(0, box[3] - bottom)
            )
            return 10 * outside + _covered(box, taken)

        best = min(choices, key=cost)
        taken.append(_box(best, wide))
        found.append(best)
    return found


Box = tuple[float, float, float, float]


def _box(choice: tuple[float, float, str], wide: float) -> Box:
    x, y, anchor = choice
    left = {"start": x, "middle": x - wide / 2, "end": x - wide}[anchor]
    return (left, y - 11, left + wide, y + 3)


def _covered(box: Box, others: Sequence[Box]) -> float:
    """The area of a box that others cover."""
    left, top, right, bottom = box
    return sum(
        (min(right, x1) - max(left, x0)) * (min(bottom, y1) - max(top, y0))
        for x0, y0, x1, y1 in others
        if x0 < right and x1 > left and y0 < bottom and y1 > top
    )


def shortened(label: str) -> str:
    return label if len(label) <= LONGEST_LABEL else f"{label[: LONGEST_LABEL - 1]}…"


def drawing(*parts: object, title: str, height: float = HEIGHT) -> Markup:
    """A whole chart; `title` is what it is called when it cannot be seen."""
    return el("svg", *parts, viewBox=f"0 0 {WIDTH} {height:.0f}", role="group", aria_label=title)
