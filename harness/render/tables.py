"""Rows as tables for a terminal. Columns give way to the width; figures are never cut."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from harness.errors import first_line
from harness.evidence.rows import Row, grouped
from harness.io.escape import plain
from harness.io.terminal import make_console
from harness.record import RunRecord, Score
from harness.render.columns import PADDING, kept, needed, stacked, widths, wrapped

if TYPE_CHECKING:
    from rich.console import Console, JustifyMethod

MISSING = "-"
GIB = 2**30
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its header with the unit, what it shows of a row, and its weight (the lightest goes first)."""

    header: str
    cell: Callable[[Row], str]
    weight: int
    right: bool = True


def percent(value: float | None, digits: int = 1) -> str:
    return MISSING if value is None else f"{value * 100:.{digits}f}"


def interval(score: Score | None) -> str:
    """`43.2 [36.5, 50.1]`, in per cent; without an interval the value alone."""
    if score is None:
        return MISSING
    if score.ci_low is None:
        return percent(score.value)
    return f"{percent(score.value)} [{percent(score.ci_low)}, {percent(score.ci_high)}]"


def number(value: float | None, unit: float = 1, digits: int = 0) -> str:
    """With `digits` behind the point, and more where something measured would be rounded to nothing."""
    if value is None:
        return MISSING
    shown = f"{value / unit:,.{digits}f}"
    return shown if value == 0 or shown.strip("-0.,") else f"{value / unit:.1g}"


def small_percent(value: float | None) -> str:
    """A share in per cent with enough digits to be told from nothing."""
    if value is None:
        return MISSING
    return percent(value, 1 if value == 0 or value >= 0.1 else 3 if value < 0.001 else 2)


def _score_cell(row: Row) -> str:
    return interval(row.accuracy) if row.status == "ok" else row.failure_kind or row.status


def _memory(value: int | None) -> str:
    return number(value, GIB, 2)


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
    Column("trained %", lambda row: small_percent(row.trainable_fraction), 70),
    Column("GPU peak GiB", lambda row: _memory(row.gpu_memory_reserved_peak_bytes), 81),
    Column("host peak GiB", lambda row: _memory(row.host_memory_peak_bytes), 65),
    Column("train s", lambda row: number(row.train_seconds, digits=1), 80),
    Column("tokens/s", lambda row: number(row.train_tokens_per_second), 60),
    Column("adapter MiB", lambda row: number(row.adapter_bytes, MIB, 1), 55),
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
            _tell_left_out(console, left_out)


def print_table(
    console: Console,
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    title: str = "",
    right: Sequence[bool] = (),
    fold: Sequence[int] = (),
    drop: Sequence[int] = (),
) -> None:
    """A plain table that fits the console, the first column its names.

    Only the columns numbered in `fold` may be broken over lines, between words. Those in `drop` give
    way where there is no room, the first one first, and are named below. Where even the rest does not
    fit, each name has a line of its own and what is known of it stands below.
    """
    cells = [[_cell(text) for text in row] for row in rows]
    columns = [[header, *(row[i] for row in cells)] for i, header in enumerate(headers)]
    if title:
        console.print(wrapped(title, console.width), style="bold", soft_wrap=True)
    shown = kept(columns, fold, drop, console.width)
    chosen = [columns[i] for i in shown]
    folding = [place for place, i in enumerate(shown) if i in fold]
    if needed(chosen, folding) > console.width:
        console.print("\n".join(stacked(headers, cells, console.width)), soft_wrap=True)
        return
    own = widths(chosen, folding, console.width)
    _print_columns(console, chosen, own, [bool(right) and right[i] for i in shown])
    if left_out := [header for i, header in enumerate(headers) if i not in shown]:
        _tell_left_out(console, left_out)


def _print_columns(
    console: Console, columns: Sequence[Sequence[str]], own: Sequence[int], right: Sequence[bool]
) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    for column, width, ends in zip(columns, own, right, strict=True):
        justify: JustifyMethod = "right" if ends else "left"
        table.add_column(Text(column[0]), justify=justify, overflow="fold", width=width)
    for row in zip(*(column[1:] for column in columns), strict=True):
        table.add_row(*map(Text, row))
    console.print(table)


def _tell_left_out(console: Console, headers: Sequence[str]) -> None:
    text = wrapped(f"Not shown at this width: {', '.join(headers)}.", console.width)
    console.print(text, style="dim", soft_wrap=True)


def _cell(text: str) -> str:
    """Written out before it is measured, so that columns stay in line."""
    return "\n".join(map(plain, text.split("\n")))


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
