"""Is the difference small enough not to matter? From the standard error of the comparison's own test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from harness.stats import exact
from harness.stats.mcnemar import Interval, Table
from harness.stats.paired import Paired

MARGIN = 0.02
"""Two points of accuracy: what two strategies may differ by and still be called equivalent."""


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided tests. p: the larger of the two; interval: the one of confidence 1 - 2 alpha, which
    lies within the margin exactly where p < alpha (of one run of each: wherever p < alpha).
    """

    margin: float
    p: float
    p_lower: float
    p_upper: float
    interval: Interval
    equivalent: bool


@dataclass(frozen=True)
class NonInferiority:
    """Is the candidate (A) worse than the baseline (B) by less than the margin?

    lower, upper: one-sided bounds of the difference, each at `confidence`. outcome: pass where lower is
    above -margin, fail where upper is below it, else cannot_tell.
    """

    margin: float
    confidence: float
    p: float
    lower: float
    upper: float
    outcome: Literal["pass", "fail", "cannot_tell"]


def equivalence(result: Paired, margin: float = MARGIN, alpha: float = 0.05) -> Equivalence:
    """Two one-sided tests (Schuirmann 1987, J. Pharmacokinet. Biopharm. 15:657-680) of a paired difference;
    for one run of each by Tango's score statistic (Liu, Hsueh, Hsieh & Chen 2002, Stat. Med. 21:231-245),
    and what that shows must be shown by the exact test as well, since of few items it shows too much.

    margin in fractions of 1. Raises ValueError for a margin outside 0 to 1 or an alpha outside 0 to 0.5.
    """
    _check(margin, alpha)
    p_lower, p_upper = result.p_at_most(-margin), result.p_at_least(margin)
    if max(p_lower, p_upper) < alpha and (table := exact_table(result)):
        p_lower = max(p_lower, exact.p_at_most(table, -margin))
        p_upper = max(p_upper, exact.p_at_least(table, margin))
    p = max(p_lower, p_upper)
    return Equivalence(margin, p, p_lower, p_upper, result.interval_at(1 - 2 * alpha), p < alpha)


def noninferiority(result: Paired, margin: float = MARGIN, confidence: float = 0.95) -> NonInferiority:
    """One-sided test that candidate A is not worse than baseline B by `margin` or more.

    One run of each: the exact unconditional test and its bounds; else as `equivalence`. Raises ValueError for a margin outside 0 to 1 or a confidence that is
    not between 0.5 and 1.
    """
    _check(margin, 1 - confidence)
    if table := exact_table(result):
        lower, upper = exact.interval(table, 2 * confidence - 1)
        p, opposite = exact.p_at_most(table, -margin), exact.p_at_least(table, -margin)
    else:
        lower, upper = result.interval_at(2 * confidence - 1)
        p, opposite = result.p_at_most(-margin), result.p_at_least(-margin)
    outcome: Literal["pass", "fail", "cannot_tell"] = "cannot_tell"
    if p < 1 - confidence:
        outcome = "pass"
    elif opposite < 1 - confidence:
        outcome = "fail"
    return NonInferiority(margin, confidence, p, lower, upper, outcome)


def exact_table(result: Paired) -> Table | None:
    """The 2x2 table where the exact tests are for it: one run of each, no clusters, no assumed deviation."""
    return result.table if result.variance is None and not result.extra else None


def _check(margin: float, alpha: float) -> None:
    if not 0 < margin < 1:
        raise ValueError(f"a margin is a fraction between 0 and 1 (0.02: two points), not {margin}")
    if not 0 < alpha < 0.5:
        raise ValueError(f"an error rate must lie between 0 and 0.5, not {alpha}")
