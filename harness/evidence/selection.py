"""Which runs a command means: a run's name, several of them, or a strategy over its seeds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from harness.ask.filters import Filters
from harness.errors import UsageError, did_you_mean
from harness.escape import plain
from harness.evidence.labels import labels
from harness.evidence.outcomes import Group, digest_of, groups
from harness.evidence.rows import title_of
from harness.record import RunRecord
from harness.store.runs import Store

LISTED = 8


class Selector:
    """Finds groups of runs in one results folder. The folder is read once."""

    def __init__(self, store: Store, filters: Filters | None = None) -> None:
        self.store = store
        self.filters = filters or Filters()
        self.records, self.problems = store.records()

    def find(self, text: str) -> list[Group]:
        """What `text` means: runs by name (with commas: several seeds), or all groups of a strategy.

        A full name goes before a strategy, a strategy before the start of a name. Raises `UsageError`
        where there is nothing of that name that ended well.
        """
        if "," in text and "(" not in text:
            return [self._runs([part.strip() for part in text.split(",") if part.strip()])]
        if text in self.store.run_ids():
            return [self._runs([text])]
        if found := self._strategy(text):
            return found
        return [self._runs([self._complete(text)])]

    def _strategy(self, text: str) -> list[Group]:
        """The groups whose strategy or label is `text`. Raises where all are filtered away or failed."""
        every = groups([r for r in self.records if r.spec.task.split == "test"])  # no tuning trials
        named = [g for g in every if text in (g.label, g.first.spec.strategy.name)]
        if any(g.label == text for g in named):
            named = [g for g in named if g.label == text]
        kept = [
            replace(g, records=own) for g in named if (own := tuple(filter(self.filters.admits, g.records)))
        ]
        if kept:
            return kept
        if named:
            raise UsageError(
                f"no run of '{text}' has {self.filters}; there are:\n{listed(named)}",
                "Change or leave out one of these options.",
            )
        failed = [r.run_id for r in self.records if r.spec.strategy.name == text]
        if failed:
            raise UsageError(
                f"no run of '{text}' ended well ({len(failed)} failed or interrupted, the first {failed[0]})",
                f"See why: python -m harness show {failed[0]}",
            )
        return []

    def _complete(self, text: str) -> str:
        found = self.store.find(text)
        if len(found) == 1:
            return found[0]
        if found:
            names = "\n".join(f"  {name}" for name in found)
            raise UsageError(
                f"'{text}' is the start of {len(found)} runs:\n{names}", "Give more of the name."
            )
        strategies = {r.spec.strategy.name for r in self.records}
        hint = did_you_mean(text, [*strategies, *self.store.run_ids()])
        known = (
            f" (strategies there: {plain(', '.join(sorted(strategies)))})"
            if strategies
            else " (it has no runs)"
        )
        raise UsageError(
            f"there is no run and no strategy '{text}' in {self.store.root}{hint}{known}",
            "See: python -m harness list runs",
        )

    def _runs(self, names: Sequence[str]) -> Group:
        """The runs of these names as one group. Raises where they differ in more than the seed."""
        run_ids = dict.fromkeys(self._complete(name) for name in names)
        records = [self._ended_well(run_id) for run_id in run_ids]
        if not records:
            raise UsageError("no run is named", "See: python -m harness list runs")
        if len({digest_of(record) for record in records}) > 1:
            told = "\n".join(f"  {record.run_id}" for record in records)
            raise UsageError(
                f"these runs differ in more than the seed and are not one group:\n{told}",
                "Put a comma only between runs of one spec with several seeds.",
            )
        return groups(records)[0]

    def _ended_well(self, run_id: str) -> RunRecord:
        if self.store.state(run_id) == "unfinished":
            raise UsageError(f"run {run_id} is unfinished", "Run it again: it goes on from where it stopped.")
        record = self.store.record(run_id)
        if record.status != "ok":
            kind = f" ({record.failure.kind})" if record.failure else ""
            raise UsageError(
                f"run {run_id} {record.status}{kind}: it has no scores",
                f"See: python -m harness show {run_id}",
            )
        return record


def listed(found: Iterable[Group]) -> str:
    """One line a group: what it is called, on what, and its runs."""
    lines = []
    for g in found:
        spec = g.first.spec
        parts = [title_of(g.first), spec.model.name, spec.task.scoring, f"{spec.task.shots} shots"]
        parts += [f"limit {spec.task.limit}"] if spec.task.limit is not None else []
        parts.append(f"seeds {', '.join(map(str, g.seeds))}")
        lines.append(plain(f"  {g.label}: {', '.join(parts)}: {g.first.run_id}"))
    more = [f"  ... and {len(lines) - LISTED} more"] if len(lines) > LISTED else []
    return "\n".join([*lines[:LISTED], *more])


def pairs(one: Sequence[Group], other: Sequence[Group]) -> list[tuple[Group, Group]]:
    """Groups that belong together: under each condition one of each side, or simply the only two.

    Raises `UsageError` where a side has several groups under one condition, or none meet.
    """
    found = []
    for condition in dict.fromkeys(g.condition for g in one):
        left, right = ([g for g in side if g.condition == condition] for side in (one, other))
        if right:
            found.append((only(left), only(right)))
    if found:
        return found
    if len(one) == len(other) == 1:
        return [(one[0], other[0])]
    raise UsageError(
        f"no runs of the two were made under the same conditions:\n{listed([*one, *other])}",
        "Narrow them with --task, --model, --data, --scoring or --limit, or give two runs by name.",
    )


def only(found: Sequence[Group]) -> Group:
    """The one group of a list. Raises `UsageError` that names them where there are several."""
    if len(found) == 1:
        return found[0]
    raise UsageError(
        f"'{plain(found[0].first.spec.strategy.name)}' has {len(found)} groups of runs here:\n{listed(found)}",
        "Choose one: by its name before the colon, by the name of a run, or with --task, --model, --data, "
        "--scoring, --shots or --limit.",
    )


def names_of(one: Group, other: Group) -> tuple[str, str]:
    """What the two are called side by side: strategies, with what tells them apart where that is the same."""
    left, right = labels([one.first, other.first])
    if left != right:
        return left, right
    for told in (
        lambda g: f"{title_of(g.first)}",
        lambda g: g.first.spec.model.name,
        lambda g: g.first.spec.task.scoring,
        lambda g: f"limit {g.first.spec.task.limit}",
        lambda g: f"seed {', '.join(map(str, g.seeds))}",
        lambda g: g.first.created,
    ):
        if told(one) != told(other):
            return f"{left} ({told(one)})", f"{right} ({told(other)})"
    return left, right
