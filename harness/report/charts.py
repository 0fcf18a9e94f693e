"""The charts of one data set other than the Pareto view: spread, curves, calibration, subgroups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from harness.render.numbers import percent
from harness.render.svg import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Scale,
    axes,
    colour,
    drawing,
    el,
    marker,
    path,
    shortened,
    spanning,
)
from harness.report.blocks import figure
from harness.report.chart_data import Extras
from harness.report.model import Cell, Figure

MOST_SUBGROUPS = 12
NAME_ROOM = 200
ROW = 26


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart with its caption."""

    title: str
    caption: str
    svg: Markup


def charts(cells: Sequence[Cell], extras: dict[str, Extras], series: dict[str, int]) -> list[Chart]:
    """Those charts for which there is something to show."""
    found = (
        _spread(cells, series),
        _curves(cells, extras, series),
        _reliability(cells, extras, series),
        _subgroups(cells, extras, series),
    )
    return [chart for chart in found if chart is not None]


def _strip_axes(x: Scale, height: float) -> Markup:
    bottom, parts = height - BOTTOM, []
    for tick in x.ticks():
        parts += [
            el("line", x1=x(tick), x2=x(tick), y1=TOP, y2=bottom, class_="grid"),
            el("text", f"{tick:g}", x=x(tick), y=bottom + 17, class_="tick middle"),
        ]
    parts.append(el("text", "accuracy, %", x=(x.start + x.end) / 2, y=height - 8, class_="title middle"))
    return Markup("").join(parts)


def _ends(value: Figure) -> tuple[float, float]:
    low = value.value if value.low is None else value.low
    high = value.value if value.high is None else value.high
    return low * 100, high * 100


def _spread(cells: Sequence[Cell], series: dict[str, int]) -> Chart:
    """A line for each strategy: its interval, its mean, and a dot for each seed."""
    height = TOP + ROW * len(cells) + BOTTOM + 6
    ends = [
        end for cell in cells for end in (*_ends(cell.accuracy), *(value * 100 for value in cell.by_seed))
    ]
    x = spanning(ends, LEFT + NAME_ROOM - 40, WIDTH - RIGHT)
    parts = [_strip_axes(x, height)]
    for index, cell in enumerate(cells):
        y, number = TOP + ROW * (index + 0.5) + 4, series[cell.label]
        low, high = _ends(cell.accuracy)
        own: list[Markup] = [
            el(
                "text",
                shortened(cell.label),
                el("title", cell.label),
                x=x.start - 10,
                y=y + 4,
                class_="label end",
            ),
            el("line", x1=x(low), x2=x(high), y1=y, y2=y, class_=f"whisker {colour(number)}"),
        ]
        for seed, value in zip(cell.seeds, cell.by_seed, strict=True):
            tip = f"{cell.label}, seed {seed}: {percent(value)} %"
            own.append(
                el("circle", cx=x(value * 100), cy=y, r=3.5, class_=f"dot {colour(number)}", data_tip=tip)
            )
        runs = f"{len(cell.seeds)} runs" if len(cell.seeds) > 1 else "one run"
        tip = f"{cell.label}: {figure(cell.accuracy)} %, {runs}"
        own.append(marker(number, x(cell.accuracy.value * 100), y, tip, size=5))
        parts.append(el("g", *own, data_series=number))
    caption = "The mean with its 95% interval over items and seeds; a small dot is one seed."
    alone = [cell.label for cell in cells if cell.seeded and len(cell.seeds) == 1]
    if alone:
        caption += (
            f" One run, whose interval is over items only and not about the method: {', '.join(alone)}."
        )
    return Chart(
        "Accuracy and its spread over seeds",
        caption,
        drawing(*parts, title="Accuracy by seed", height=height),
    )


def _curves(cells: Sequence[Cell], extras: dict[str, Extras], series: dict[str, int]) -> Chart | None:
    """Training loss of every run, and validation loss where there is one."""
    runs = [(cell, curve) for cell in cells if cell.label in extras for curve in extras[cell.label].curves]
    points = [point for _, curve in runs for point in (*curve.training, *curve.validation)]
    if not points:
        return None
    x = spanning([step for step, _ in points], LEFT, WIDTH - RIGHT, floor=0)
    y = spanning([loss for _, loss in points], HEIGHT - BOTTOM, TOP, floor=0)
    parts = [axes(x, y, "optimiser step", "loss, nats a token")]
    for cell, curve in runs:
        number = series[cell.label]
        tip = f"{cell.label}, seed {curve.seed}"
        for name, values in (("curve", curve.training), ("curve validation", curve.validation)):
            if values:
                line = [(x(step), y(loss)) for step, loss in values]
                kind = "training" if name == "curve" else "validation"
                parts.append(
                    path(
                        line,
                        class_=f"{name} {colour(number)}",
                        data_series=number,
                        data_tip=f"{tip}: {kind} loss",
                    )
                )
    caption = "Training loss of each run (means over neighbouring steps)"
    caption += "; dashed: validation." if any(curve.validation for _, curve in runs) else "."
    return Chart("Learning curves", caption, drawing(*parts, title="Loss by step"))


