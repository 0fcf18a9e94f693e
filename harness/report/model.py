"""What a report says, before it has a format. Every format is made from these, and only from these.

A report holds tables; a table is one model on one kind of data (real, or the built-in sample), with
one way of scoring: strategies down (rows), data sets across (columns). Fractions are 0 to 1; `None`
means not measured.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from harness.evidence.costs import Costs
from harness.evidence.tuned import Tuning

if TYPE_CHECKING:
    from harness.evidence.outcomes import Group, Outcomes
    from harness.stats.verdict import Verdict


def where(label: str, title: str) -> str:
    """How the audit names a cell of a table with several columns."""
    return f"{label} on {title}"


World = Literal["real", "sample"]
WORLD_TITLES: dict[World, str] = {"real": "Real data", "sample": "Built-in sample"}


@dataclass(frozen=True, slots=True)
class Figure:
    """A value with its 95% interval, where there is a sound one."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Column:
    """A data set as scored. `items` is the fingerprint of the test items: one column, one set of items."""

    title: str
    task: str
    source: str
    items: str
    n: int | None
    chance: float | None
    majority: float | None
    comparable: bool
    note: str


@dataclass(frozen=True, slots=True)
class Cell:
    """A strategy on a data set: its runs that ended well, over seeds.

    seeded: whether another seed would answer otherwise (training, or the choice of worked examples).
    accuracy: mean over seeds, with an interval over items and seeds. by_seed: each run's accuracy.
    verdict: against the reference; where it is None, `no_verdict` says why. ratios: cost figures over
    the reference's, only on the same kind of device. macro_f1_difference: to the reference's, paired, with
    its 95% interval over items and seeds (items alone where the verdict is of single runs). tuning: None where its learning rate was given.
    """

    label: str
    strategy: str
    trains: bool
    seeded: bool
    learning_rate: float | None
    precision: str
    seeds: tuple[int, ...]
    run_ids: tuple[str, ...]
    n: int
    accuracy: Figure
    by_seed: tuple[float, ...]
    seed_sd: float | None
    macro_f1: float | None
    ece: float | None
    nll: float | None
    costs: Costs
    command: str
    verdict: Verdict | None = None
    no_verdict: str = ""
    macro_f1_difference: Figure | None = None
    ratios: dict[str, float] = field(default_factory=dict)
    tuning: Tuning | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A strategy over a table's columns. failures: for each column the kind of failure, where no run of
    it ended well. averages: one for each of the table's averages, None unless the row is complete in it;
    verdicts: on each of them, None where it is not compared.
    """

    label: str
    strategy: str
    cells: tuple[Cell | None, ...]
    failures: tuple[str, ...]
    averages: tuple[Figure | None, ...]
    verdicts: tuple[Verdict | None, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two rows compared on one data set; differences are `one` less `other`."""

    one: str
    other: str
    title: str
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Average:
    """An unweighted mean over some columns."""

    title: str
    columns: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AuditLine:
    """One thing that differs, and for which rows. between: "reference", or "seeds" of one row."""

    what: str
    one: str
    other: str
    severity: str
    between: Literal["reference", "seeds"]
    where: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Failure:
    """A run that did not end well."""

    run_id: str
    label: str
    title: str
    seed: int
    status: str
    kind: str
    phase: str
    message: str
    remedy: str
    command: str


@dataclass(frozen=True, slots=True)
class Table:
    """One model on one kind of data. comparisons: how many verdicts were adjusted together (Holm); family:
    which, in words. pairs: those between rows other than the reference, where all were asked for.
    """

    key: str
    world: World
    model: str
    scoring: str
    limit: int | None
    columns: tuple[Column, ...]
    averages: tuple[Average, ...]
    rows: tuple[Row, ...]
    reference: str | None
    comparisons: int
    family: tuple[str, ...]
    pairs: tuple[Pair, ...]
    audit: tuple[AuditLine, ...]
    failures: tuple[Failure, ...]
    notes: tuple[str, ...]

    @property
    def title(self) -> str:
        limit = f", first {self.limit} items" if self.limit is not None else ""
        return f"{WORLD_TITLES[self.world]}: {self.model}, {self.scoring} scoring{limit}"

    def differences(self, cell: Cell, column: Column) -> list[AuditLine]:
        """What the audit says of one cell."""
        names = (cell.label, where(cell.label, column.title))
        return [line for line in self.audit if any(name in line.where for name in names)]

    def cells(self, column: int) -> list[Cell]:
        """The cells of a column, in the order of the rows."""
        return [cell for row in self.rows if (cell := row.cells[column]) is not None]


@dataclass(frozen=True, slots=True)
class Published:
    """A figure of a paper. Never in a table with ours: the protocols differ."""

    model: str
    params_billion: float | None
    tuning: str
    task: str
    metric: str
    value: float
    protocol: str
    source: str
    verified: bool


@dataclass(frozen=True, slots=True)
class Report:
    """Everything a report shows. margin: of equivalence, a fraction. results: where the runs lie."""

    version: str
    created: str
    results: str
    margin: float
    verdicts: bool
    runs: int
    failed: int
    unfinished: tuple[str, ...]
    tables: tuple[Table, ...]
    published: tuple[Published, ...]
    warnings: tuple[str, ...]
    groups: dict[str, Group] = field(default_factory=dict, repr=False)
    outcomes: dict[str, Outcomes] = field(default_factory=dict, repr=False)
    """The runs behind each cell, and what they answered, by the first run's name: for the charts. In no format."""

    @property
    def plain(self) -> dict[str, Any]:
        """The report as JSON holds it."""
        return {name: _plain(getattr(self, name)) for name in _names(Report) if name not in _FOR_CHARTS}


_FOR_CHARTS = ("groups", "outcomes")


@cache
def _names(kind: type[Any]) -> tuple[str, ...]:
    return tuple(f.name for f in fields(kind))


def _plain(value: Any) -> Any:
    """As `dataclasses.asdict` has it, without a copy of every string."""
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value]
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, Costs):
        return value.plain
    if is_dataclass(value) and not isinstance(value, type):
        return {name: _plain(getattr(value, name)) for name in _names(type(value))}
    return value
