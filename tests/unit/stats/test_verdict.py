"""Equivalence, non-inferiority and the verdicts made of them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from harness.stats.equivalence import equivalence, noninferiority
from harness.stats.mcnemar import Table, tango_z
from harness.stats.paired import Paired, compare
from harness.stats.verdict import verdict, verdicts


def of(both: int, only_a: int, only_b: int, neither: int, **more: object) -> Paired:
    a = [1] * (both + only_a) + [0] * (only_b + neither)
    b = [1] * both + [0] * only_a + [1] * only_b + [0] * neither
    if "clusters" in more:
        return compare(a, b, clusters=range(len(a)), fixed_a=True, fixed_b=True)
    fixed = bool(more.get("fixed", True))
    return compare(a, b, fixed_a=fixed, fixed_b=fixed)


def test_equivalence_as_in_statsmodels() -> None:
    """d = [1] * 12 + [-1] * 10 + [0] * 978; DescrStatsW(d).ttost_mean(-.02, .02) of statsmodels 0.15.0:
    p 6.643626292877348e-05, lower 1.5669506737017108e-06, upper 6.643626292877348e-05."""
    result = equivalence(of(900, 12, 10, 78, clusters=True))
    assert result.p == pytest.approx(6.643626292877348e-05, rel=1e-6)
    assert result.p_lower == pytest.approx(1.5669506737017108e-06, rel=1e-6)
    assert result.equivalent


def test_equivalence_by_hand_of_one_run() -> None:
    """Nothing discordant on 500 items: z = n m / sqrt(n m (1 - m)) = 10 / sqrt(9.8) at m = .02."""
    same = of(400, 0, 0, 100)
    z = 10 / 9.8**0.5
    assert tango_z(Table(400, 0, 0, 100), -0.02) == pytest.approx(z)
    # The exact test is the stricter.
    assert stats.norm.sf(z) < equivalence(same).p < 1.1 * stats.norm.sf(z)
    assert equivalence(same).equivalent
    # 140 items that agree: Tango's test would say equivalent, the exact one does not (0.98^140 = 0.059).
    assert stats.norm.sf(tango_z(Table(140, 0, 0, 0), -0.02)) < 0.05
    assert not equivalence(of(140, 0, 0, 0)).equivalent
    assert not equivalence(of(24, 0, 0, 6)).equivalent


@pytest.mark.parametrize("only_a", [5, 20, 35, 50])
@pytest.mark.parametrize("runs", [1, 3])
def test_the_interval_says_what_the_test_says(only_a: int, runs: int) -> None:
    rng = np.random.default_rng(only_a)
    b = (rng.random((runs, 900)) < 0.7).astype(int)
    a = b.copy()
    for row in a:
        row[rng.choice(900, only_a, replace=False)] ^= 1
    result = compare(a, b)
    tost = equivalence(result)
    assert tost.equivalent <= (tost.interval[0] > -0.02 and tost.interval[1] < 0.02)
    if runs > 1:
        assert tost.equivalent == (tost.interval[0] > -0.02 and tost.interval[1] < 0.02)
    non = noninferiority(result)
    assert (non.outcome == "pass") == (non.lower > -0.02)
    assert (non.outcome == "fail") == (non.upper < -0.02)
    if runs > 1:
        assert non.p == pytest.approx(tost.p_lower)


def test_noninferiority_of_the_gate() -> None:
    """The issue's cases: a run against itself, 5 points worse at 1,273, and 30 items."""
    assert noninferiority(of(800, 0, 0, 473)).outcome == "pass"
    assert noninferiority(of(736, 0, 64, 473)).outcome == "fail"
    assert noninferiority(of(20, 1, 2, 7)).outcome == "cannot_tell"


def test_agreement_on_every_item_passes_from_149_on() -> None:
    """0.98^148 = 0.0503, 0.98^149 = 0.0493; Tango's interval let 133 pass."""
    assert noninferiority(of(148, 0, 0, 0)).outcome == "cannot_tell"
    assert noninferiority(of(149, 0, 0, 0)).outcome == "pass"
    assert noninferiority(of(149, 0, 0, 0)).p == pytest.approx(0.98**149)


