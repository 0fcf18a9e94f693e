"""Quality against what it costs: one drawing for each kind of cost and kind of device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from harness.measures import MEASURES, Measure
from harness.render.svg import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Scale,
    axes,
    drawing,
    el,
    marker,
    path,
    place_labels,
    shortened,
    spanning,
)
from harness.report.blocks import figure
from harness.report.model import Cell

BAND = 74
"""Room at the left for strategies that cost nothing of this kind: a logarithm has no place for 0."""

LOG_FROM = 3
"""The axis is logarithmic from this ratio of the largest to the smallest."""
NEAR = 7.0


@dataclass(frozen=True, slots=True)
class Drawn:
    """A measure on the x axis. by_device: it means nothing across devices."""

    measure: Measure
    title: str
    axis: str

    @property
    def by_device(self) -> bool:
        return self.measure.by_device


def drawn() -> list[Drawn]:
    """The measures that have a chart."""
    return [Drawn(own, *own.chart) for own in MEASURES if own.chart]


@dataclass(frozen=True, slots=True)
class View:
    """One drawing of the switch. missing: labels that have no such figure."""

    title: str
    svg: Markup
    missing: tuple[str, ...]


def views(cells: Sequence[Cell], series: dict[str, int]) -> Iterator[View]:
    """Every cost that was measured, on every kind of device by itself. Shares and sizes stand together."""
    devices = list(dict.fromkeys(cell.costs.device for cell in cells if cell.costs.device))
    for kind in sorted(drawn(), key=lambda own: not own.by_device):
        if not kind.by_device:
            if view := _view(kind, kind.title, cells, series):
                yield view
            continue
        for device in devices:
            title = kind.title if len(devices) == 1 else f"{kind.title} ({device})"
            own = [cell for cell in cells if cell.costs.device == device]
            if view := _view(kind, title, own, series):
                yield view


def _view(kind: Drawn, title: str, cells: Sequence[Cell], series: dict[str, int]) -> View | None:
    points: list[tuple[Cell, float]] = []
    missing = []
    for cell in cells:
        value = cell.costs.get(kind.measure.field)
        if value is None and not cell.trains:
            value = 0.0  # nothing was trained, and nothing saved
        if value is None:
            missing.append(cell.label)
        else:
            points.append((cell, value / kind.measure.scale))
    if not any(value > 0 for _, value in points):
        return None
    return View(title, _draw(kind, points, series), tuple(missing))


def _draw(kind: Drawn, points: Sequence[tuple[Cell, float]], series: dict[str, int]) -> Markup:
    above = [value for _, value in points if value > 0]
    log = max(above) / min(above) > LOG_FROM
    none = any(value <= 0 for _, value in points)
    start = LEFT + (BAND if none else 8)
    x = spanning(above, start, WIDTH - RIGHT, log=log, floor=0)
    ends = [
        end
        for cell, _ in points
        for end in (cell.accuracy.low, cell.accuracy.high, cell.accuracy.value)
        if end is not None
    ]
    y = spanning([end * 100 for end in ends], HEIGHT - BOTTOM, TOP)
    at = _side_by_side(
        [(x(value) if value > 0 else LEFT + BAND / 2, y(cell.accuracy.value * 100)) for cell, value in points]
    )
    parts = [axes(x, y, f"{kind.axis}{' (log scale)' if log else ''}", "accuracy, %")]
    if none:
        edge = LEFT + BAND - 4
        parts += [
            el("line", x1=edge, x2=edge, y1=TOP, y2=HEIGHT - BOTTOM, class_="band"),
            el("text", "none", x=LEFT + BAND / 2, y=HEIGHT - BOTTOM + 17, class_="tick middle"),
        ]
    parts.append(_front(points, at))
    for (cell, value), (px, py) in zip(points, at, strict=True):
        parts.append(_point(kind, cell, value, px, py, y, series[cell.label]))
    named = [(px, py, _named(cell)) for (cell, _), (px, py) in zip(points, at, strict=True)]
    for (cell, _), (_, _, name), (lx, ly, anchor) in zip(
        points, named, place_labels(named, HEIGHT - BOTTOM), strict=True
    ):
        parts.append(el("text", name, x=lx, y=ly, class_=f"label {anchor}", data_series=series[cell.label]))
    return drawing(*parts, title=f"Accuracy against {kind.axis}")


def _named(cell: Cell) -> str:
    """What stands beside a point; of a method that varies and was run once, that it was."""
    name = shortened(cell.label)
    return f"{name} (1 run)" if cell.seeded and len(cell.seeds) == 1 else name


def _side_by_side(at: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points of equal cost a few pixels apart, so that none hides another's interval."""
    found = list(at)
    last = -NEAR
    for index in sorted(range(len(at)), key=lambda i: at[i][0]):
        px, py = at[index]
        last = max(px, last + NEAR) if last + NEAR - px < 6 * NEAR else px
        found[index] = (min(last, WIDTH - RIGHT), py)
    return found


def _point(kind: Drawn, cell: Cell, value: float, px: float, py: float, y: Scale, series: int) -> Markup:
    alone = " (one run, not the method)" if cell.seeded and len(cell.seeds) == 1 else ""
    tip = f"{cell.label}: {figure(cell.accuracy)} %{alone}, {kind.axis}: {value:,.4g}"
    parts = []
    if cell.accuracy.low is not None and cell.accuracy.high is not None:
        ends = (y(cell.accuracy.low * 100), y(cell.accuracy.high * 100))
        parts.append(el("line", x1=px, x2=px, y1=ends[0], y2=ends[1], class_=f"whisker s{series % 8}"))
    parts.append(marker(series, px, py, tip))
    return el("g", *parts, data_series=series)


def _front(points: Sequence[tuple[Cell, float]], at: Sequence[tuple[float, float]]) -> Markup:
    """The steps through the strategies that none beats in both accuracy and cost."""
    order = sorted(range(len(points)), key=lambda i: (points[i][1], -points[i][0].accuracy.value))
    steps: list[tuple[float, float]] = []
    best = -1.0
    for index in order:
        value = points[index][0].accuracy.value
        if value > best:
            px, py = at[index]
            if steps:
                steps.append((px, steps[-1][1]))
            steps.append((px, py))
            best = value
    return path(steps, class_="front") if len(steps) > 1 else Markup("")
