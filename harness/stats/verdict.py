"""What a comparison says: better, worse, equivalent, or no difference shown; of single runs, that they differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from harness.stats.equivalence import MARGIN, equivalence
from harness.stats.family import holm, holm_levels
from harness.stats.mcnemar import Interval
from harness.stats.paired import Paired, Scope
from harness.stats.power import smallest_detectable_of

Kind = Literal[
    "better", "worse", "equivalent", "no_difference_shown",
    "runs_differ", "runs_within_margin", "runs_show_no_difference",
]  # fmt: skip
"""The first four are about methods. The others, of one run of a method that varies, are about these runs."""

ABOUT_RUNS = "one run of a side: about these runs, not about the methods"


@dataclass(frozen=True)
class Verdict:
    """A against B, as one of a family of comparisons. Fractions of 1; positive favours A.

    p_adjusted, p_equivalence: after Holm over the family; a verdict is read from these two alone.
    p_equivalence is of the two one-sided tests within `margin`. interval: 95% of this difference, not
    adjusted for the family; adjusted_interval: at the level at which Holm decided this comparison, so that
    it leaves out 0 exactly where p_adjusted is below 5%. within_margin: equivalence is shown as well, so
    that a difference is real and yet too small to matter. smallest_detectable: where no difference is
    shown, the one that these items and seeds would have shown with 80% power at alpha / comparisons (None:
    none). scope: what it is about; caveat: what a reader must be told of that, where there is something.
    """

    kind: Kind
    scope: Scope
    caveat: str
    difference: float
    interval: Interval
    adjusted_interval: Interval
    p: float
    p_adjusted: float
    p_equivalence: float
    margin: float
    within_margin: bool
    smallest_detectable: float | None
    n: int
    runs_a: int
    runs_b: int
    assumed_seed_sd: float | None
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
    levels = holm_levels([r.p for r in results], alpha)
    equivalent = holm([equivalence(r, margin, alpha).p for r in results])
    return [
        Verdict(
            kind=(kind := _kind(r, p_adjusted, p_equivalence, alpha)),
            scope=r.scope,
            caveat=caveat(r.scope, r.assumed_seed_sd),
            difference=r.difference,
            interval=r.interval,
            adjusted_interval=r.interval if level == 0.05 else r.interval_at(1 - level),
            p=r.p,
            p_adjusted=p_adjusted,
            p_equivalence=p_equivalence,
            margin=margin,
            within_margin=p_equivalence < alpha,
            smallest_detectable=(
                smallest_detectable_of(r, alpha / len(results))
                if kind in ("no_difference_shown", "runs_show_no_difference")
                else None
            ),
            n=r.n,
            runs_a=r.runs_a,
            runs_b=r.runs_b,
            assumed_seed_sd=r.assumed_seed_sd,
            comparisons=len(results),
        )
        for r, p_adjusted, p_equivalence, level in zip(results, adjusted, equivalent, levels, strict=True)
    ]


def caveat(scope: Scope, assumed_seed_sd: float | None) -> str:
    """What must stand beside a statement of this scope; empty where it is simply about the methods."""
    if scope == "runs":
        return ABOUT_RUNS
    if scope == "methods_assumed_sd" and assumed_seed_sd is not None:
        return f"assumes a seed sd of {assumed_seed_sd * 100:g} points"
    return ""


def _kind(result: Paired, p_adjusted: float, p_equivalence: float, alpha: float) -> Kind:
    of_runs = result.scope == "runs"
    if p_adjusted <= alpha:
        return "runs_differ" if of_runs else "better" if result.difference > 0 else "worse"
    if p_equivalence < alpha:
        return "runs_within_margin" if of_runs else "equivalent"
    return "runs_show_no_difference" if of_runs else "no_difference_shown"
