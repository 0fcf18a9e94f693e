"""Two groups of runs on the same items: what differs, whether it is real, and at what cost.

Differences are A less B in fractions of 1: positive favours A. Legend: S seeds, n items.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.errors import StoreError, UsageError
from harness.escape import plain
from harness.evidence.audit import Difference, audit, comparable
from harness.evidence.costs import CostRow, cost_rows
from harness.evidence.outcomes import Group, Outcomes, aligned, clusters_of, load_outcomes
from harness.evidence.pairing import is_fixed, paired
from harness.evidence.selection import names_of
from harness.evidence.tuned import NEITHER, Tuning, tuning_differences, tuning_of, untuned
from harness.stats.equivalence import Equivalence, equivalence
from harness.stats.family import holm
from harness.stats.mcnemar import Interval
from harness.stats.paired import Paired
from harness.stats.paired import compare as compare_outcomes
from harness.stats.resample import paired_bootstrap
from harness.stats.verdict import Verdict, verdicts
from harness.store.runs import Store


@dataclass(frozen=True, slots=True)
class Subgroup:
    """The difference on a part of the items. p_adjusted: Holm over this comparison's subgroups.

    interval: 95%, not adjusted; `None` (and p 1) for a part too small for one.
    """

    name: str
    n: int
    accuracy_a: float
    accuracy_b: float
    difference: float
    interval: Interval | None
    p_adjusted: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """All that is said about a pair. accuracies_a, accuracies_b: of each run, in the order of its group."""

    name_a: str
    name_b: str
    a: Group
    b: Group
    audit: tuple[Difference, ...]
    notes: tuple[str, ...]
    paired: Paired
    verdict: Verdict
    equivalence: Equivalence
    bootstrap: Interval
    accuracies_a: tuple[float, ...]
    accuracies_b: tuple[float, ...]
    item_means: tuple[tuple[float, int], ...]
    subgroups: tuple[Subgroup, ...]
    costs: tuple[CostRow, ...]
    cost_note: str
    tuned: tuple[Tuning | None, Tuning | None]


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two groups, their outcomes aligned."""

    a: Group
    b: Group
    notes: list[str]
    audit: list[Difference]
    tuned: tuple[Tuning | None, Tuning | None]
    one: Outcomes
    other: Outcomes


def compare_pairs(
    store: Store,
    pairs: Sequence[tuple[Group, Group]],
    margin: float,
    warn: Callable[[str], None],
    assumed_seed_sd: float | None = None,
) -> list[Comparison]:
    """Compare each pair over all their runs; the pairs are one family. `margin` in fractions of 1;
    assumed_seed_sd: as `harness.stats.paired.compare`.

    A pair of which a run cannot be read is told to `warn` and left out, where another one is left.
    Raises `UsageError` naming what differs where scores must not be compared.
    """
    prepared, problems = [], []
    for pair in pairs:
        try:
            prepared.append(_prepared(store, *pair))
        except StoreError as error:
            problems.append(error)
    if problems and not prepared:
        raise problems[0]
    for problem in problems:
        warn(f"{problem.message}: this comparison is left out")
    results = [paired_test(own.a, own.b, own.one, own.other, assumed_seed_sd) for own in prepared]
    decided = verdicts(results, margin=margin)
    return [
        _comparison(own, result, verdict, assumed_seed_sd)
        for own, result, verdict in zip(prepared, results, decided, strict=True)
    ]


def _prepared(store: Store, a: Group, b: Group) -> _Pair:
    found = audit(a.records, b.records)
    refuse(found, *names_of(a, b))
    tuned = (tuning_of(store, a.records), tuning_of(store, b.records))
    found += tuning_differences(a.records, b.records, tuned)
    outcomes = aligned(load_outcomes(store, a), load_outcomes(store, b))
    notes = [NEITHER] if untuned(a.records, b.records, tuned) else []
    return _Pair(a, b, notes + _notes(a, b), found, tuned, *outcomes)


