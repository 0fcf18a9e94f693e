"""Where the columns of a table go at a width: words are never cut, names are never broken."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rich.cells import cell_len

PADDING = 3
"""Rich's simple box: a space on both sides of each cell, one between cells, and one at each edge."""
Rows = Sequence[Sequence[str]]


def natural(texts: Sequence[str]) -> int:
    """What a column takes when nothing of it is broken."""
    return max((cell_len(line) for text in texts for line in text.split("\n")), default=0)


def least(texts: Sequence[str], *, folds: bool) -> int:
    """What a column must have: as much as its longest word where it may be broken, else all of it."""
    if not folds:
        return natural(texts)
    return max((cell_len(word) for text in texts for word in text.split()), default=0)


def needed(columns: Sequence[Sequence[str]], fold: Sequence[int]) -> int:
    """The width of a table (`columns` with their headers) when all that may be broken is."""
    return _total([least(texts, folds=i in fold) for i, texts in enumerate(columns)])


def widths(columns: Sequence[Sequence[str]], fold: Sequence[int], width: int) -> list[int]:
    """The width of each column at `width`: what must be, and the rest to those that want more."""
    given = [least(texts, folds=i in fold) for i, texts in enumerate(columns)]
    wanted = [natural(texts) for texts in columns]
    room = width - _total(given)
    open_columns = sorted((i for i in range(len(given)) if wanted[i] > given[i]), key=lambda i: wanted[i])
    for left, i in zip(range(len(open_columns), 0, -1), open_columns, strict=True):
        more = max(0, min(wanted[i] - given[i], room // left))
        given[i] += more
        room -= more
    return given


def kept(columns: Sequence[Sequence[str]], fold: Sequence[int], drop: Sequence[int], width: int) -> list[int]:
    """The columns that are shown at `width`; those in `drop` give way, the first one first."""
    shown = list(range(len(columns)))
    for index in drop:
        own = [columns[i] for i in shown]
        if needed(own, [place for place, i in enumerate(shown) if i in fold]) <= width:
            break
        shown.remove(index)
    return shown


def stacked(headers: Sequence[str], rows: Rows, width: int) -> list[str]:
    """Rows below each other where no table fits: a name on a line of its own, the rest indented below it."""
    lines: list[str] = []
    for name, *rest in rows:
        lines.append(name)
        for header, text in zip(headers[1:], rest, strict=True):
            words = " ".join(text.split())
            lines += textwrap.wrap(
                f"{header}: {words}" if header else words,
                max(width, 8), initial_indent="  ", subsequent_indent="    ",
                break_long_words=False, break_on_hyphens=False,
            )  # fmt: skip
    return lines


def wrapped(text: str, width: int, indent: str = "") -> str:
    """Prose by words; a word that is longer than `width` stands whole on a line of its own."""
    return "\n".join(
        textwrap.fill(
            line, width, initial_indent=indent, subsequent_indent=indent and indent + "  ",
            break_long_words=False, break_on_hyphens=False,
        )
        for line in text.split("\n")
    )  # fmt: skip


def _total(own: Sequence[int]) -> int:
    return sum(own) + PADDING * len(own) + 1
