"""The rows of the HTML report's tables. Not in the template: over many runs it would take longest of all."""

from __future__ import annotations

from markupsafe import Markup, escape

from harness.escape import plain
from harness.report.blocks import Block, Head, Shown

LONG = 34
"""Letters from which a row's label may be broken over lines."""


def body(block: Block) -> Markup:
    """All rows but chance and majority, which stand in the table's foot."""
    lines = []
    for row in block.rows:
        if row[0].kind != "baseline":
            cells = (
                _cell(head, cell, first=number == 0)
                for number, (head, cell) in enumerate(zip(block.heads, row, strict=True))
            )
            lines.append(f"<tr>{''.join(cells)}</tr>")
    return Markup("\n".join(lines))  # noqa: S704 (each cell is escaped below)


def _cell(head: Head, cell: Shown, *, first: bool) -> str:
    text = escape(plain(cell.text))
    if cell.kind == "command":
        text = Markup('<code>{}</code> <button type="button" class="copy">Copy</button>').format(text)
    classes = (
        "long" if first and len(cell.text) > LONG else "",
        "right" if head.right else "",
        "prose" if head.prose else "",
        cell.kind,
    )
    told = " ".join(filter(None, classes))
    attributes = f' class="{escape(told)}"' if told else ""
    if cell.sort is not None:
        attributes += f' data-sort="{escape(str(cell.sort))}"'
    return f'<th scope="row"{attributes}>{text}</th>' if first else f"<td{attributes}>{text}</td>"