def test_four_verdicts() -> None:
    kinds = [
        verdict(of(700, 150, 50, 373)).kind,
        verdict(of(700, 50, 150, 373)).kind,
        verdict(of(900, 5, 6, 362)).kind,
        verdict(of(20, 4, 2, 4)).kind,
    ]
    assert kinds == ["better", "worse", "equivalent", "no_difference_shown"]


def test_one_run_of_a_method_that_varies_never_speaks_of_methods() -> None:
    tables = ((700, 150, 50, 373), (700, 50, 150, 373), (900, 5, 6, 362), (20, 4, 2, 4))
    found = [verdict(of(*t, fixed=False)) for t in tables]
    assert [v.kind for v in found] == [
        "runs_differ", "runs_differ", "runs_within_margin", "runs_show_no_difference"
    ]  # fmt: skip
    assert {v.scope for v in found} == {"runs"}
    assert all("not about the methods" in v.caveat for v in found)
    methods = [verdict(of(*t)) for t in tables]
    assert {(v.scope, v.caveat) for v in methods} == {("methods", "")}
    assert [v.p for v in methods] == [v.p for v in found]


def test_an_assumed_deviation_is_said() -> None:
    a, b = [1] * 850 + [0] * 423, [1] * 700 + [0] * 150 + [1] * 50 + [0] * 373
    found = verdict(compare(a, b, assumed_seed_sd=0.015))
    assert (found.kind, found.scope) == ("better", "methods_assumed_sd")
    assert found.caveat == "assumes a seed sd of 1.5 points"
    unsure = verdict(compare(a, b, assumed_seed_sd=0.06))
    assert unsure.kind == "no_difference_shown"
    assert unsure.smallest_detectable is not None
    # 80% power needs the half width and 0.84 standard errors of 8.6 points more.
    assert 0.2 < unsure.smallest_detectable < 0.3


def test_adjusted_intervals_say_what_the_adjusted_verdicts_say() -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        family = []
        for _ in range(int(rng.integers(2, 7))):
            b, c = rng.integers(0, 40, 2)
            family.append(of(60, int(b), int(c), 30, **({"clusters": True} if b % 2 else {})))
        for v in verdicts(family):
            low, high = v.adjusted_interval
            assert (v.kind in ("better", "worse")) == (low > 0 or high < 0)
            assert low <= v.interval[0] + 1e-9
            assert high >= v.interval[1] - 1e-9


def test_a_difference_within_the_margin_is_said_so() -> None:
    shown = verdict(of(10_000, 100, 50, 2_000))
    assert shown.kind == "better"
    assert shown.within_margin


def test_a_family_is_adjusted() -> None:
    """p = .0201 alone is a difference; after Holm among three it is not."""
    close = of(40, 12, 3, 45)
    assert verdict(close).kind == "better"
    family = verdicts([close, of(40, 6, 6, 48), of(40, 5, 7, 48)])
    assert [v.kind for v in family] == ["no_difference_shown"] * 3
    assert family[0].p == pytest.approx(0.020136751550346336)
    assert family[0].p_adjusted == pytest.approx(3 * 0.020136751550346336)
    assert verdicts([]) == []


def test_what_would_have_shown_is_told_where_nothing_is_shown() -> None:
    even = of(40, 6, 6, 48)
    alone, family = verdict(even), verdicts([even, even])[0]
    assert alone.smallest_detectable is not None
    assert family.smallest_detectable is not None
    assert alone.smallest_detectable < family.smallest_detectable
    assert verdict(of(40, 12, 3, 45)).smallest_detectable is None


def test_swapping_turns_better_into_worse() -> None:
    rng = np.random.default_rng(2)
    a = (rng.random((3, 600)) < 0.8).astype(int)
    b = (rng.random((3, 600)) < 0.6).astype(int)
    one, other = verdict(compare(a, b)), verdict(compare(b, a))
    assert (one.kind, other.kind) == ("better", "worse")
    assert one.scope == "methods"
    assert one.p_adjusted == pytest.approx(other.p_adjusted)
    assert verdict(compare(a, a)).p == 1.0


def test_refusals() -> None:
    with pytest.raises(ValueError, match="margin"):
        verdict(of(5, 1, 1, 1), margin=2)
    with pytest.raises(ValueError, match="error rate"):
        noninferiority(of(5, 1, 1, 1), confidence=0.4)
