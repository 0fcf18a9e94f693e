"""What the reader of a table must know, in sentences."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from harness.record import RunRecord
from harness.report.model import Cell, Table
from harness.store import inputs

if TYPE_CHECKING:
    from harness.evidence.outcomes import Group
    from harness.report.options import Options

MOST_NAMED = 12
"""Comparisons of a family that are named in a note; --format json has all."""


def of_table(table: Table, options: Options, first: RunRecord | None, *, repeated: bool) -> tuple[str, ...]:
    """The notes of a table, the gravest first."""
    found = []
    if table.world == "sample":
        found.append(
            "Built-in sample: it shows that the machinery works and says nothing about the real data sets."
        )
    if first is not None and first.model is not None and first.model.source == "random":
        found.append("Random weights: memory and speed mean something, accuracy does not.")
    found += _verdict_notes(table, options)
    found += _seed_notes(table)
    found += _average_notes(table, repeated)
    found += _precision_notes(table) + _device_notes(table)
    for column in table.columns:
        if column.note and table.world != "sample":
            found.append(f"{column.title}: {column.note}.")
    return tuple(found)


def _cells(table: Table) -> list[Cell]:
    return [cell for row in table.rows for cell in row.cells if cell is not None]


def _verdict_notes(table: Table, options: Options) -> list[str]:
    if not options.verdicts:
        return ["No verdicts were asked for; intervals over several seeds are wider than need be."]
    if table.comparisons:
        return [
            f"Verdicts against {table.reference}, paired by item, equivalent within {options.margin * 100:g} points.",
            _family_note(table),
        ]
    if options.reference is not None and table.reference is None:
        return [f"No verdicts: there is no run of {options.reference} here."]
    return ["No verdicts: there is nothing to compare."] if _cells(table) else []


def of_inputs(groups: Iterable[Group]) -> tuple[str, ...]:
    """What models were not shown, or shown twice: once for groups of which the same is to be said."""
    said: dict[str, list[str]] = {}
    for group in groups:
        for sentence in dict.fromkeys(s for record in group.records for s in inputs.of_record(record)):
            said.setdefault(sentence, []).append(group.label)
    return tuple(f"{', '.join(dict.fromkeys(names))}: {sentence}." for sentence, names in said.items())


def _family_note(table: Table) -> str:
    """What was adjusted together, by name where there are few."""
    if table.comparisons == 1:
        return f"One comparison ({table.family[0]}): nothing to adjust for."
    named = "; ".join(table.family[:MOST_NAMED])
    more = f"; and {table.comparisons - MOST_NAMED} more" if table.comparisons > MOST_NAMED else ""
    return (
        f"p (Holm), the interval after Holm and the verdict are adjusted for these {table.comparisons} comparisons; "
        f"the 95% intervals are not: {named}{more}."
    )


def _seed_notes(table: Table) -> list[str]:
    cells = _cells(table)
    found = []
    if any(len(cell.seeds) > 1 for cell in cells):
        found.append("Accuracy is the mean over seeds; its 95% interval covers other items and other seeds.")
    single = [cell.label for cell in cells if cell.verdict and cell.verdict.scope == "runs"]
    if single:
        names = ", ".join(dict.fromkeys(single))
        found.append(
            f"One run of a side that another seed would change ({names}): (+) (-) (=) (?) are about these runs and "
            "say nothing of the methods. Run three seeds: --seed 0,1,2."
        )
    assumed = {
        cell.verdict.assumed_seed_sd
        for cell in cells
        if cell.verdict and cell.verdict.scope == "methods_assumed_sd" and cell.verdict.assumed_seed_sd
    }
    found += [
        f"Starred verdicts assume that a method with one run varies by {sd * 100:g} points (sd) over seeds; this was not measured."
        for sd in sorted(assumed)
    ]
    return found


def _average_notes(table: Table, repeated: bool) -> list[str]:
    if repeated:
        return ["No averages: a task stands in two columns, with different test items."]
    if not table.averages:
        return []
    incomplete = [row.label for row in table.rows if None in row.averages]
    left_out = f"; without one: {', '.join(incomplete)}" if incomplete else ""
    return [f"Averages are unweighted, and only over complete rows{left_out}."]


def _precision_notes(table: Table) -> list[str]:
    rows: dict[str, dict[str, None]] = {}
    for cell in _cells(table):
        rows.setdefault(cell.precision, {})[cell.label] = None
    if len(rows) < 2:
        return [f"Computed in {precision}." for precision in rows]
    told = "; ".join(f"{precision} ({', '.join(labels)})" for precision, labels in rows.items())
    return [f"Computed in different precisions: {told}."]


def _device_notes(table: Table) -> list[str]:
    cells = _cells(table)
    devices = sorted({cell.costs.device for cell in cells if cell.costs.device})
    found = []
    if len(devices) > 1:
        found.append(
            f"Several kinds of device ({', '.join(devices)}): memory and time are compared within one only."
        )
    mixed = list(dict.fromkeys(cell.label for cell in cells if cell.costs.device is None))
    if mixed:
        found.append(f"Seeds on several kinds of device, so no memory and time: {', '.join(mixed)}.")
    return found
