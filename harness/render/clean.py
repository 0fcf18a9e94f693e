"""Text from data made harmless in LaTeX and in spreadsheets; see harness.escape for terminal and Markdown."""

from __future__ import annotations

import re

from harness.escape import plain

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{",
    "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}", "'": r"\textquotesingle{}",
    "`": r"\textasciigrave{}", "-": "-{}", "[": "{[}", "]": "{]}",
}  # fmt: skip


def latex(text: str) -> str:
    """As text for pdflatex; letters that its fonts lack become a question mark."""
    shown = "".join(_LATEX.get(character, character) for character in plain(text))
    return re.sub(r"[^\x20-\x7e\u00a1-\u00ff]", "?", shown)


def csv_cell(text: str) -> str:
    """As text that no spreadsheet takes for a formula (OWASP: a quote before = + - @)."""
    shown = plain(text)
    return (
        f"'{shown}"
        if shown.lstrip()[:1] in ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
        else shown
    )
