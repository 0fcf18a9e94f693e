"""The paired comparison against figures made by hand, by scipy and by statsmodels 0.15.0."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from harness.stats import crossed
from harness.stats.accuracy import accuracy
from harness.stats.intervals import wilson
from harness.stats.mcnemar import Table, score_p, table, tango_interval, tango_z
from harness.stats.paired import compare
from harness.stats.resample import paired_bootstrap

# Two groups of two runs on four items; the analysis is worked out in test_two_seeds_by_hand.
A = [[1, 1, 0, 0], [1, 1, 1, 0]]
B = [[0, 1, 0, 0], [0, 1, 0, 1]]


def from_table(both: int, only_a: int, only_b: int, neither: int) -> tuple[list[int], list[int]]:
    a = [1] * (both + only_a) + [0] * (only_b + neither)
    b = [1] * both + [0] * only_a + [1] * only_b + [0] * neither
    return a, b


def runs(
    rng: np.random.Generator,
    accuracy: float,
    difficulty: NDArray[np.float64],
    seeds: int,
    run: float,
    fit: float,
) -> NDArray[np.float64]:
    """Outcomes (simulations, seeds, n) of a probit world; difficulty (simulations, 1, n) has variance 1."""
    count, _, n = difficulty.shape
    centre = stats.norm.ppf(accuracy) * math.sqrt(2 + run**2 + fit**2)
    own = difficulty + fit * rng.standard_normal((count, 1, n))
    shift = run * rng.standard_normal((count, seeds, 1))
    right = centre + own + shift + rng.standard_normal((count, seeds, n)) > 0
    return np.asarray(right, dtype=np.float64)


def test_table() -> None:
    assert table([1, 1, 0, 0, 1], [1, 0, 1, 0, 0]) == Table(both=1, only_a=2, only_b=1, neither=1)


@pytest.mark.parametrize(
    ("outcome", "p"),
    [
        # By hand: 6^2 / 8 = 4.5 on one degree of freedom.
        (Table(1, 1, 7, 12), stats.chi2.sf(4.5, 1)),
        # statsmodels: mcnemar([[59, 6], [16, 80]], exact=False, correction=False).pvalue
        (Table(59, 6, 16, 80), 0.03300625766123255),
        # statsmodels: mcnemar([[40, 12], [3, 45]], exact=False, correction=False).pvalue
        (Table(40, 12, 3, 45), 0.020136751550346336),
        (Table(5, 3, 3, 1), 1.0),
        (Table(5, 0, 0, 1), 1.0),
    ],
)
def test_score_p_is_mcnemars_without_correction(outcome: Table, p: float) -> None:
    assert score_p(outcome) == pytest.approx(p, abs=1e-12)


@pytest.mark.parametrize("extra", [0.0, 0.01**2])
def test_p_and_interval_agree_for_every_table(extra: float) -> None:
    """p < 0.05 exactly where the 95% interval leaves out 0: all tables up to 24 items, and the sums of tables
    beyond. The exact test beside Tango's interval gave p 0.064 with [+0.4, +19.9].
    """
    for n in (*range(1, 25), 60, 150):
        for b in range(n + 1) if n < 25 else range(0, n + 1, 7):
            for c in range(n + 1 - b) if n < 25 else range(0, n + 1 - b, 5):
                outcome = Table(0, b, c, n - b - c)
                low, high = tango_interval(outcome, extra=extra)
                assert (score_p(outcome, extra) < 0.05) == (low > 0 or high < 0), outcome


def test_the_issues_table_is_no_contradiction() -> None:
    """p 0.064 stood beside [+0.4, +19.9]: what is shown by one is shown by the other, for compare as well."""
    for b, c in ((12, 3), (13, 4), (10, 2), (14, 5), (9, 2), (6, 0), (5, 0), (4, 0), (11, 3)):
        result = compare(*from_table(60, b, c, 25))
        assert (result.p < 0.05) == (result.interval[0] > 0)


def test_tango_published() -> None:
    """Fagerland, Lydersen & Laake 2014, the airway data: -0.286, Tango's interval -0.517 to -0.026."""
    assert tango_interval(Table(1, 1, 7, 12)) == pytest.approx((-0.517, -0.026), abs=5e-4)


def test_tango_at_zero_is_mcnemars_statistic() -> None:
    # (b - c) / sqrt(b + c)
    assert tango_z(Table(40, 12, 3, 45), 0.0) == pytest.approx(9 / math.sqrt(15))


@pytest.mark.parametrize("n", [1, 30, 1273])
def test_tango_of_equal_runs(n: int) -> None:
    # b = c = 0: |z| = n d / sqrt(n d (1 - d)), which is 1.96 at d = z^2 / (n + z^2).
    end = 1.959963984540054**2 / (n + 1.959963984540054**2)
    assert tango_interval(Table(n, 0, 0, 0)) == pytest.approx((-end, end), abs=1e-9)


