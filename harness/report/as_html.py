"""A report as one HTML file: no network, no library; figures, charts and script are all in it.

Everything from data goes through Jinja's or `svg.el`'s escaping. A content security policy lets run
only the script in this file, by its hash, so that what escaped the escaping would still do nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from harness.escape import plain
from harness.render.svg import colour, marker
from harness.report.as_text import heading
from harness.report.blocks import MARKS, Part
from harness.report.chart_data import extras_of
from harness.report.charts import Chart, charts
from harness.report.html_rows import body
from harness.report.model import Report, Table
from harness.report.pareto import View, views
from harness.report.parts import parts
from harness.store.runs import Store

TEMPLATES = Path(__file__).with_name("templates")
MOST_CHARTED = 48
"""Data sets with charts in one report; beyond them it would grow past what a browser likes."""
CURVE_POINTS = 60_000
"""Points of learning curves in one report, shared out over the runs."""
MOST_DATA_BYTES = 2_000_000


@dataclass(frozen=True, slots=True)
class Legend:
    label: str
    number: int
    swatch: Markup


@dataclass(frozen=True, slots=True)
class Charted:
    """The charts of one column of a table."""

    title: str
    key: str
    views: tuple[View, ...]
    charts: tuple[Chart, ...]
    legend: tuple[Legend, ...]


def as_html(report: Report, store: Store) -> str:
    """The whole page. Reads predictions and losses of the runs behind `report`'s cells."""
    warnings: list[str] = []
    columns = [
        (table, index) for table in report.tables for index in range(len(table.columns)) if table.cells(index)
    ]
    charted: dict[tuple[str, int], Charted] = {}
    runs = sum(len(cell.seeds) for table, index in columns[:MOST_CHARTED] for cell in table.cells(index))
    points = max(20, min(120, CURVE_POINTS // max(runs, 1)))
    for table, index in columns[:MOST_CHARTED]:
        charted[table.key, index] = _charted(report, table, index, store, points, warnings.append)
    style, script = _asset("report.css"), _asset("report.js")
    data = _embedded(report)
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"plain": plain, "body": body}
    return environment.get_template("report.html.j2").render(
        report=report,
        heading=heading(report),
        parts=parts(report),
        charted=charted,
        charts_of=lambda part: _charts_of(part, charted),
        left_out=max(len(columns) - MOST_CHARTED, 0),
        warnings=warnings,
        marks=MARKS,
        style=style,
        script=script,
        data=data,
        policy=_policy(style, script),
    )


def _asset(name: str) -> Markup:
    """Our own style or script, as it is."""
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))  # noqa: S704


def _charts_of(part: Part, charted: dict[tuple[str, int], Charted]) -> list[Charted]:
    if part.table is None:
        return []
    return [own for (key, _), own in charted.items() if key == part.table.key]


def _charted(
    report: Report, table: Table, index: int, store: Store, points: int, warn: Callable[[str], None]
) -> Charted:
    cells = table.cells(index)
    series = {row.label: number for number, row in enumerate(table.rows)}
    extras = {
        cell.label: extras_of(
            store, report.groups[cell.run_ids[0]], report.outcomes.get(cell.run_ids[0]), points, warn
        )
        for cell in cells
    }
    return Charted(
        title=table.columns[index].title,
        key=f"{table.key}c{index}",
        views=tuple(views(cells, series)),
        charts=tuple(charts(cells, extras, series)),
        legend=tuple(Legend(cell.label, series[cell.label], _swatch(series[cell.label])) for cell in cells),
    )


def _swatch(number: int) -> Markup:
    return Markup('<svg class="swatch {}" viewBox="0 0 16 16" aria-hidden="true">{}</svg>').format(
        colour(number), marker(number, 8, 8, "", focus=False)
    )


def _embedded(report: Report) -> Markup | None:
    """The report as JSON that cannot end the script element it stands in."""
    text = json.dumps(report.plain, allow_nan=False, separators=(",", ":"))
    if len(text) > MOST_DATA_BYTES:
        return None
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704


def _policy(style: str, script: str) -> str:
    def digest(text: str) -> str:
        return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

    allowed: dict[str, Any] = {
        "default-src": "'none'",
        "style-src": f"'sha256-{digest(style)}'",
        "script-src": f"'sha256-{digest(script)}'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{key} {value}" for key, value in allowed.items())