def refuse(found: Sequence[Difference], name_a: str, name_b: str) -> None:
    """Raise `UsageError` with the whole audit where it forbids a comparison of scores."""
    if comparable(found):
        return
    breaks = "\n".join(f"  - {plain(d)}" for d in found if d.severity == "breaks")
    warns = "\n".join(f"  - {plain(d)}" for d in found if d.severity == "warns")
    more = f"\nAlso different:\n{warns}" if warns else ""
    raise UsageError(
        f"the scores of {plain(name_a)} and {plain(name_b)} must not be compared. Different:\n{breaks}{more}",
        "Run both on the same items with the same --data, --scoring and --limit.",
    )


def paired_test(
    a: Group, b: Group, one: Outcomes, other: Outcomes, assumed_seed_sd: float | None = None
) -> Paired:
    """The paired test of two groups. Raises `UsageError` for too few items."""
    if not one.example_ids:
        raise UsageError(f"{a.first.run_id} holds no items", "Run it again with --force.")
    try:
        return paired(a, one, b, other, assumed_seed_sd)
    except ValueError as error:
        raise UsageError(f"{a.first.run_id} and {b.first.run_id} cannot be compared: {error}") from error


def _comparison(pair: _Pair, result: Paired, verdict: Verdict, assumed_seed_sd: float | None) -> Comparison:
    a, b, one, other = pair.a, pair.b, pair.one, pair.other
    name_a, name_b = names_of(a, b)
    differences = one.correct.mean(axis=0) - other.correct.mean(axis=0)  # (n,)
    costs, cost_note = cost_rows(a.records, b.records, pair.tuned)
    return Comparison(
        name_a=name_a, name_b=name_b, a=a, b=b, audit=tuple(pair.audit), notes=tuple(pair.notes),
        paired=result, verdict=verdict, equivalence=equivalence(result, verdict.margin),
        bootstrap=paired_bootstrap(differences, clusters=clusters_of(one)),
        accuracies_a=tuple(map(float, one.correct.mean(axis=1))),
        accuracies_b=tuple(map(float, other.correct.mean(axis=1))),
        item_means=_histogram(differences), subgroups=_subgroups(a, b, one, other, assumed_seed_sd),
        costs=costs, cost_note=cost_note, tuned=pair.tuned,
    )  # fmt: skip


def _notes(a: Group, b: Group) -> list[str]:
    notes = []
    if [r.run_id for r in a.records] == [r.run_id for r in b.records]:
        notes.append("both sides are the same runs")
    notes += [note for note in dict.fromkeys(r.data.note for r in (a.first, b.first) if r.data) if note]
    return notes


def _histogram(differences: NDArray[np.float64]) -> tuple[tuple[float, int], ...]:
    """How many items have which mean difference, from A's favour to B's."""
    values, counts = np.unique(np.round(differences, 6), return_counts=True)
    return tuple((float(v), int(c)) for v, c in zip(values[::-1], counts[::-1], strict=True))


def _subgroups(
    a: Group, b: Group, one: Outcomes, other: Outcomes, assumed_seed_sd: float | None
) -> tuple[Subgroup, ...]:
    """Each subgroup's difference; none where there is only one."""
    labels = np.array(one.subgroups, dtype=object)
    clusters = np.array(one.clusters, dtype=object)
    names = sorted(set(one.subgroups))
    if len(names) < 2:
        return ()
    rows = []
    for name in names:
        left, right = one.correct[:, labels == name], other.correct[:, labels == name]
        n = left.shape[1]
        own = clusters[labels == name] if len(clusters) else None
        result = None
        alone = n if own is None else len(set(own))  # what stands alone, items or clusters
        if alone > 1 or (own is None and len(left) == len(right) == 1):
            result = compare_outcomes(
                left, right, clusters=own, fixed_a=is_fixed(a), fixed_b=is_fixed(b), assumed_seed_sd=assumed_seed_sd
            )  # fmt: skip
        rows.append((name, n, float(left.mean()), float(right.mean()), result))
    adjusted = holm([row[4].p if row[4] else 1.0 for row in rows])
    return tuple(
        Subgroup(name or "(none)", n, x, y, x - y, result.interval if result else None, p)
        for (name, n, x, y, result), p in zip(rows, adjusted, strict=True)
    )