def test_tango_at_the_ends() -> None:
    low, high = tango_interval(Table(0, 20, 0, 0))
    assert high == 1.0
    assert 0.6 < low < 1.0
    assert tango_interval(Table(0, 0, 20, 0)) == pytest.approx((-1.0, -low))


def test_one_seed() -> None:
    result = compare(*from_table(40, 12, 3, 45))
    assert result.difference == pytest.approx(0.09)
    assert result.p == pytest.approx(0.020136751550346336)
    assert result.interval == result.items_interval == tango_interval(Table(40, 12, 3, 45))
    assert result.discordant == pytest.approx(0.15)
    assert result.scope == "runs"
    assert compare(*from_table(40, 12, 3, 45), fixed_a=True).scope == "runs"
    assert compare(*from_table(40, 12, 3, 45), fixed_a=True, fixed_b=True).scope == "methods"
    assert result.p_at_most(result.interval[0]) == pytest.approx(0.025, abs=1e-6)
    assert result.p_at_least(result.interval[1]) == pytest.approx(0.025, abs=1e-6)


def test_two_seeds_by_hand() -> None:
    """Accuracies .5 .75 and .25 .5: the runs' variance is .03125 in either group.
    Item means 1 1 .5 0 and 0 1 0 .5, differences 1 0 .5 -.5: mean .25, squares about it 1.25, so that the
    variance over items is 1.25 / 3 / 4 = .1041667.
    Residuals runs x items of A: -+.125 on three items, -+.375 on the one that flips: squares .375, mean
    square .375 / 3 = .125, over 4 items .03125; B alike. With two runs each 1/2 + 1/2 = 1:
    flips .03125, seeds .03125, total .1041667 - .03125 + .03125.
    Degrees of seeds, of two equal parts of one degree: 1 / (.25 / 2 + .25 / 2) - 1 = 3. Satterthwaite:
    .1041667^2 / (.0729167^2 / 3 + .03125^2 / 3) = 5.1724138; half way to 3: 4.0862069.
    """
    result = compare(A, B)
    v = result.variance
    assert v is not None
    assert float(v.items) == pytest.approx(1.25 / 12)
    assert float(v.flips) == pytest.approx(0.03125)
    assert float(v.seeds) == pytest.approx(0.03125)
    assert float(v.total) == pytest.approx(1.25 / 12)
    assert float(v.degrees) == pytest.approx(4.0862069)
    assert result.difference == pytest.approx(0.25)
    # Over items alone there are 3 degrees, so that this test is the stricter here.
    assert result.p == pytest.approx(2 * stats.t.sf(0.25 / math.sqrt(1.25 / 12), 3))
    assert result.interval == result.items_interval
    assert result.spread is not None
    assert result.spread.accuracy_sd_a == pytest.approx(math.sqrt(0.03125))
    assert result.spread.seed_variance == pytest.approx(0.0)
    # One item of four flips between the two runs of either group.
    assert result.spread.flip_share == pytest.approx(0.25)
    # A's .5 .5 means nothing shared: 1(1-0) + 0 + .5(1-0) + .5, over 4
    assert result.discordant == pytest.approx(0.5)
    assert result.scope == "methods"


def test_clusters_of_one_are_the_paired_t_test() -> None:
    a, b = from_table(100, 30, 12, 60)
    result = compare(a, b, clusters=range(202))
    reference = stats.ttest_rel(a, b)
    assert result.p == pytest.approx(reference.pvalue)
    interval = reference.confidence_interval()
    assert result.interval == pytest.approx((interval.low, interval.high))


def test_clusters_of_equal_items_count_once() -> None:
    """Every item asked five times with the same outcome is no more evidence than once."""
    a, b = (np.array(x) for x in from_table(40, 20, 5, 35))
    once = compare(a, b, clusters=range(100))
    often = compare(np.repeat(a, 5), np.repeat(b, 5), clusters=np.repeat(range(100), 5))
    assert often.p == pytest.approx(once.p)
    assert often.interval == pytest.approx(once.interval)
    order = np.random.default_rng(0).permutation(500)
    shuffled = compare(
        np.repeat(a, 5)[order], np.repeat(b, 5)[order], clusters=np.repeat(range(100), 5)[order]
    )
    assert shuffled.p == pytest.approx(often.p)


