"""The verdicts of one table: which comparisons are one family, what they say, and on what they rest."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from harness.errors import HarnessError
from harness.evidence.outcomes import Group, Outcomes, aligned, clusters_of
from harness.evidence.pairing import is_fixed, paired
from harness.report.layout import ColumnKey, Members
from harness.report.model import Average, Cell, Figure, Pair
from harness.report.model import where as name_of
from harness.stats.averages import average
from harness.stats.paired import Paired, difference_of_scores
from harness.stats.verdict import Verdict, verdicts

Place = tuple[str, ColumnKey]
Mean = tuple[str, int]
"""A row's label and the number of one of the table's averages."""


@dataclass(frozen=True, slots=True)
class Asked:
    """margin, assumed_seed_sd: fractions. all_pairs: every two strategies and not the reference's only."""

    margin: float
    assumed_seed_sd: float | None
    all_pairs: bool


@dataclass(frozen=True, slots=True)
class Decided:
    """cells: with their verdicts, or why there is none. means: of the averages. pairs: those without the
    reference. family: every comparison that was adjusted together, in words.
    """

    cells: dict[Place, Cell]
    means: dict[Mean, Verdict]
    pairs: tuple[Pair, ...]
    family: tuple[str, ...]


def decide(
    cells: Mapping[Place, Cell],
    members: Members,
    outcomes: Mapping[str, Outcomes],
    averages: Sequence[Average],
    reference: str | None,
    asked: Asked,
) -> Decided:
    """Compare every cell, and every average, with the reference's; with `all_pairs` every two cells of a
    column. All of it is one family. outcomes: by the first run of a group.
    """
    compared = _Comparer(members, outcomes, asked.assumed_seed_sd)
    found = dict(cells)
    results: dict[Place, Paired] = {}
    for place, cell in cells.items():
        other = (reference or "", place[1])
        if place == other:
            reason = "reference"
        elif other not in cells:
            reason = f"no run of {reference} on these items" if reference else "nothing to compare with"
        else:
            result = compared(place, other)
            if isinstance(result, Paired):
                results[place] = result
                found[place] = dataclasses.replace(cell, macro_f1_difference=compared.f1(place, other))
                continue
            reason = result
        found[place] = dataclasses.replace(cell, no_verdict=reason)
    means = _means(results, list(members.columns), averages)
    pairs = _pairs(cells, reference, compared) if asked.all_pairs else {}
    told = [*results.values(), *means.values(), *pairs.values()]
    decided = iter(verdicts(told, margin=asked.margin) if told else [])
    for place in results:
        found[place] = dataclasses.replace(found[place], verdict=next(decided))
    of_means = {mean: next(decided) for mean in means}
    titles = {key: column.title for key, column in members.columns.items()}
    of_pairs = tuple(Pair(a, b, titles[key], next(decided)) for a, b, key in pairs)
    family = [f"{name_of(label, titles[key])} against {reference}" for label, key in results]
    family += [f"{label}, average of {averages[i].title}, against {reference}" for label, i in means]
    family += [f"{name_of(a, titles[key])} against {b}" for a, b, key in pairs]
    return Decided(found, of_means, of_pairs, tuple(family))


@dataclass(frozen=True, slots=True)
class _Comparer:
    members: Members
    outcomes: Mapping[str, Outcomes]
    assumed_seed_sd: float | None

    def __call__(self, one: Place, other: Place) -> Paired | str:
        """The paired comparison of two cells, or why there is none."""
        a, b = self.members.groups[one], self.members.groups[other]
        own, theirs = self._of(a), self._of(b)
        if own is None or theirs is None:
            return "per-item outcomes cannot be read"
        try:
            return paired(a, own, b, theirs, self.assumed_seed_sd)
        except HarnessError as error:
            return error.message
        except ValueError as error:
            return str(error)

    def f1(self, one: Place, other: Place) -> Figure | None:
        """The paired difference of macro F1; None where a run does not say what it answered."""
        a, b = self.members.groups[one], self.members.groups[other]
        own, theirs = self._of(a), self._of(b)
        if own is None or theirs is None:
            return None
        own, theirs = aligned(own, theirs)
        if own.f1 is None or theirs.f1 is None or own.f1.shape[1] < 2:
            return None
        difference, ends = difference_of_scores(
            own.f1.astype(float), theirs.f1.astype(float), clusters=clusters_of(own), fixed_a=is_fixed(a),
            fixed_b=is_fixed(b), assumed_seed_sd=self.assumed_seed_sd,
        )  # fmt: skip
        return Figure(difference, *ends)

    def _of(self, group: Group) -> Outcomes | None:
        return self.outcomes.get(group.first.run_id)


def _means(
    results: Mapping[Place, Paired], columns: Sequence[ColumnKey], averages: Sequence[Average]
) -> dict[Mean, Paired]:
    """The averages' differences of those rows that are compared in all of an average's columns."""
    found = {}
    for label in dict.fromkeys(label for label, _ in results):
        for number, mean in enumerate(averages):
            parts = [results.get((label, columns[i])) for i in mean.columns]
            complete = [part for part in parts if part is not None]
            if len(complete) == len(parts):
                found[label, number] = average(complete)
    return found


def _pairs(
    cells: Mapping[Place, Cell], reference: str | None, compared: _Comparer
) -> dict[tuple[str, str, ColumnKey], Paired]:
    """Every two cells of a column, but those with the reference, which stand with their cells."""
    found = {}
    for key in dict.fromkeys(key for _, key in cells):
        labels = [label for label, own in cells if own == key and label != reference]
        for a, b in combinations(labels, 2):
            result = compared((a, key), (b, key))
            if isinstance(result, Paired):
                found[a, b, key] = result
    return found
