"""The simulated worlds of stats_calibration.py. A probit one: a run answers an item correctly when

    mu[strategy] + difficulty[item] + fit[strategy, item] + run[strategy, seed] + noise[strategy, seed, item] > 0

all normal, so that the true accuracy over all items and seeds is known exactly, Phi(mu / sd of the sum), and
so is that of a run. Difficulty is shared by all strategies (which correlates their answers), and in worlds
with clusters both difficulty and fit are partly shared by the five items of a cluster.

Legend: C simulations at once, S seeds, n items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

CLUSTER = 5
Floats = NDArray[np.floating]


@dataclass(frozen=True)
class World:
    """Standard deviations on the probit scale (noise is 1); `together`: the share of the variance of
    difficulty and fit that a cluster's items have in common; run_b: the run deviation of strategy B.
    """

    name: str
    difficulty: float = 1.2
    fit: float = 0.5
    run: float = 0.0
    run_b: float | None = None
    together: float = 0.0

    def total(self, run: float) -> float:
        return float(np.sqrt(self.difficulty**2 + self.fit**2 + run**2 + 1))

    def run_of(self, place: int) -> float:
        """The run deviation of the strategy at this place: the first is A."""
        return self.run if place == 0 or self.run_b is None else self.run_b


@dataclass(frozen=True)
class Drawn:
    """One strategy's outcomes (C, S, n), and what a statement on it is about, (C,): the true accuracy of the
    method, or with one seed that of the run.
    """

    correct: Floats
    truth: Floats


# At accuracy 0.5 one unit of `run` is about 22 points of accuracy: 0.05 is 1.1 points, 0.1 is 2.2.
WORLDS = (
    World("items alike to both but for chance", fit=0.0),
    World("strategies suit different items"),
    World("and runs vary by 1 point", run=0.05),
    World("and runs vary by 2 points", run=0.1),
    World("and items come in clusters", run=0.05, together=0.4),
    World("runs of A vary by 2 points, of B by none", run=0.1, run_b=0.0),
)

# Settings that the rules were not chosen on: other worlds, accuracies, items and seeds.
OTHER_WORLDS = (
    World("items very unlike, runs vary by half a point", difficulty=2.0, run=0.025),
    World("strategies suit very different items, runs vary by 4 points", fit=1.0, run=0.18),
    World("runs of A vary by 4 points, of B by 1", run=0.18, run_b=0.05),
    World("A and B alike but for runs: A's vary by 4 points, B's do not", fit=0.0, run=0.18, run_b=0.0),
    World("items in strong clusters, runs vary by 2 points", fit=1.0, run=0.1, together=0.8),
)


def world_of_points(points: float, fit: float) -> World:
    """A world at accuracy 0.5 whose runs' true accuracies vary by so many points (standard deviation)."""
    quiet = World("", fit=fit)
    return World(
        f"runs vary by {points:g} points", fit=fit, run=points / 100 / stats.norm.pdf(0) * quiet.total(0)
    )


def of_items(world: World, sd: float, count: int, n: int, rng: np.random.Generator) -> Floats:
    """A normal effect of the items, (C, 1, n)."""
    own = rng.standard_normal((count, 1, n), dtype=np.float32)
    if world.together:
        shared = np.repeat(rng.standard_normal((count, 1, -(-n // CLUSTER)), dtype=np.float32), CLUSTER, 2)
        own = np.sqrt(1 - world.together) * own + np.sqrt(world.together) * shared[..., :n]
    return np.float32(sd) * own


def answers(
    world: World, accuracies: list[float], n: int, seeds: int, count: int, rng: np.random.Generator
) -> list[Drawn]:
    """What each strategy answers, on the same items."""
    difficulty = of_items(world, world.difficulty, count, n, rng)
    drawn = []
    for place, accuracy in enumerate(accuracies):
        run = world.run_of(place)
        centre = stats.norm.ppf(accuracy) * world.total(run)
        fixed = difficulty + of_items(world, world.fit, count, n, rng) if world.fit else difficulty
        shift = centre + run * rng.standard_normal((count, seeds, 1))
        noise = rng.standard_normal((count, seeds, n), dtype=np.float32)
        correct = (noise + fixed + shift.astype(np.float32) > 0).astype(np.float32)
        of_run = stats.norm.cdf(shift[:, 0, 0] / world.total(0.0))
        drawn.append(Drawn(correct, of_run if seeds == 1 else np.full(count, accuracy)))
    return drawn


def collapsing(
    good: float, bad: float, share: float, n: int, seeds: int, difficulty: Floats, rng: np.random.Generator
) -> Floats:
    """Outcomes (C, S, n) of a strategy whose runs reach `good`, or with chance `share` only `bad`."""
    count = len(difficulty)
    centre = np.where(rng.random((count, seeds, 1)) < share, stats.norm.ppf(bad), stats.norm.ppf(good))
    noise = rng.standard_normal((count, seeds, n), dtype=np.float32)
    return (noise + difficulty + (centre * World("", fit=0.0).total(0)).astype(np.float32) > 0).astype(
        np.float32
    )
