"""Records into rows: the one place that says which value of a record a table shows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from harness.record import Cost, RunRecord, Score


@dataclass(frozen=True, slots=True)
class Row:
    """One run. Fractions are 0 to 1; `None` means not measured. Host memory is never a GPU's."""

    run_id: str
    title: str
    task: str
    scoring: str
    shots: int
    limit: int | None
    model: str
    precision: str
    strategy: str
    seed: int
    status: str
    failure_kind: str | None
    failure_message: str | None
    accuracy: Score | None
    accuracy_norm: Score | None
    macro_f1: Score | None
    chance: float | None
    majority: float | None
    test_n: int | None
    cost: Cost


def row_of(record: RunRecord) -> Row:
    """The row of one record, of whatever status."""
    scores, spec = record.scores, record.spec
    chance, majority = scores.get("chance_accuracy"), scores.get("majority_accuracy")
    accuracy = scores.get("accuracy")
    return Row(
        run_id=record.run_id,
        title=title_of(record),
        task=spec.task.name,
        scoring=spec.task.scoring,
        shots=spec.task.shots,
        limit=spec.task.limit,
        model=spec.model.name,
        precision=spec.model.dtype,
        strategy=spec.strategy.name,
        seed=spec.seed,
        status=record.status,
        failure_kind=record.failure.kind if record.failure else None,
        failure_message=record.failure.message if record.failure else None,
        accuracy=accuracy,
        accuracy_norm=scores.get("accuracy_norm"),
        macro_f1=scores.get("macro_f1"),
        chance=chance.value if chance else None,
        majority=majority.value if majority else None,
        test_n=accuracy.n if accuracy else None,
        cost=record.cost,
    )


def title_of(record: RunRecord) -> str:
    """What a table is headed with: the data's own title, or for a run that never read it, its source."""
    if record.data is not None:
        return record.data.title
    source = record.spec.task.source
    where = {"hub": "Hub", "sample": "built-in sample"}.get(source, f"data in {source}")
    return f"{record.spec.task.name} ({where})"


def grouped(records: Iterable[RunRecord]) -> dict[str, list[Row]]:
    """Rows by title, in the order given: the sample and the real data never share a table.

    A run that failed before it read its data goes to the table of the runs that read the same.
    """
    records = list(records)
    titles = {
        (record.spec.task.name, record.spec.task.source): title_of(record)
        for record in records
        if record.data
    }
    groups: dict[str, list[Row]] = {}
    for record in records:
        key = (record.spec.task.name, record.spec.task.source)
        title = titles.get(key, title_of(record)) if record.data is None else title_of(record)
        groups.setdefault(title, []).append(row_of(record))
    return groups
