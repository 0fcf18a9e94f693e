"""What follows a report's tables: published figures, audit, failures, tuning, commands, warnings."""

from __future__ import annotations

from harness.evidence.tuned import NEITHER, Tuning
from harness.render.numbers import MISSING, number, percent
from harness.report.blocks import Block, Head, Part, Shown, rows_with_cells, slim
from harness.report.model import AuditLine, Cell, Report, Table


def parts(report: Report) -> list[Part]:
    """Those parts that have something in them; audit and failures say it when they have not."""
    found = [_published(report), _audit(report), _failures(report), _tuning(report), _commands(report)]
    if report.warnings:
        rows = tuple((Shown(warning, data=True),) for warning in report.warnings)
        found.append(Part("Warnings", (Block("Could not be read", (_prose("what"),), rows),)))
    return [part for part in found if part is not None]


def _prose(text: str) -> Head:
    return Head(text, right=False, prose=True, data=True)


def _left(text: str) -> Head:
    return Head(text, right=False, data=True)


def _published(report: Report) -> Part | None:
    if not report.published:
        return None
    heads = (
        _left("model"), Head("billion"), _prose("tuning"), _left("task"), _left("metric"), Head("%"),
        _prose("protocol"), _prose("source"),
    )  # fmt: skip
    rows = tuple(
        (
            Shown(figure.model, figure.model.lower(), data=True),
            Shown(
                MISSING if figure.params_billion is None else f"{figure.params_billion:g}",
                figure.params_billion,
            ),
            Shown(figure.tuning, data=True),
            Shown(figure.task, data=True),
            Shown(figure.metric, data=True),
            Shown(percent(figure.value), figure.value),
            Shown(figure.protocol, data=True),
            Shown(figure.source if figure.verified else f"{figure.source} (unverified)", data=True),
        )
        for figure in report.published
    )
    return Part(
        "Published figures",
        (Block("Of others, on the real test sets", heads, rows, kind="published"),),
        _caveats(report),
    )


def _caveats(report: Report) -> tuple[str, ...]:
    shown = {figure.task for figure in report.published}
    real = {column.task for table in report.tables if table.world == "real" for column in table.columns}
    found = ["Measured by others, with their own prompts, models and scoring: context, not a comparison."]
    if only_sample := sorted(shown - real):
        found.append(
            f"No run here read the real {', '.join(only_sample)}: rows of the built-in sample must not be held against these."
        )
    return tuple(found)


def _audit(report: Report) -> Part:
    blocks = []
    for table in report.tables:
        if table.audit:
            rows = tuple(_audit_row(line) for line in table.audit)
            heads = (_left("what differs"), _prose("here"), _prose("there"), _prose("where"))
            blocks.append(Block(table.title, heads, rows, _audit_notes(table), "audit"))
    what = "What differs between compared runs besides the strategy and its learning rate"
    notes = [f"{what}:" if blocks else f"{what}: nothing."]
    notes += [f"{table.title}: {told}" for table in report.tables if (told := _untuned(table))]
    return Part("Audit", tuple(blocks), tuple(notes))


def _untuned(table: Table) -> str:
    """Which rows are held against the reference at learning rates that nothing was chosen for."""
    columns = range(len(table.columns))
    found = []
    for row in table.rows:
        pairs = [(row.cells[i], _reference(table, i)) for i in columns if row.label != table.reference]
        if any(a and b and a.trains and b.trains and a.tuning is b.tuning is None for a, b in pairs):
            found.append(row.label)
    if not found:
        return ""
    return f"{NEITHER}: {', '.join(found)} against {table.reference}."


def _reference(table: Table, column: int) -> Cell | None:
    return next((row.cells[column] for row in table.rows if row.label == table.reference), None)


def _audit_row(line: AuditLine) -> tuple[Shown, ...]:
    where = ", ".join(line.where)
    told = f"between the seeds of {where}" if line.between == "seeds" else where
    texts = (line.what, line.one, line.other, told)
    return tuple(Shown(text, text.lower(), data=True) for text in texts)


