"""A report as GitHub-flavoured Markdown."""

from __future__ import annotations

from harness.escape import markdown, plain
from harness.report.as_text import heading
from harness.report.blocks import Block, Shown
from harness.report.model import Report
from harness.report.parts import parts


def as_markdown(report: Report) -> str:
    """Tables of pipes; commands in fenced blocks, which nothing in them can close."""
    found = ["# Which way of fine-tuning?", markdown(heading(report))]
    for part in parts(report):
        found.append(f"## {markdown(part.title)}")
        found += [f"- {markdown(note)}" for note in part.notes]
        for block in part.blocks:
            found += _commands(block) if block.kind == "commands" else [_table(block)]
    return "\n\n".join(found) + "\n"


def _table(block: Block) -> str:
    lines = [f"### {markdown(block.title)}", ""]
    lines.append(_row([markdown(head.text) for head in block.heads]))
    lines.append(_row(["--:" if head.right else ":--" for head in block.heads]))
    lines += [_row([_cell(cell) for cell in row]) for row in block.rows]
    for note in block.notes:
        lines += ["", markdown(note)]
    return "\n".join(lines)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(cell: Shown) -> str:
    # Figures are ours: an interval's brackets are no link.
    return markdown(cell.text) if cell.data else cell.text.replace("<", "&lt;")


def _commands(block: Block) -> list[str]:
    found = [f"### {markdown(block.title)}"]
    for label, title, command in block.rows:
        text = plain(command.text)
        fence = "```"
        while fence in text:
            fence += "`"
        found.append(f"{markdown(label.text)} on {markdown(title.text)}:\n\n{fence}sh\n{text}\n{fence}")
    return found