def _reliability(cells: Sequence[Cell], extras: dict[str, Extras], series: dict[str, int]) -> Chart | None:
    """How often an answer of a given confidence is right."""
    shown = [cell for cell in cells if cell.label in extras and extras[cell.label].bins]
    if not shown:
        return None
    x, y = Scale(0, 1, LEFT, WIDTH - RIGHT), Scale(0, 1, HEIGHT - BOTTOM, TOP)
    parts = [
        axes(x, y, "confidence (probability of the likeliest answer)", "share that is right"),
        path([(x(0), y(0)), (x(1), y(1))], class_="diagonal"),
    ]
    for cell in shown:
        number, bins = series[cell.label], extras[cell.label].bins
        most = max(b.n for b in bins)
        own = [path([(x(b.confidence), y(b.accuracy)) for b in bins], class_=f"curve {colour(number)}")]
        for b in bins:
            tip = f"{cell.label}: confidence {b.confidence:.2f}, right {b.accuracy:.2f}, {b.n:,} answers"
            own.append(
                marker(
                    number,
                    x(b.confidence),
                    y(b.accuracy),
                    tip,
                    size=2.5 + 3.5 * (b.n / most) ** 0.5,
                    focus=False,
                )
            )
        parts.append(el("g", *own, data_series=number))
    caption = "On the diagonal a model is as sure as it is right; below it, too sure. All seeds together; larger marks: more answers."
    return Chart("Reliability", caption, drawing(*parts, title="Reliability diagram"))


def _subgroups(cells: Sequence[Cell], extras: dict[str, Extras], series: dict[str, int]) -> Chart | None:
    """Bars for each part of the items, one for each strategy."""
    sizes: dict[str, int] = {}
    for own in extras.values():
        for name, (_, n) in own.subgroups.items():
            sizes[name] = n
    if not sizes:
        return None
    names = sorted(sorted(sizes, key=lambda name: -sizes[name])[:MOST_SUBGROUPS])
    shown = [cell for cell in cells if cell.label in extras and extras[cell.label].subgroups]
    thick = 11
    block = thick * len(shown) + 16
    height = TOP + block * len(names) + BOTTOM
    x = Scale(0, 100, LEFT + NAME_ROOM - 80, WIDTH - RIGHT)
    parts = [_strip_axes(x, height)]
    for index, name in enumerate(names):
        top = TOP + block * index + 8
        middle = top + thick * len(shown) / 2
        parts += [
            el("text", shortened(name)[:20], el("title", name), x=x.start - 10, y=middle, class_="label end"),
            el("text", f"n {sizes[name]:,}", x=x.start - 10, y=middle + 14, class_="tick end"),
        ]
        for place, cell in enumerate(shown):
            if name in extras[cell.label].subgroups:
                value, _ = extras[cell.label].subgroups[name]
                parts.append(_bar(x, top + thick * place, thick, cell, name, value, series[cell.label]))
    left_out = f" The {MOST_SUBGROUPS} largest of {len(sizes)}." if len(sizes) > len(names) else ""
    caption = f"Accuracy by part of the test items, with 95% intervals.{left_out}"
    return Chart("By subject", caption, drawing(*parts, title="Accuracy by subgroup", height=height))


def _bar(x: Scale, y: float, thick: int, cell: Cell, name: str, value: Figure, number: int) -> Markup:
    low, high = _ends(value)
    tip = f"{cell.label}, {name}: {figure(value)} %"
    middle = y + thick / 2
    return el(
        "g",
        el("rect", x=x.start, y=y + 1, width=max(x(value.value * 100) - x.start, 1.0), height=thick - 2,
           class_=f"bar {colour(number)}", data_tip=tip, tabindex=0, role="img", aria_label=tip),
        el("line", x1=x(low), x2=x(high), y1=middle, y2=middle, class_="whisker ink"),
        data_series=number,
    )  # fmt: skip
