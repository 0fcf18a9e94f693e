"""What a comparison says: better, worse, equivalent, or no difference shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from harness.stats.equivalence import MARGIN, equivalence
from harness.stats.family import holm
from harness.stats.mcnemar import Interval
from harness.stats.paired import Paired
from harness.stats.power import smallest_detectable_of

Kind = Literal["better", "worse", "equivalent", "no_difference_shown"]


@dataclass(frozen=True)
class Verdict:
    """A against B, as one of a family of comparisons. Fractions of 1; positive favours A.

    p_adjusted, p_equivalence: after Holm over the family; a verdict is read from these two alone.
    p_equivalence is of the two one-sided tests within `margin`. interval: 95% of this difference, not
    adjusted for the family. within_margin: equivalence is shown as well, so that a `better` or `worse`
    is real and yet too small to matter. smallest_detectable: where no difference is shown, the one that
    these items and seeds would have shown with 80% power at alpha / comparisons (None: none). over_seeds: False where there was one
    run of each, and the verdict is then about these two runs: another seed may decide otherwise.
    """

    kind: Kind
    difference: float
    interval: Interval
    p: float
    p_adjusted: float
    p_equivalence: float
    margin: float
    within_margin: bool
    smallest_detectable: float | None
    n: int
    runs_a: int
    runs_b: int
    over_seeds: bool
    comparisons: int


def verdict(result: Paired, *, margin: float = MARGIN, alpha: float = 0.05) -> Verdict:
    """The verdict of a comparison that stands alone."""
    return verdicts([result], margin=margin, alpha=alpha)[0]


def verdicts(results: Sequence[Paired], *, margin: float = MARGIN, alpha: float = 0.05) -> list[Verdict]:
    """The verdicts of a family of comparisons, in the order given.

    Tests of difference and tests of equivalence are two families, each adjusted by Holm. A difference that
    is shown goes before an equivalence that is shown. Raises ValueError for a margin or alpha that is none.
    """
    adjusted = holm([r.p for r in results])
    equivalent = holm([equivalence(r, margin, alpha).p for r in results])
    return [
        Verdict(
            kind=(kind := _kind(r.difference, p_adjusted, p_equivalence, alpha)),
            difference=r.difference,
            interval=r.interval,
            p=r.p,
            p_adjusted=p_adjusted,
            p_equivalence=p_equivalence,
            margin=margin,
            within_margin=p_equivalence < alpha,
            smallest_detectable=(
                smallest_detectable_of(r, alpha / len(results)) if kind == "no_difference_shown" else None
            ),
            n=r.n,
            runs_a=r.runs_a,
            runs_b=r.runs_b,
            over_seeds=r.over_seeds,
            comparisons=len(results),
        )
        for r, p_adjusted, p_equivalence in zip(results, adjusted, equivalent, strict=True)
    ]


def _kind(difference: float, p_adjusted: float, p_equivalence: float, alpha: float) -> Kind:
    if p_adjusted <= alpha:
        return "better" if difference > 0 else "worse"
    return "equivalent" if p_equivalence < alpha else "no_difference_shown"