@pytest.mark.parametrize("shape", [(1, 60), (3, 60)])
def test_swapping_flips_the_sign(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(4)
    a, b = rng.integers(0, 2, shape), rng.integers(0, 2, shape)
    one, other = compare(a, b), compare(b, a)
    assert one.difference == pytest.approx(-other.difference)
    assert one.p == pytest.approx(other.p)
    assert one.interval == pytest.approx((-other.interval[1], -other.interval[0]))


@pytest.mark.parametrize("shape", [(60,), (1, 60), (3, 60)])
def test_identical_runs(shape: tuple[int, ...]) -> None:
    a = np.random.default_rng(4).integers(0, 2, shape)
    result = compare(a, a)
    assert result.p == 1.0
    assert result.interval[0] < 0 < result.interval[1]


def test_repeated_runs_are_one_run() -> None:
    """Zero-shot under three seeds is no more than one run."""
    a, b = from_table(40, 12, 3, 45)
    result = compare([a] * 3, [b])
    assert result.p == pytest.approx(0.020136751550346336)
    assert (result.runs_a, result.runs_b) == (3, 1)
    assert result.scope == "runs"  # b could vary, and was run once
    assert compare([a] * 3, [b], fixed_b=True).scope == "methods"


def test_one_run_beside_several_is_about_these_runs() -> None:
    """The others' variance is not lent to it: with it, identical methods differed in 25 to 48%."""
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 2, (3, 80)), rng.integers(0, 2, (1, 80))
    one, fixed = compare(a, b), compare(a, b, fixed_b=True)
    assert (one.scope, fixed.scope) == ("runs", "methods")
    assert one.variance is not None
    assert float(one.variance.seeds) == 0.0
    assert one.interval == pytest.approx(one.items_interval)
    # The test over items of the difference to the mean of the three.
    reference = stats.ttest_rel(a.mean(axis=0), b[0])
    assert one.p == pytest.approx(reference.pvalue)


