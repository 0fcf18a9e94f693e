"""Tables on a terminal. Columns give way to the width; figures are never cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.escape import plain
from harness.render.columns import kept, needed, stacked, widths, wrapped

if TYPE_CHECKING:
    from rich.console import Console, JustifyMethod


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
        tell_left_out(console, left_out)


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


def tell_left_out(console: Console, headers: Sequence[str]) -> None:
    """Name the columns that found no room."""
    text = wrapped(f"Not shown at this width: {', '.join(headers)}.", console.width)
    console.print(text, style="dim", soft_wrap=True)


def _cell(text: str) -> str:
    """Written out before it is measured, so that columns stay in line."""
    return "\n".join(map(plain, text.split("\n")))
