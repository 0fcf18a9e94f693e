"""Runs as a table for a terminal, one row each."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from typing import TextIO

from harness.errors import first_line
from harness.evidence.rows import Row, grouped
from harness.io.terminal import make_console
from harness.measures import MEASURES, Measure
from harness.record import RunRecord
from harness.render.columns import PADDING, wrapped
from harness.render.numbers import MISSING, interval, number, percent
from harness.render.tables import print_table, tell_left_out
from harness.report.measured import measured


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its header with the unit, what it shows of a row, and its weight (the lightest goes first)."""

    header: str
    cell: Callable[[Row], str]
    weight: int
    right: bool = True


def _score_cell(row: Row) -> str:
    return interval(row.accuracy) if row.status == "ok" else row.failure_kind or row.status


def _measured(own: Measure) -> Callable[[Row], str]:
    return lambda row: measured(own, getattr(row.cost, own.field))


COLUMNS = (
    Column("strategy", lambda row: row.strategy, 100, right=False),
    Column("model", lambda row: row.model, 95, right=False),
    Column("precision", lambda row: row.precision, 90, right=False),
    Column("scoring", lambda row: row.scoring, 94, right=False),
    Column("shots", lambda row: str(row.shots), 93),
    Column("limit", lambda row: number(row.limit), 92),
    Column("seed", lambda row: str(row.seed), 91),
    Column("accuracy % [95%]", _score_cell, 99),
    Column("accuracy_norm %", lambda row: interval(row.accuracy_norm), 20),
    Column("macro F1 %", lambda row: percent(row.macro_f1.value if row.macro_f1 else None), 50),
    *(Column(own.header, _measured(own), own.weight) for own in MEASURES if own.weight),
    Column("id", lambda row: row.run_id.rpartition("-")[2], 85, right=False),
    Column("run", lambda row: row.run_id, 30, right=False),
)
# Stand above a table instead of in it, where all its rows agree.
IN_CAPTION = ("model", "precision", "scoring", "shots", "limit", "seed")


def print_runs(
    records: Iterable[RunRecord],
    stream: TextIO | None = None,
    width: int | None = None,
    *,
    told: Container[str] = (),
) -> None:
    """One table for each task title; below it why runs failed (but those in `told`, of which the user
    knows), and which columns found no room.
    """
    width = width or make_console(stream).width
    for title, rows in grouped(records).items():
        columns, left_out = choose_columns(rows, width)
        least = _width(columns, rows)
        # Rather a line too long than a figure cut.
        console = make_console(stream, max(width, least))
        print_table(
            console,
            [column.header for column in columns],
            [[column.cell(row) for column in columns] for row in rows],
            title=f"{title}: {caption(rows)}",
            right=[column.right for column in columns],
        )
        for row in rows:
            if row.failure_kind and row.run_id not in told:
                reason = f"{_name(row)}: {row.failure_kind}: {first_line(row.failure_message or '')}"
                console.print(wrapped(reason, console.width), soft_wrap=True)
        if left_out:
            tell_left_out(console, left_out)


def caption(rows: Sequence[Row]) -> str:
    """What all rows of a table share, and what guessing reaches on its test items."""
    parts = []
    for name in IN_CAPTION:
        values = {getattr(row, name) for row in rows}
        if len(values) == 1 and (value := values.pop()) is not None:
            parts.append(
                f"{value} shots" if name == "shots" else str(value) if name == "model" else f"{name} {value}"
            )
    for name, label in (("chance", "chance"), ("majority", "commonest answer")):
        shares = sorted({getattr(row, name) for row in rows} - {None})
        if shares:
            low, high = percent(shares[0]), percent(shares[-1])
            parts.append(f"{label} {low}%" if low == high else f"{label} {low} to {high}%")
    items = sorted({row.test_n for row in rows if row.test_n is not None})
    if items:
        parts.append(f"{' or '.join(map(str, items))} test items")
    return ", ".join(parts)


def choose_columns(rows: Sequence[Row], width: int) -> tuple[list[Column], list[str]]:
    """The columns that fit into `width`, and the headers of those with values that do not."""
    chosen = [column for column in COLUMNS if not _is_idle(column, rows)]
    dropped = []
    while _width(chosen, rows) > width:
        lightest = min(chosen, key=lambda column: (not _is_empty(column, rows), column.weight))
        if lightest.weight >= 99:
            break
        chosen.remove(lightest)
        if not _is_empty(lightest, rows):
            dropped.append(lightest)
    shown = {column.header for column in chosen}
    if "run" in shown:  # the full name ends in the id
        chosen = [column for column in chosen if column.header != "id"]
    left_out = [column.header for column in COLUMNS if column in dropped and column.header != "run"]
    return chosen, left_out


def _is_idle(column: Column, rows: Sequence[Row]) -> bool:
    """Whether a column says nothing here that the caption does not."""
    return column.header in IN_CAPTION and len({column.cell(row) for row in rows}) == 1


def _is_empty(column: Column, rows: Sequence[Row]) -> bool:
    return all(column.cell(row) == MISSING for row in rows)


def _width(columns: Sequence[Column], rows: Sequence[Row]) -> int:
    widths = (max(len(column.header), *(len(column.cell(row)) for row in rows)) for column in columns)
    return sum(widths) + PADDING * len(columns) + 1


def _name(row: Row) -> str:
    return f"{row.strategy} seed {row.seed} ({row.run_id})"
