"""The power forecast against enumeration, simulation and the rule of thumb."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from harness.stats import crossed
from harness.stats.mcnemar import Table, score_p
from harness.stats.paired import compare
from harness.stats.power import Design, power, smallest_detectable, smallest_detectable_of


def test_one_seed_is_the_sum_over_all_tables() -> None:
    n, discordant, difference = 25, 0.4, 0.3
    total = 0.0
    for b in range(n + 1):
        for c in range(n + 1 - b):
            if score_p(Table(0, b, c, n - b - c)) <= 0.05:
                total += stats.multinomial.pmf((b, c, n - b - c), n, (0.35, 0.05, 0.6))
    assert power(difference, Design(n, discordant)) == pytest.approx(total, abs=1e-9)


def test_rule_of_thumb() -> None:
    """papers.md: MedQA, 20% discordant, 3.5 points; PubMedQA, 15%, 4.8."""
    for n, discordant in ((1273, 0.20), (500, 0.15)):
        size = smallest_detectable(Design(n, discordant))
        assert size == pytest.approx(2.8 * math.sqrt(discordant / n), rel=0.06)


def test_bounds() -> None:
    design = Design(500, 0.2)
    assert power(0.0, design) <= 0.0503  # the size of the score test there
    assert power(0.1, design) == power(-0.1, design)
    assert power(0.05, design) > power(0.03, design) > power(0.03, Design(500, 0.2, alpha=0.005))
    assert power(0.5, Design(500, 0.1)) == pytest.approx(1.0)
    assert power(0.0, Design(500, 0.0)) == 0.0
    assert smallest_detectable(Design(3, 0.2)) is None  # three items cannot give p <= 0.05


def test_seeds_help_where_runs_flip_and_not_where_they_do_not() -> None:
    one, five = (smallest_detectable(Design(500, 0.2, seeds, flips=0.15)) for seeds in (1, 5))
    assert one is not None
    assert five is not None
    assert five < 0.75 * one
    # No flips: more seeds show no more, but for McNemar's discreteness.
    assert smallest_detectable(Design(500, 0.2, 5)) == pytest.approx(one, rel=0.06)


@pytest.mark.parametrize("seed_sd", [0.0, 0.015])
@pytest.mark.parametrize("seeds", [3, 5])
def test_forecast_is_within_three_points_of_simulation(seeds: int, seed_sd: float) -> None:
    """Each item has its own chance of being right under A and B; shifts of a run add to it."""
    n, count, difference = 400, 3000, 0.05
    rng = np.random.default_rng(seeds)
    ability = rng.uniform(0.2, 0.9, (count, 1, n))
    fit = rng.choice([-0.08, 0.08], (count, 1, n))
    chance_a, chance_b = ability + fit / 2 + difference / 2, ability - fit / 2 - difference / 2
    shown = []
    for chance in (chance_a, chance_b):
        shift = rng.normal(0, seed_sd, (count, seeds, 1)) if seed_sd else 0.0
        shown.append(crossed.group((rng.random((count, seeds, n)) < chance + shift).astype(float)))
    v = crossed.variance(shown, n)
    simulated = (np.abs(shown[0].accuracy - shown[1].accuracy) > crossed.half_width(v)).mean()
    flips = 2 * float((chance_a * (1 - chance_a) + chance_b * (1 - chance_b)).mean()) / 2
    discordant = float((chance_a * (1 - chance_b) + chance_b * (1 - chance_a)).mean())
    forecast = power(difference, Design(n, discordant, seeds, flips, seed_sd))
    assert forecast == pytest.approx(simulated, abs=0.03)


def test_smallest_of_a_comparison() -> None:
    a, b = [1] * 600 + [0] * 400, [1] * 500 + [0] * 100 + [1] * 90 + [0] * 310
    result = compare(a, b)
    assert smallest_detectable_of(result) == smallest_detectable(Design(1000, 0.19))
    rng = np.random.default_rng(0)
    runs = compare(rng.integers(0, 2, (3, 500)), rng.integers(0, 2, (3, 500)))
    alone, of_ten = smallest_detectable_of(runs), smallest_detectable_of(runs, 0.005)
    assert alone is not None
    assert of_ten is not None
    assert 0.01 < alone < of_ten < 0.3


def test_refusals() -> None:
    with pytest.raises(ValueError, match="needs items"):
        Design(0, 0.1)
    with pytest.raises(ValueError, match="discordant is a share"):
        Design(10, 1.1)
    with pytest.raises(ValueError, match="difference lies"):
        power(2.0, Design(10, 0.1))
