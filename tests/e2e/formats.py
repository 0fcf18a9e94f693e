"""Tables read back from a report in any of its formats, so that their figures can be held together."""

from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser
from typing import Any

Table = dict[str, list[str]]
"""Each row's cells by its first one."""
TITLE = "Accuracy, % [95% interval]"


def accuracy_of(name: str, shown: str) -> Table:
    """The rows of the first accuracy table, without chance and majority."""
    rows = READERS[name](shown)
    return {row[0]: row[1:] for row in rows if not row[0].startswith("(")}


def _text(shown: str) -> list[list[str]]:
    block = shown.split(TITLE)[1].strip("\n").split("\n\n")[0]
    lines = block.splitlines()
    rule = next(i for i, line in enumerate(lines) if set(line.strip()) == {"-"})
    return [re.split(r"\s{2,}", line.strip()) for line in lines[rule + 1 :] if "   " in line]


def _markdown(shown: str) -> list[list[str]]:
    lines = shown.split(re.sub(r"([\[])", r"\\\1", TITLE))[1].splitlines()
    table = [line for line in lines[: lines.index("", 3)] if line.startswith("|")]
    cells = [[re.sub(r"\\(.)", r"\1", cell).strip() for cell in line.strip("|").split("|")] for line in table]
    return cells[2:]


def _latex(shown: str) -> list[list[str]]:
    body = shown.split(r"\midrule")[1].split(r"\bottomrule")[0]
    for escaped, plain in ((r"{[}", "["), (r"{]}", "]"), ("-{}", "-"), (r"\%", "%"), ("\\\\", "")):
        body = body.replace(escaped, plain)
    return [[cell.strip() for cell in line.split(" & ")] for line in body.strip().splitlines()]


class _Rows(HTMLParser):
    """The body rows of the first table of class `accuracy`."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.inside = self.done = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table" and ("class", "accuracy") in attrs and not self.done:
            self.inside = True
        elif self.inside and tag == "tr":
            self.rows.append([])
        elif self.inside and tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "table" and self.inside:
            self.inside, self.done = False, True

    def handle_data(self, data: str) -> None:
        if self.inside and self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip()


def _html(shown: str) -> list[list[str]]:
    page = _Rows()
    page.feed(shown)
    return page.rows[1:]


MARKS = {"better": " +", "worse": " -", "equivalent": " =", "no_difference_shown": " ?"}


def _figure(value: Any, low: Any, high: Any, verdict: str = "") -> str:
    told = f"{float(value) * 100:.1f} [{float(low) * 100:.1f}, {float(high) * 100:.1f}]"
    return told + MARKS.get(verdict, "")


def _json(shown: str) -> list[list[str]]:
    rows = []
    for row in json.loads(shown)["tables"][0]["rows"]:
        cells = [
            _figure(
                *(cell["accuracy"][key] for key in ("value", "low", "high")),
                (cell["verdict"] or {}).get("kind", ""),
            )
            for cell in row["cells"]
        ]
        means = [
            _figure(mean["value"], mean["low"], mean["high"], (verdict or {}).get("kind", ""))
            for mean, verdict in zip(row["averages"], row["verdicts"], strict=True)
        ]
        rows.append([row["label"], str(len(row["cells"][0]["seeds"])), *cells, *means])
    return rows


def _csv(shown: str) -> list[list[str]]:
    found: dict[str, list[str]] = {}
    for row in csv.DictReader(io.StringIO(shown)):
        if row["kind"] in ("measured", "average"):
            own = found.setdefault(row["label"], [row["label"], str(len(row["seeds"].split()))])
            own.append(_figure(row["accuracy"], row["accuracy_low"], row["accuracy_high"], row["verdict"]))
    return list(found.values())


READERS = {
    "text": _text, "markdown": _markdown, "latex": _latex, "html": _html, "json": _json, "csv": _csv,
}  # fmt: skip