def _audit_notes(table: Table) -> tuple[str, ...]:
    if any(line.between == "reference" for line in table.audit):
        return (f"Here: the row named. There: {table.reference}, the reference.",)
    return ()


def _failures(report: Report) -> Part:
    blocks = []
    for table in report.tables:
        if table.failures:
            heads = (
                _left("strategy"),
                _left("data"),
                Head("seed"),
                _left("why"),
                _left("phase"),
                _prose("message"),
                _prose("run"),
            )
            rows = tuple(
                (
                    Shown(failure.label, failure.label.lower(), data=True),
                    Shown(failure.title, failure.title.lower(), data=True),
                    Shown(str(failure.seed), failure.seed),
                    Shown(failure.kind.replace("_", " "), failure.kind),
                    Shown(failure.phase, data=True),
                    Shown(f"{failure.message.rstrip('. ')}. {failure.remedy}".rstrip(), data=True),
                    Shown(failure.run_id, data=True),
                )
                for failure in table.failures
            )
            blocks.append(Block(table.title, heads, rows, kind="failures"))
    notes = [f"{report.runs} runs ended well, {report.failed} did not."]
    if report.unfinished:
        names = ", ".join(report.unfinished[:10]) + (", ..." if len(report.unfinished) > 10 else "")
        notes.append(f"{len(report.unfinished)} unfinished: {names}")
    return Part("Failed runs", tuple(blocks), tuple(notes))


def _tuning(report: Report) -> Part | None:
    blocks = tuple(
        _tuned(table) for table in report.tables if any(cell.tuning for _, _, cell in rows_with_cells(table))
    )
    if not blocks:
        return None
    note = "Trials are scored on validation only, stand in no table above, and are made once for all seeds; their cost is not in the costs there."
    return Part("Tuning", blocks, (note,))


def _tuned(table: Table) -> Block:
    """Of every cell that trains, so that what was not tuned is seen beside what was."""
    heads = (
        _left("strategy"), _left("data"), Head("learning rates tried"), Head("failed"),
        Head("seconds in all"), Head("GPU hours"), _prose("rates"), Head("used"),
    )  # fmt: skip
    rows = []
    for _, column, cell in rows_with_cells(table):
        if not cell.trains:
            continue
        own = cell.tuning or Tuning(trials=0)
        tried = "none" if own.trials == 0 else number(own.trials)
        rates = ", ".join(f"{rate:g}" for rate in own.rates)
        used = MISSING if cell.learning_rate is None else f"{cell.learning_rate:g}"
        rows.append((
            Shown(cell.label, cell.label.lower(), data=True), Shown(column.title, column.title.lower(), data=True),
            Shown(tried, own.trials), Shown(number(own.failed), own.failed),
            Shown(number(own.total_seconds, digits=1), own.total_seconds),
            Shown(number(own.gpu_hours, digits=3), own.gpu_hours),
            Shown(rates or MISSING), Shown(used, cell.learning_rate),
        ))  # fmt: skip
    return slim(Block(table.title, heads, tuple(rows), kind="tuning"))


def _commands(report: Report) -> Part:
    blocks = []
    for table in report.tables:
        rows = [
            (
                Shown(row.label, row.label.lower(), data=True),
                Shown(column.title, column.title.lower(), data=True),
                Shown(cell.command, data=True, kind="command"),
            )
            for row, column, cell in rows_with_cells(table)
        ]
        rows += [
            (
                Shown(failure.label, failure.label.lower(), data=True),
                Shown(failure.title, failure.title.lower(), data=True),
                Shown(failure.command, data=True, kind="command"),
            )
            for failure in table.failures
        ]
        heads = (_left("strategy"), _left("data"), _prose("command"))
        blocks.append(Block(table.title, heads, tuple(rows), kind="commands"))
    return Part("To repeat each row", tuple(blocks))
