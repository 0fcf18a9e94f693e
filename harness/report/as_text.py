"""A report on a terminal: plain text, no colours, figures never cut.

Laid out here and not by rich, which takes longer over a large report than reading its runs does.
"""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Iterator, Sequence

from harness.escape import plain
from harness.report.blocks import Block, Head, Shown, parts
from harness.report.model import Report

FILE_WIDTH = 140
"""Characters a line where no terminal says otherwise."""
FOLDED_WIDTH = 24
"""What a column of prose is given at least; it takes what room is left."""
GAP = 3


def as_text(report: Report, width: int = FILE_WIDTH) -> str:
    """The whole report; a table too wide is continued below itself, its first column repeated."""
    lines = [*textwrap.wrap(plain(heading(report)), width)]
    for part in parts(report):
        title = plain(part.title)
        lines += ["", title, "=" * min(length(title), width)]
        for note in part.notes:
            lines += textwrap.wrap(plain(note), width)
        for block in part.blocks:
            lines += _commands(block) if block.kind == "commands" else _block(block, width)
    return "\n".join(line.rstrip() for line in lines) + "\n"


def heading(report: Report) -> str:
    """One line on what the report is of."""
    failed = f", {report.failed} failed" if report.failed else ""
    return (
        f"medtune {report.version} report, {report.created}: {report.runs} runs of {report.results}{failed}"
    )


def _commands(block: Block) -> Iterator[str]:
    """One line each, however long, so that it can be copied."""
    yield ""
    for label, title, command in block.rows:
        yield f"{plain(label.text)} on {plain(title.text)}:"
        yield f"  {plain(command.text)}"


def _block(block: Block, width: int) -> Iterator[str]:
    for number, chosen in enumerate(slices(block, width)):
        yield ""
        yield plain(block.title) + (" (continued)" if number else "")
        heads = [block.heads[i] for i in chosen]
        yield from _table(heads, [[row[i] for i in chosen] for row in block.rows], width)
    for note in block.notes:
        yield from textwrap.wrap(plain(note), width)


def _table(heads: Sequence[Head], rows: Sequence[Sequence[Shown]], width: int) -> Iterator[str]:
    texts = [[plain(cell.text) for cell in row] for row in rows]
    titles = [plain(head.text) for head in heads]
    widths = [max(map(length, column)) for column in zip(titles, *texts, strict=True)]
    prose = [i for i, head in enumerate(heads) if head.prose and widths[i] > FOLDED_WIDTH]
    room = width - GAP * (len(heads) - 1) - sum(own for i, own in enumerate(widths) if i not in prose)
    # The narrow ones first: what they leave is for the others.
    for left, i in zip(range(len(prose), 0, -1), sorted(prose, key=lambda i: widths[i]), strict=True):
        widths[i] = min(widths[i], max(FOLDED_WIDTH, room // left))
        room -= widths[i]
    yield from _row(heads, titles, widths)
    yield "-" * (sum(widths) + GAP * (len(widths) - 1))
    for row in texts:
        yield from _row(heads, row, widths)


def _row(heads: Sequence[Head], texts: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    """A row, on several lines where prose is broken."""
    cells = [
        textwrap.wrap(text, own, break_on_hyphens=False) or [""]
        if head.prose and length(text) > own
        else [text]
        for head, text, own in zip(heads, texts, widths, strict=True)
    ]
    for line in range(max(map(len, cells))):
        shown = []
        for head, own, room in zip(heads, cells, widths, strict=True):
            text = own[line] if line < len(own) else ""
            space = " " * (room - length(text))
            shown.append(space + text if head.right else text + space)
        yield (" " * GAP).join(shown)


def slices(block: Block, width: int) -> Iterator[list[int]]:
    """The columns of each piece of a table: the first one always, and as many more as fit `width` letters."""
    widths = [_least(head, [row[i] for row in block.rows]) + GAP for i, head in enumerate(block.heads)]
    chosen = [0]
    for index in range(1, len(widths)):
        if len(chosen) > 1 and sum(widths[i] for i in chosen) + widths[index] - GAP > width:
            yield chosen
            chosen = [0]
        chosen.append(index)
    yield chosen


def _least(head: Head, cells: Sequence[Shown]) -> int:
    """What a column must have at least."""
    needed = max([length(plain(head.text)), *(length(plain(cell.text)) for cell in cells)])
    return min(needed, FOLDED_WIDTH) if head.prose else needed


def length(text: str) -> int:
    """Places on a terminal: an East Asian letter takes two, a combining mark none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )
