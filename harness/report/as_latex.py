"""A report as a LaTeX document with booktabs; each table can be copied into a paper as it is."""

from __future__ import annotations

from harness.render.clean import latex
from harness.report.as_text import heading, slices
from harness.report.blocks import Block, Head, Shown
from harness.report.model import Report
from harness.report.parts import parts

PREAMBLE = r"""% Needs booktabs, longtable, array, geometry and url-free base LaTeX; pdflatex compiles it.
\documentclass[9pt]{extarticle}
\usepackage[utf8]{inputenc}
\usepackage[T1]{fontenc}
\IfFileExists{lmodern.sty}{\usepackage{lmodern}}{}
\usepackage{textcomp}
\usepackage{array}
\usepackage{booktabs}
\usepackage{longtable}
\usepackage[a4paper,landscape,margin=15mm]{geometry}
\setlength{\LTleft}{0pt}
\setlength{\tabcolsep}{4pt}
\setlength{\parindent}{0pt}
\begin{document}
"""
PROSE = r">{\raggedright\arraybackslash}p{%.3f\linewidth}"
LETTERS = 145
"""A table wider than this is continued below itself."""
PAGE = 170
PAGE_ROWS = 30
PROSE_FROM = 40


def as_latex(report: Report) -> str:
    """A whole document."""
    found = [PREAMBLE, f"{latex(heading(report))}\n"]
    for part in parts(report):
        found.append(f"\\section*{{{latex(part.title)}}}\n")
        found += [f"{latex(note)}\\par\n" for note in part.notes]
        for block in part.blocks:
            found.append(_commands(block) if block.kind == "commands" else _tables(block))
    return "\n".join([*found, "\\end{document}\n"])


def _tables(block: Block) -> str:
    pieces = []
    for number, chosen in enumerate(slices(block, LETTERS)):
        heads = tuple(block.heads[i] for i in chosen)
        rows = tuple(tuple(row[i] for i in chosen) for row in block.rows)
        pieces.append(_table(block.title + (" (continued)" if number else ""), heads, rows))
    return "\n".join([*pieces, *(f"{{\\small {latex(note)}}}\\par\n" for note in block.notes)])


def _table(title: str, heads: tuple[Head, ...], rows: tuple[tuple[Shown, ...], ...]) -> str:
    long = len(rows) > PAGE_ROWS
    environment = "longtable" if long else "tabular"
    lines = [
        "" if long else "\\medskip",
        f"\\begin{{{environment}}}{{@{{}}{_columns(heads, rows)}@{{}}}}",
        f"\\multicolumn{{{len(heads)}}}{{@{{}}l}}{{\\textbf{{{latex(title)}}}}} \\\\",
        "\\toprule",
        " & ".join(latex(head.text) for head in heads) + " \\\\",
        "\\midrule",
        *(["\\endhead"] if long else []),
        *(" & ".join(latex(cell.text) for cell in row) + " \\\\" for row in rows),
        "\\bottomrule",
        f"\\end{{{environment}}}",
        "" if long else "\\par\\smallskip",
    ]
    return "\n".join(lines) + "\n"


def _columns(heads: tuple[Head, ...], rows: tuple[tuple[Shown, ...], ...]) -> str:
    """The columns' kinds: prose that is long shares the room that the others leave."""
    widths = [max([len(head.text), *(len(row[i].text) for row in rows)]) + 2 for i, head in enumerate(heads)]
    broken = [head.prose and width > PROSE_FROM for head, width in zip(heads, widths, strict=True)]
    rigid = sum(width for width, breaks in zip(widths, broken, strict=True) if not breaks)
    share = max(0.2, min(0.8, 0.97 - rigid / PAGE)) / max(sum(broken), 1)
    kinds = ("r" if head.right else "l" for head in heads)
    return "".join(PROSE % share if breaks else kind for kind, breaks in zip(kinds, broken, strict=True))


def _commands(block: Block) -> str:
    lines = [f"\\textbf{{{latex(block.title)}}}\\par"]
    for label, title, command in block.rows:
        words = f"{latex(label.text)} on {latex(title.text)}"
        lines.append(f"{words}: {{\\small\\ttfamily\\raggedright {latex(command.text)}\\par}}")
    return "\n".join(lines) + "\n"
