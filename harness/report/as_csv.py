"""A report for a spreadsheet: one row a strategy and data set, fractions as stored, nothing a formula.

The first column says what a row is: measured, average, pair, failed, or published (others' figures).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from harness.evidence.costs import Costs
from harness.render.clean import csv_cell
from harness.report.blocks import rows_with_cells
from harness.report.model import Cell, Column, Report, Row, Table

if TYPE_CHECKING:
    from harness.stats.verdict import Verdict

IDENTITY = ("kind", "data", "data_set", "task", "model", "scoring", "limit", "strategy", "label", "seeds")
SCORES = (
    "accuracy", "accuracy_low", "accuracy_high", "n", "accuracy_by_seed", "seed_sd", "macro_f1", "ece", "nll",
    "chance", "majority",
)  # fmt: skip
VERDICT = (
    "reference", "verdict", "difference", "difference_low", "difference_high", "p", "p_holm",
    "smallest_detectable", "within_margin", "margin", "scope", "caveat", "assumed_seed_sd", "comparisons",
    "difference_low_holm", "difference_high_holm", "macro_f1_difference", "macro_f1_difference_low",
    "macro_f1_difference_high",
)  # fmt: skip
COSTS = tuple(Costs().plain)
TUNING = ("tuning_trials", "tuning_failed", "tuning_total_seconds", "tuning_gpu_hours", "learning_rate")
REST = ("failure", "message", "metric", "protocol", "source", "audit", "run_ids", "command")
COLUMNS = (*IDENTITY, *SCORES, *VERDICT, *COSTS, *TUNING, *REST)


def as_csv(report: Report) -> str:
    """All rows with all columns; an empty cell is not measured, or does not apply."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for values in _rows(report):
        writer.writerow({key: _shown(value) for key, value in values.items()})
    return stream.getvalue()


def _shown(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return csv_cell(value) if isinstance(value, str) else value


def _rows(report: Report) -> Iterator[dict[str, Any]]:
    for table in report.tables:
        for row, column, cell in rows_with_cells(table):
            yield _measured(table, row, column, cell)
        yield from _averages(table)
        for pair in table.pairs:
            yield {
                **_shared(table), **_of_verdict(pair.verdict), "kind": "pair", "data_set": pair.title,
                "label": pair.one, "reference": pair.other,
            }  # fmt: skip
        for failure in table.failures:
            yield {
                **_shared(table), "kind": "failed", "data_set": failure.title, "label": failure.label,
                "seeds": str(failure.seed), "failure": failure.kind, "message": failure.message,
                "run_ids": failure.run_id, "command": failure.command,
            }  # fmt: skip
    for figure in report.published:
        yield {
            "kind": "published", "task": figure.task, "model": figure.model, "strategy": figure.tuning,
            "accuracy": figure.value if figure.metric == "accuracy" else None,
            "macro_f1": figure.value if figure.metric == "macro_f1" else None,
            "metric": figure.metric, "protocol": figure.protocol, "source": figure.source,
        }  # fmt: skip


def _shared(table: Table) -> dict[str, Any]:
    return {"data": table.world, "model": table.model, "scoring": table.scoring, "limit": table.limit}


def _measured(table: Table, row: Row, column: Column, cell: Cell) -> dict[str, Any]:
    audit = [f"{line.what}: {line.one} against {line.other}" for line in table.differences(cell, column)]
    return {
        **_shared(table), **cell.costs.plain, **_verdict(table, cell),
        "kind": "measured", "data_set": column.title, "task": column.task, "strategy": row.strategy,
        "label": row.label, "seeds": " ".join(map(str, cell.seeds)),
        "accuracy": cell.accuracy.value, "accuracy_low": cell.accuracy.low, "accuracy_high": cell.accuracy.high,
        "n": cell.n, "accuracy_by_seed": " ".join(f"{value:.6g}" for value in cell.by_seed),
        "seed_sd": cell.seed_sd, "macro_f1": cell.macro_f1, "ece": cell.ece, "nll": cell.nll,
        "chance": column.chance, "majority": column.majority, "audit": "; ".join(audit),
        "run_ids": " ".join(cell.run_ids), "command": cell.command, **_tuning(cell),
    }  # fmt: skip


def _tuning(cell: Cell) -> dict[str, Any]:
    own, found = cell.tuning, {"learning_rate": cell.learning_rate}
    if own is None:
        return {**found, "tuning_trials": 0 if cell.trains else None}
    return {
        **found, "tuning_trials": own.trials, "tuning_failed": own.failed,
        "tuning_total_seconds": own.total_seconds, "tuning_gpu_hours": own.gpu_hours,
    }  # fmt: skip


def _verdict(table: Table, cell: Cell) -> dict[str, Any]:
    if cell.verdict is None:
        return {"reference": table.reference, "verdict": cell.no_verdict}
    found = {"reference": table.reference, **_of_verdict(cell.verdict)}
    if f1 := cell.macro_f1_difference:
        found |= {
            "macro_f1_difference": f1.value, "macro_f1_difference_low": f1.low, "macro_f1_difference_high": f1.high
        }  # fmt: skip
    return found


def _of_verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "verdict": verdict.kind, "difference": verdict.difference,
        "difference_low": verdict.interval[0], "difference_high": verdict.interval[1], "p": verdict.p,
        "p_holm": verdict.p_adjusted, "smallest_detectable": verdict.smallest_detectable,
        "within_margin": verdict.within_margin, "margin": verdict.margin, "scope": verdict.scope,
        "caveat": verdict.caveat, "assumed_seed_sd": verdict.assumed_seed_sd, "comparisons": verdict.comparisons,
        "difference_low_holm": verdict.adjusted_interval[0], "difference_high_holm": verdict.adjusted_interval[1],
    }  # fmt: skip


def _averages(table: Table) -> Iterator[dict[str, Any]]:
    for row in table.rows:
        for average, mean, verdict in zip(table.averages, row.averages, row.verdicts, strict=True):
            if mean is not None:
                compared = {"reference": table.reference, **_of_verdict(verdict)} if verdict else {}
                yield {
                    **_shared(table), **compared, "kind": "average", "data_set": average.title, "strategy": row.strategy,
                    "label": row.label, "accuracy": mean.value, "accuracy_low": mean.low,
                    "accuracy_high": mean.high,
                }  # fmt: skip
