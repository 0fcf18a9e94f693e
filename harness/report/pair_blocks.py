"""Tables of comparisons that have no cell of their own: averages with the reference's, and every two rows."""

from __future__ import annotations

from harness.render.numbers import MISSING, percent
from harness.report.blocks import Block, Head, Shown, about, between, p_value, points, slim, words
from harness.report.model import Table
from harness.stats.verdict import Verdict

_HEADS = (
    Head("difference, points [95%]"), Head("[after Holm]"), Head("p"), Head("p, Holm"),
    Head("verdict", right=False, prose=True, data=True), Head("would show, points"),
)  # fmt: skip


def average_block(table: Table) -> Block | None:
    """The averages' differences to the reference's; None where there are none."""
    rows = [
        (
            Shown(row.label, row.label.lower(), data=True),
            Shown(average.title, average.title.lower(), data=True),
            *_cells(verdict),
        )
        for row in table.rows
        for average, verdict in zip(table.averages, row.verdicts, strict=True)
        if verdict is not None
    ]
    if not rows:
        return None
    heads = (Head("strategy", right=False, data=True), Head("average", right=False, data=True), *_HEADS)
    title = f"Averages: verdicts against {table.reference}{about(table)}"
    return slim(Block(title, heads, tuple(rows), kind="verdicts"))


def pair_block(table: Table) -> Block | None:
    """Every two rows but those with the reference, which stand above; None where they were not asked for."""
    if not table.pairs:
        return None
    heads = (
        Head("strategy", right=False, data=True), Head("against", right=False, data=True),
        Head("data", right=False, data=True), *_HEADS,
    )  # fmt: skip
    rows = tuple(
        (*(Shown(text, text.lower(), data=True) for text in (pair.one, pair.other, pair.title)), *_cells(pair.verdict))
        for pair in table.pairs
    )  # fmt: skip
    return slim(Block(f"All other pairs{about(table)}", heads, rows, kind="verdicts"))


def _cells(verdict: Verdict) -> tuple[Shown, ...]:
    return (
        Shown(f"{points(verdict.difference)} {between(verdict.interval)}", verdict.difference),
        Shown(between(verdict.adjusted_interval) if verdict.comparisons > 1 else MISSING),
        Shown(p_value(verdict.p), verdict.p),
        Shown(p_value(verdict.p_adjusted), verdict.p_adjusted),
        Shown(words(verdict), kind=verdict.kind),
        Shown(percent(verdict.smallest_detectable), verdict.smallest_detectable),
    )
