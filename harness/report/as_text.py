"""A report on a terminal: plain text, no colours, figures never cut.

Laid out here and not by rich, which takes longer over a large report than reading its runs does.
"""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Iterator, Sequence

from harness.escape import plain
from harness.render.columns import stacked
from harness.report.blocks import Block, Head, Shown
from harness.report.model import Report
from harness.report.parts import parts

FILE_WIDTH = 140
"""Characters a line where no terminal says otherwise."""
FOLDED_WIDTH = 24
"""What a column of prose is given at least; it takes what room is left."""
GAP = 3


def as_text(report: Report, width: int = FILE_WIDTH) -> str:
    """The whole report; a table too wide is continued below itself, its first column repeated."""
    lines = [*_wrapped(heading(report), width)]
    for part in parts(report):
        title = plain(part.title)
        lines += ["", *_wrapped(title, width), "=" * min(length(title), width)]
        for note in part.notes:
            lines += _wrapped(note, width)
        for block in part.blocks:
            lines += _commands(block, width) if block.kind == "commands" else _block(block, width)
    return "\n".join(line.rstrip() for line in lines) + "\n"


def heading(report: Report) -> str:
    """One line on what the report is of."""
    failed = f", {report.failed} failed" if report.failed else ""
    return (
        f"medtune {report.version} report, {report.created}: {report.runs} runs of {report.results}{failed}"
    )


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of whole words: a name is copied, so that it is rather too long than cut."""
    return textwrap.wrap(plain(text), width, break_long_words=False, break_on_hyphens=False)


def _commands(block: Block, width: int) -> Iterator[str]:
    """One line each, however long, so that it can be copied."""
    yield ""
    for label, title, command in block.rows:
        yield from _wrapped(f"{label.text} on {title.text}:", width)
        yield f"  {plain(command.text)}"


def _block(block: Block, width: int) -> Iterator[str]:
    for number, chosen in enumerate(slices(block, width)):
        yield ""
        yield from _wrapped(block.title + " (continued)" * bool(number), width)
        heads = [block.heads[i] for i in chosen]
        rows = [[row[i] for i in chosen] for row in block.rows]
        if _room(heads, rows, width) < 0:
            yield from stacked(
                [plain(head.text) for head in heads],
                [[plain(cell.text) for cell in row] for row in rows],
                width,
            )
        else:
            yield from _table(heads, rows, width)
    for note in block.notes:
        yield from _wrapped(note, width)


def _table(heads: Sequence[Head], rows: Sequence[Sequence[Shown]], width: int) -> Iterator[str]:
    texts = [[plain(cell.text) for cell in row] for row in rows]
    titles = [plain(head.text) for head in heads]
    widths = [max(map(length, column)) for column in zip(titles, *texts, strict=True)]
    least = [_least(head, [row[i] for row in rows]) for i, head in enumerate(heads)]
    room = _room(heads, rows, width)
    # The narrow ones first: what they leave is for the others.
    wide = sorted((i for i in range(len(heads)) if widths[i] > least[i]), key=lambda i: widths[i] - least[i])
    for left, i in zip(range(len(wide), 0, -1), wide, strict=True):
        more = min(widths[i] - least[i], room // left)
        widths[i] = least[i] + more
        room -= more
    yield from _row(heads, titles, widths)
    yield "-" * (sum(widths) + GAP * (len(widths) - 1))
    for row in texts:
        yield from _row(heads, row, widths)


def _room(heads: Sequence[Head], rows: Sequence[Sequence[Shown]], width: int) -> int:
    """Letters of a line that a table's columns leave where each has the least; negative where it does not fit."""
    least = (_least(head, [row[i] for row in rows]) for i, head in enumerate(heads))
    return width - GAP * (len(heads) - 1) - sum(least)


def _row(heads: Sequence[Head], texts: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    """A row, on several lines where prose is broken."""
    cells = [
        textwrap.wrap(text, own, break_on_hyphens=False, break_long_words=False) or [""]
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
    """What a column must have at least: its longest line, or where it is prose its longest word."""
    texts = [plain(head.text), *(plain(cell.text) for cell in cells)]
    needed = max(map(length, texts))
    if not head.prose:
        return needed
    words = max((length(word) for text in texts for word in text.split()), default=0)
    return min(needed, max(FOLDED_WIDTH, words))


def length(text: str) -> int:
    """Places on a terminal: an East Asian letter takes two, a combining mark none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )
