"""A report as blocks of cells with text in them: what text, Markdown, LaTeX and HTML have in common."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.render.numbers import MISSING, number, percent
from harness.report.model import Cell, Column, Figure, Row, Table

if TYPE_CHECKING:
    from harness.stats.verdict import Verdict

MARKS = {
    "better": "+", "worse": "-", "equivalent": "=", "no_difference_shown": "?",
    "runs_within_margin": "(=)", "runs_show_no_difference": "(?)",
}  # fmt: skip
LEGEND = "+ better, - worse, = equivalent, ? no difference shown"
LEGEND_OF_RUNS = "(+) (-) these runs differ, (=) are within the margin, (?) show no difference"
OF_RUNS = "(+) (-) (=) (?): one run, not the method"
ASSUMED = "*: with an assumed seed sd"


@dataclass(frozen=True, slots=True)
class Shown:
    """A cell. sort: what a column is sorted by. data: the text comes from outside and must be escaped with
    care; else it is made of figures and words of ours. kind: a verdict, for its colour.
    """

    text: str
    sort: float | str | None = None
    data: bool = False
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Head:
    """A column's header. prose: long text that may be broken over lines."""

    text: str
    right: bool = True
    prose: bool = False
    data: bool = False


@dataclass(frozen=True, slots=True)
class Block:
    """A table under a title. notes: sentences below it; `data` in them is escaped like all else."""

    title: str
    heads: tuple[Head, ...]
    rows: tuple[tuple[Shown, ...], ...]
    notes: tuple[str, ...] = ()
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Part:
    """Blocks that belong together, under a heading."""

    title: str
    blocks: tuple[Block, ...]
    notes: tuple[str, ...] = ()
    table: Table | None = field(default=None, repr=False)


def figure(value: Figure | None) -> str:
    """`43.2 [36.5, 50.1]`, in per cent."""
    if value is None:
        return MISSING
    if value.low is None:
        return percent(value.value)
    return f"{percent(value.value)} [{percent(value.low)}, {percent(value.high)}]"


def points(value: float | None) -> str:
    """A difference in points of a per cent, with its sign."""
    if value is None:
        return MISSING
    return f"{value * 100:+.1f}" if round(value * 100, 1) else "0.0"


def p_value(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def mark(verdict: Verdict | None) -> str:
    """The sign of a verdict: in brackets where it is about single runs, starred where a deviation is assumed."""
    if verdict is None:
        return ""
    if verdict.kind == "runs_differ":
        return "(+)" if verdict.difference > 0 else "(-)"
    return MARKS[verdict.kind] + ("*" if verdict.scope == "methods_assumed_sd" else "")


def about(table: Table) -> str:
    """What the signs of a table are about, for its title: so it goes wherever the table is copied to."""
    shown = [v for row in table.rows for v in (*(c.verdict for c in row.cells if c), *row.verdicts)]
    scopes = {v.scope for v in (*shown, *(pair.verdict for pair in table.pairs)) if v}
    told = [OF_RUNS] if "runs" in scopes else []
    told += [ASSUMED] if "methods_assumed_sd" in scopes else []
    return "".join(f"; {part}" for part in told)


def accuracy_block(table: Table) -> Block:
    """Strategies down, data sets across; what guessing reaches below."""
    heads = [Head("strategy", right=False, data=True), Head("seeds")]
    heads += [Head(f"{column.title} (n {number(column.n)})", data=True) for column in table.columns]
    heads += [Head(f"average, {average.title}") for average in table.averages]
    rows = []
    for row in table.rows:
        counts = sorted({len(cell.seeds) for cell in row.cells if cell})
        seeds = Shown(
            "-".join(map(str, counts[:1] + counts[1:][-1:])) or MISSING, counts[-1] if counts else None
        )
        own = [Shown(row.label, row.label.lower(), data=True), seeds]
        own += [_accuracy(cell, failed) for cell, failed in zip(row.cells, row.failures, strict=True)]
        own += [
            Shown(
                f"{figure(mean)} {mark(v)}".rstrip(), mean.value if mean else None, kind=v.kind if v else ""
            )
            for mean, v in zip(row.averages, row.verdicts, strict=True)
        ]
        rows.append(tuple(own))
    rows += list(_baselines(table))
    shown = [v for row in table.rows for v in (*(c.verdict for c in row.cells if c), *row.verdicts) if v]
    # In brackets nothing is better or worse: the title says what those signs are about.
    of_methods = any(v.scope != "runs" for v in shown)
    notes = [f"After a figure: {LEGEND}, against {table.reference}."] if of_methods else []
    if any(v.scope == "runs" for v in shown):
        notes.append(f"{LEGEND_OF_RUNS}, against {table.reference}.")
    return Block(
        f"Accuracy, % [95% interval]{about(table)}", tuple(heads), tuple(rows), tuple(notes), "accuracy"
    )


def _accuracy(cell: Cell | None, failed: str) -> Shown:
    if cell is None:
        return Shown(failed.replace("_", " ") or MISSING, None, kind="failed" if failed else "")
    told = f"{figure(cell.accuracy)} {mark(cell.verdict)}".rstrip()
    return Shown(told, cell.accuracy.value, kind=cell.verdict.kind if cell.verdict else "")


def _baselines(table: Table) -> Iterator[tuple[Shown, ...]]:
    for name, label in (("chance", "(chance)"), ("majority", "(commonest answer)")):
        values: list[float | None] = [getattr(column, name) for column in table.columns]
        if any(value is not None for value in values):
            means: list[Shown] = []
            for average in table.averages:
                parts = [own for i in average.columns if (own := values[i]) is not None]
                complete = len(parts) == len(average.columns)
                mean = sum(parts) / len(parts) if complete else None
                means.append(Shown(percent(mean), mean, kind="baseline"))
            cells = [Shown(percent(value), value, kind="baseline") for value in values]
            yield (Shown(label, label, kind="baseline"), Shown("", kind="baseline"), *cells, *means)


def verdict_block(table: Table, index: int) -> Block:
    """Of one data set: the difference to the reference, what it means, and the spread over seeds."""
    column = table.columns[index]
    heads = (
        Head("strategy", right=False, data=True), Head("difference, points [95%]"), Head("[after Holm]"),
        Head("p"), Head("p, Holm"), Head("verdict", right=False, prose=True, data=True),
        Head("would show, points"), Head("differs in", right=False, prose=True, data=True),
        Head("seeds, % (sd)"), Head("macro F1 %"), Head("macro F1, difference [95%]"), Head("ECE %"),
    )  # fmt: skip
    rows = [
        _verdict_row(cell, [line.what for line in table.differences(cell, column)])
        for cell in table.cells(index)
    ]
    against = f" against {table.reference}" if table.reference else ""
    notes = (
        "After Holm: the interval at the level at which Holm decided; it leaves out 0 where the adjusted p is below "
        "0.05. The other intervals are not adjusted, and macro F1 is no part of the family.",
        "Would show: the smallest true difference that these items and seeds show with 80% power.",
        "Differs in: what is not the same besides strategy and learning rate; the values are under Audit.",
    )
    return slim(
        Block(f"{column.title}: verdicts{against}{about(table)}", heads, tuple(rows), notes, "verdicts")
    )


def _verdict_row(cell: Cell, differs: Sequence[str]) -> tuple[Shown, ...]:
    label = Shown(cell.label, cell.label.lower(), data=True)
    verdict = cell.verdict
    if verdict:
        compared = [
            Shown(f"{points(verdict.difference)} {between(verdict.interval)}", verdict.difference),
            Shown(between(verdict.adjusted_interval) if verdict.comparisons > 1 else MISSING),
            Shown(p_value(verdict.p), verdict.p),
            Shown(p_value(verdict.p_adjusted), verdict.p_adjusted),
            Shown(words(verdict), mark(verdict), kind=verdict.kind),
            Shown(percent(verdict.smallest_detectable), verdict.smallest_detectable),
        ]
    else:
        reason = Shown(cell.no_verdict or MISSING, cell.no_verdict, data=True)
        compared = [*[Shown(MISSING)] * 4, reason, Shown(MISSING)]
    return (
        label, *compared, Shown(", ".join(dict.fromkeys(differs)) or MISSING, data=True),
        Shown(spread(cell), cell.seed_sd), Shown(percent(cell.macro_f1), cell.macro_f1),
        _f1_difference(cell.macro_f1_difference), Shown(percent(cell.ece), cell.ece),
    )  # fmt: skip


def _f1_difference(value: Figure | None) -> Shown:
    if value is None or value.low is None or value.high is None:
        return Shown(MISSING)
    return Shown(f"{points(value.value)} {between((value.low, value.high))}", value.value)


def between(ends: tuple[float, float]) -> str:
    """An interval of differences, in points."""
    return f"[{points(ends[0])}, {points(ends[1])}]"


def words(verdict: Verdict) -> str:
    """The verdict in words, with what it is about where that is not simply the methods."""
    told = in_words(verdict)
    return f"{told}; {verdict.caveat}" if verdict.caveat else told


def in_words(verdict: Verdict) -> str:
    """The verdict alone."""
    margin = f"{verdict.margin * 100:g}"
    small = f", by less than {margin}" if verdict.within_margin else ""
    if verdict.scope == "runs":
        two = verdict.runs_a == verdict.runs_b == 1
        told = {
            "runs_within_margin": f"are within {margin} points", "runs_show_no_difference": "show no difference",
        }.get(verdict.kind, f"differ{small}")  # fmt: skip
        return f"these {'two ' if two else ''}runs {told} {mark(verdict)}"
    if verdict.kind == "equivalent":
        return f"equivalent within {margin}"
    return "no difference shown" if verdict.kind == "no_difference_shown" else f"{verdict.kind}{small}"


def spread(cell: Cell) -> str:
    """The accuracy of each seed, or the ends of many."""
    if len(cell.by_seed) < 2:
        return MISSING
    values = sorted(cell.by_seed)
    told = (
        ", ".join(map(percent, values))
        if len(values) <= 3
        else f"{percent(values[0])} to {percent(values[-1])}"
    )
    return f"{told} ({percent(cell.seed_sd)})"


def slim(block: Block) -> Block:
    """Without the columns that hold nothing, and the notes on them."""
    kept = [i for i in range(len(block.heads)) if i == 0 or any(row[i].text != MISSING for row in block.rows)]
    heads = tuple(block.heads[i] for i in kept)
    rows = tuple(tuple(row[i] for i in kept) for row in block.rows)
    told = " ".join(head.text for head in heads)
    notes = tuple(
        note for note in block.notes
        if not (note.startswith("After Holm") and "[after Holm]" not in told)
        and not (note.startswith("Would show") and "would show" not in told)
        and not (note.startswith("Differs in") and "differs in" not in told)
        and not (note.startswith("A point") and "a point" not in told)
    )  # fmt: skip
    return Block(block.title, heads, rows, notes, block.kind)


def rows_with_cells(table: Table) -> Iterator[tuple[Row, Column, Cell]]:
    """Every cell with its row and column."""
    for row in table.rows:
        for column, cell in zip(table.columns, row.cells, strict=True):
            if cell is not None:
                yield row, column, cell
