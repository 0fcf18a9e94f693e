"""One table of a report: rows, cells, verdicts against the reference, audit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from harness.errors import HarnessError
from harness.evidence.audit import Difference, audit, within
from harness.evidence.costs import per_point, ratios
from harness.evidence.outcomes import Group, Outcomes, Reader, load_outcomes
from harness.evidence.tuned import Tuning, tuning_differences, tuning_of
from harness.record import RunRecord
from harness.report import notes
from harness.report.cells import average, cell_of
from harness.report.layout import ColumnKey, Members, TableKey
from harness.report.med42 import averages
from harness.report.model import AuditLine, Average, Cell, Column, Failure, Row, Table
from harness.report.model import where as name_of
from harness.report.options import Options
from harness.report.verdicts import Asked, Decided, Mean, Place, decide
from harness.stats.verdict import Verdict
from harness.store.runs import Store

DEFAULT_REFERENCES = ("full", "lora")


@dataclass
class Builder:
    """Makes the tables. `warn` takes what went wrong on the way. outcomes: by the first run of a group."""

    store: Store
    options: Options
    reader: Reader
    warn: Callable[[str], None]
    outcomes: dict[str, Outcomes] = field(default_factory=dict)

    def build(self, key: TableKey, members: Members) -> Table:
        cells = {place: self._cell(place, group) for place, group in members.groups.items()}
        _add_cost_per_point(cells, members)
        self._add_tuning(cells, members)
        reference = choose_reference(cells, self.options.reference)
        columns = list(members.columns)
        shown, repeated = _averages(list(members.columns.values()))
        decided = Decided(cells, {}, (), ())
        if self.options.verdicts:
            asked = Asked(self.options.margin, self.options.assumed_seed_sd, self.options.all_pairs)
            decided = decide(cells, members, self.outcomes, shown, reference, asked)
            cells = decided.cells
        _add_ratios(cells, reference)
        table = Table(
            key="",
            world=key.world,
            model=key.model,
            scoring=key.scoring,
            limit=key.limit,
            columns=tuple(members.columns.values()),
            averages=shown,
            rows=tuple(_rows(cells, columns, members, shown, reference, decided.means)),
            reference=reference,
            comparisons=len(decided.family),
            family=decided.family,
            pairs=decided.pairs,
            audit=_audit(members, reference, cells),
            failures=tuple(self._failure(*failed) for failed in members.failed),
            notes=(),
        )
        first = next((group.first for group in members.groups.values()), None)
        said = notes.of_table(table, self.options, first, repeated=repeated)
        return dataclasses.replace(table, notes=(*notes.of_inputs(members.groups.values()), *said))

    def _cell(self, place: Place, group: Group) -> Cell:
        found = None
        if self.options.verdicts:
            try:
                found = load_outcomes(self.store, group, self.reader)
                self.outcomes[group.first.run_id] = found
            except HarnessError as error:
                self.warn(f"{error.message}: no verdict for {group.label} on {place[1].title}")
        return cell_of(group, found, lambda own: self.options.command(own.records))

    def _add_tuning(self, cells: dict[Place, Cell], members: Members) -> None:
        for place, group in members.groups.items():
            tuning: Tuning | None = Tuning()
            try:
                tuning = tuning_of(self.store, group.records)
            except HarnessError as error:
                self.warn(f"{error.message}: the tuning of {group.label} on {place[1].title} is not known")
            cells[place] = dataclasses.replace(cells[place], tuning=tuning)

    def _failure(self, label: str, key: ColumnKey, record: RunRecord) -> Failure:
        failure = record.failure
        assert failure is not None
        return Failure(
            run_id=record.run_id,
            label=label,
            title=key.title,
            seed=record.spec.seed,
            status=record.status,
            kind=failure.kind,
            phase=failure.phase,
            message=failure.message,
            remedy=failure.remedy,
            command=self.options.command([record]),
        )


def choose_reference(cells: dict[Place, Cell], asked: str | None) -> str | None:
    """The label of the reference row: the one asked for (a label or a strategy), else `full`, else
    `lora`, else the first strategy that trains, else the first; of variants the one on most columns.
    """
    count: dict[str, int] = {}
    strategy: dict[str, str] = {}
    trained: dict[str, bool] = {}
    for (label, _), cell in cells.items():
        count[label] = count.get(label, 0) + 1
        strategy[label], trained[label] = cell.strategy, cell.trains
    labels = sorted(count, key=lambda label: (-count[label], label))
    if asked is not None:
        return next((label for label in labels if asked in (label, strategy[label])), None)
    for name in DEFAULT_REFERENCES:
        if found := next((label for label in labels if strategy[label] == name), None):
            return found
    return next((label for label in labels if trained[label]), labels[0] if labels else None)


def _add_cost_per_point(cells: dict[Place, Cell], members: Members) -> None:
    """The gain is over the same model as it came: no training, no worked examples."""
    plain = {
        place[1]: cells[place].accuracy.value
        for place, group in members.groups.items()
        if not group.first.spec.seeded
    }
    for place, cell in cells.items():
        if cell.trains and place[1] in plain:
            gain = cell.accuracy.value - plain[place[1]]
            cells[place] = dataclasses.replace(cell, costs=per_point(cell.costs, gain))


def _add_ratios(cells: dict[Place, Cell], reference: str | None) -> None:
    for place, cell in cells.items():
        other = cells.get((reference or "", place[1]))
        if other is not None and place[0] != reference:
            cells[place] = dataclasses.replace(cell, ratios=ratios(cell.costs, other.costs))


def _averages(columns: Sequence[Column]) -> tuple[tuple[Average, ...], bool]:
    """The averages, and whether there are none because a task stands in two columns."""
    tasks = [column.task for column in columns]
    if len(set(tasks)) < len(tasks):
        return (), True
    return tuple(Average(title, places) for title, places in averages(tasks)), False


def _rows(
    cells: dict[Place, Cell],
    columns: Sequence[ColumnKey],
    members: Members,
    shown: Sequence[Average],
    reference: str | None,
    decided: Mapping[Mean, Verdict],
) -> list[Row]:
    """Untrained first, then the reference, then by trained share, the largest first."""
    failed = {(label, key): record for label, key, record in members.failed}
    labels = dict.fromkeys([label for label, _ in cells] + [label for label, _ in failed])
    rows = []
    for label in labels:
        own = tuple(cells.get((label, key)) for key in columns)
        broken = [failed.get((label, key)) for key in columns]
        kinds = tuple(
            record.failure.kind if record and record.failure and cell is None else ""
            for record, cell in zip(broken, own, strict=True)
        )
        figures = [cell.accuracy if cell else None for cell in own]
        means = tuple(average([figures[i] for i in mean.columns]) for mean in shown)
        first = next((cell.strategy for cell in own if cell), None)
        strategy = first or next(record.spec.strategy.name for record in broken if record)
        compared = tuple(decided.get((label, number)) for number in range(len(shown)))
        rows.append(Row(label, strategy, own, kinds, means, compared))

    def order(row: Row) -> tuple[bool, bool, bool, float, str]:
        cell = next((cell for cell in row.cells if cell), None)
        trained, seeded = cell is None or cell.trains, cell is None or cell.seeded
        share = (cell.costs.get("trainable_fraction") if cell else None) or 0.0
        return (trained, seeded, row.label != reference, -share, row.label)

    return sorted(rows, key=order)


def _audit(members: Members, reference: str | None, cells: dict[Place, Cell]) -> tuple[AuditLine, ...]:
    """Every difference, each once with all the places where it is."""
    found: dict[tuple[str, str, str, str, str], list[str]] = {}

    def add(difference: Difference, between: str, where: str) -> None:
        key = (difference.what, difference.one, difference.other, difference.severity, between)
        found.setdefault(key, []).append(where)

    for (label, key), group in members.groups.items():
        where = label if len(members.columns) == 1 else name_of(label, members.columns[key].title)
        for difference in within(group.records):
            add(difference, "seeds", where)
        other = members.groups.get((reference or "", key))
        if other is not None and other is not group:
            tuned = (cells[label, key].tuning, cells[reference or "", key].tuning)
            for difference in (
                *audit(group.records, other.records),
                *tuning_differences(group.records, other.records, tuned),
            ):
                add(difference, "reference", where)
    lines = [
        AuditLine(
            what, one, other, severity, "seeds" if between == "seeds" else "reference", tuple(sorted(where))
        )
        for (what, one, other, severity, between), where in found.items()
    ]
    return tuple(sorted(lines, key=lambda line: (line.severity != "breaks", line.between)))