@pytest.mark.parametrize("shape", [(1, 1), (3, 1)])
@pytest.mark.parametrize("clusters", [None, np.arange(400) // 2])
def test_an_assumed_deviation_widens_to_the_methods(shape: tuple[int, int], clusters: object) -> None:
    rng = np.random.default_rng(3)
    ability = rng.uniform(0.2, 0.9, 400)
    a, b = ((rng.random((s, 400)) < ability).astype(int) for s in shape)
    runs = compare(a, b, clusters=clusters)
    assumed = compare(a, b, clusters=clusters, assumed_seed_sd=0.02)
    more = compare(a, b, clusters=clusters, assumed_seed_sd=0.05)
    assert (runs.scope, assumed.scope, assumed.assumed_seed_sd) == ("runs", "methods_assumed_sd", 0.02)
    widths = [r.interval[1] - r.interval[0] for r in (runs, assumed, more)]
    assert widths[0] < widths[1] < widths[2]
    assert runs.p < assumed.p < more.p
    if clusters is None and shape == (1, 1):
        # By hand: the score statistic with the runs' variance, 2 x 0.02^2, beside that of the items.
        n, t = 400, assumed.table
        assert t is not None
        z = (t.only_a - t.only_b) / math.sqrt(t.only_a + t.only_b + n**2 * 2 * 0.02**2)
        assert assumed.p == pytest.approx(2 * stats.norm.sf(abs(z)))
    assert compare(a, b, fixed_a=True, fixed_b=True, assumed_seed_sd=0.02).scope == "methods"
    with pytest.raises(ValueError, match="standard deviation over seeds"):
        compare(a, b, assumed_seed_sd=0.0)


def test_an_assumed_deviation_holds_its_size() -> None:
    """Equal methods whose runs vary by 2 points: one run each, 2 points assumed."""
    rng = np.random.default_rng(8)
    ability = rng.uniform(0.2, 0.9, (1500, 600))
    shown = 0
    for own in ability:
        a, b = (rng.random(600) < own + rng.normal(0, 0.02) for _ in range(2))
        shown += compare(a, b, assumed_seed_sd=0.02).p <= 0.05
    assert shown / 1500 <= 0.065


@pytest.mark.parametrize("shape", [(2, 2), (3, 3), (3, 5), (2, 7)])
@pytest.mark.parametrize("clusters", [None, np.arange(120) // 3])
def test_items_and_seeds_are_never_more_certain_than_items_alone(
    shape: tuple[int, int], clusters: object
) -> None:
    rng = np.random.default_rng(sum(shape))
    for _ in range(60):
        ability = rng.uniform(0.1, 0.9, 120)
        a, b = ((rng.random((s, 120)) < ability).astype(int) for s in shape)
        result = compare(a, b, clusters=clusters)
        assert result.interval[0] <= result.items_interval[0] + 1e-12
        assert result.interval[1] >= result.items_interval[1] - 1e-12
        assert (result.p < 0.05) == (result.interval[0] > 0 or result.interval[1] < 0)


def test_equal_accuracies_by_chance_do_not_make_it_certain() -> None:
    """Runs of the same accuracy have no variance; the interval is then of the items and flips."""
    rng = np.random.default_rng(5)
    base = np.arange(100) < 50
    a = np.array([rng.permutation(base) for _ in range(3)])
    b = np.array([rng.permutation(np.arange(100) < 55) for _ in range(3)])
    result = compare(a, b)
    assert result.interval[0] < 0 < result.interval[1]


def test_refusals() -> None:
    with pytest.raises(ValueError, match="not the same items"):
        compare([1, 0], [1, 0, 1])
    with pytest.raises(ValueError, match="0 or 1"):
        compare([0.5, 1], [1, 0])
    with pytest.raises(ValueError, match="clusters have shape"):
        compare(A, B, clusters=[1, 2])
    with pytest.raises(ValueError, match="two clusters"):
        compare(A, B, clusters=[1, 1, 1, 1])
    with pytest.raises(ValueError, match="neither empty"):
        compare([], [])


def test_bootstrap_by_hand_and_by_scipy() -> None:
    # Of (0, 1) a resample has mean 0, .5 or 1 with chances 1/4 1/2 1/4.
    assert paired_bootstrap([0.0, 1.0]) == (0.0, 1.0)
    assert paired_bootstrap([0.25] * 9) == (0.25, 0.25)
    values = np.array(from_table(40, 12, 3, 45)[0], float) - from_table(40, 12, 3, 45)[1]
    reference = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=10_000, rng=np.random.default_rng(0)
    ).confidence_interval
    assert paired_bootstrap(values) == pytest.approx((reference.low, reference.high), abs=0.011)
    assert paired_bootstrap(values) == paired_bootstrap(values)
    assert paired_bootstrap(values) == pytest.approx(tango_interval(Table(40, 12, 3, 45)), abs=0.015)


def test_bootstrap_of_clusters_is_wider() -> None:
    values = np.repeat(np.random.default_rng(0).integers(-1, 2, 40), 5)
    low, high = paired_bootstrap(values)
    wide_low, wide_high = paired_bootstrap(values, clusters=np.repeat(range(40), 5))
    assert (wide_high - wide_low) / (high - low) == pytest.approx(math.sqrt(5), rel=0.1)


def test_accuracy_of_one_run_is_wilson() -> None:
    result = accuracy([1] * 70 + [0] * 30)
    assert result.interval == wilson(70, 100)
    # The variance of a sample is n / (n - 1) of the binomial's, and t is a little more than z.
    assert accuracy([1] * 70 + [0] * 30, clusters=range(100)).interval == pytest.approx(
        wilson(70, 100), abs=2e-3
    )
    assert accuracy([[1, 1], [1, 1]]).interval == wilson(2, 2)


@pytest.mark.parametrize(
    ("correct", "clusters"),
    [
        ([[1, 0] * 20, [0, 1] * 20], None),  # two runs that complete each other: no item's mean differs
        ([1, 0] * 20, np.arange(40) // 2),  # one right in every cluster
        ([[1, 0] * 20, [1, 0] * 20], np.arange(40) // 2),
        ([0] * 40, None),
        ([[1] * 40, [1] * 40], np.arange(40) // 2),
    ],
)
def test_an_accuracys_interval_has_a_width(correct: object, clusters: object) -> None:
    low, high = accuracy(correct, clusters).interval
    assert high - low > 0.05


@pytest.mark.parametrize("run", [0.0, 0.1])
@pytest.mark.parametrize("seeds", [3, 5])
def test_coverage_and_false_positives(seeds: int, run: float) -> None:
    """2,000 simulations: 1 point of coverage is two standard errors."""
    rng = np.random.default_rng(seeds)
    difficulty = rng.standard_normal((2000, 1, 300))
    a, b, same = (runs(rng, accuracy, difficulty, seeds, run, 0.4) for accuracy in (0.7, 0.66, 0.7))
    groups = [crossed.group(x) for x in (a, b, same)]
    v = crossed.variance(groups[:2], 300)
    error = np.abs(groups[0].accuracy - groups[1].accuracy - 0.04)
    assert 0.94 <= (error <= crossed.half_width(v)).mean() <= 0.985
    v = crossed.variance([groups[0], groups[2]], 300)
    assert (np.abs(groups[0].accuracy - groups[2].accuracy) > crossed.half_width(v)).mean() <= 0.05
    # Items alone, were they all that is looked at, would not hold where runs vary.
    if run:
        items_only = 1.96 * np.sqrt(v.items)
        assert (np.abs(groups[0].accuracy - groups[2].accuracy) > items_only).mean() > 0.08
    # What the arrays say is what compare says.
    one = compare(a[0], same[0])
    assert one.interval[1] - one.difference == pytest.approx(float(crossed.half_width(v)[0]))
