"""Paragraphs and tables that are shown on a terminal or as Markdown, from one description."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

from harness.escape import markdown, plain
from harness.io.terminal import make_console
from harness.render.tables import print_table


@dataclass(frozen=True, slots=True)
class Heading:
    text: str


@dataclass(frozen=True, slots=True)
class Paragraph:
    text: str
    strong: bool = False


@dataclass(frozen=True, slots=True)
class Bullets:
    items: Sequence[str]


@dataclass(frozen=True, slots=True)
class Table:
    """`fold`: the columns that may be broken over lines on a narrow terminal; the first is left-aligned."""

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    fold: Sequence[int] = ()
    left: Sequence[int] = (0,)


Block = Heading | Paragraph | Bullets | Table


def print_text(blocks: Sequence[Block], stream: TextIO | None = None, width: int | None = None) -> None:
    """The blocks on a terminal."""
    console = make_console(stream, width)
    for block in blocks:
        if isinstance(block, Heading):
            console.print(f"{plain(block.text)}", style="bold", soft_wrap=True)
        elif isinstance(block, Paragraph):
            console.print(plain(block.text), style="bold" if block.strong else None, soft_wrap=True)
        elif isinstance(block, Bullets):
            for item in block.items:
                console.print(f"  - {plain(item)}", soft_wrap=True)
        else:
            rows = [list(map(plain, row)) for row in block.rows]
            headers = list(map(plain, block.headers))
            right = [index not in block.left for index in range(len(headers))]
            print_table(console, headers, rows, title=plain(block.title), right=right, fold=block.fold)


def as_markdown(blocks: Sequence[Block]) -> str:
    """The blocks as GitHub-flavoured Markdown."""
    parts: list[str] = []
    for block in blocks:
        if isinstance(block, Heading):
            parts.append(f"## {markdown(block.text)}")
        elif isinstance(block, Paragraph):
            parts.append(f"**{markdown(block.text)}**" if block.strong else markdown(block.text))
        elif isinstance(block, Bullets):
            parts.append("\n".join(f"- {markdown(item)}" for item in block.items))
        else:
            parts += [f"**{markdown(block.title)}**"] if block.title else []
            parts.append(_markdown_table(block))
    return "\n\n".join(parts) + "\n"


def _markdown_table(table: Table) -> str:
    rule = [":--" if index in table.left else "--:" for index in range(len(table.headers))]
    rows = [list(map(markdown, table.headers)), rule, *(list(map(markdown, row)) for row in table.rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
