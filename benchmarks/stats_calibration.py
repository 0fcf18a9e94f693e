"""Are the intervals, tests and forecasts of harness/stats what they say? A simulation.

    python benchmarks/stats_calibration.py [--simulations 10000] [--write]

Prints the tables; --write puts them into docs/statistics.md between its two markers. One core, some twenty
minutes; --acceptance makes only the table of false verdicts about methods. The worlds are in stats_worlds.py.

Legend: C simulations at once, S seeds, n items.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from functools import cache
from itertools import combinations
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from stats_worlds import (
    CLUSTER,
    OTHER_WORLDS,
    WORLDS,
    Drawn,
    World,
    answers,
    collapsing,
    of_items,
    world_of_points,
)  # fmt: skip

from harness.stats import crossed, paired
from harness.stats.accuracy import effective_wilson
from harness.stats.family import holm
from harness.stats.intervals import wilson
from harness.stats.mcnemar import Table, score_p, tango_interval
from harness.stats.power import Design, power, smallest_detectable
from harness.stats.verdict import verdicts

ITEMS = (100, 500, 1273)
OTHER_ITEMS, OTHER_ACCURACIES, OTHER_SEEDS = (200, 800), (0.35, 0.8), (2, 4, 10)
POINTS = (0.0, 1.0, 1.5, 2.0)
METHODS = 5
MARGIN = 0.02
ACCURACIES = (0.25, 0.5, 0.75, 0.9)
SEEDS = (1, 3, 5)
PAGE = Path(__file__).parents[1] / "docs" / "statistics.md"
BEGIN, END = "<!-- calibration: begin -->", "<!-- calibration: end -->"
CELLS_AT_ONCE = 1_500_000
Floats = NDArray[np.floating]


def cells() -> Iterator[tuple[int, float, int]]:
    for n in ITEMS:
        for accuracy in ACCURACIES:
            for seeds in SEEDS:
                yield n, accuracy, seeds


@cache
def one_run(b: int, c: int, n: int) -> tuple[float, float, float]:
    """(p, low, high) of one run of each: about these runs. Both right and both wrong need not be told apart."""
    outcome = Table(0, b, c, n - b - c)
    return (score_p(outcome), *tango_interval(outcome))


def compare(
    a: Floats, b: Floats, groups: tuple[crossed.Group, crossed.Group], clustered: bool
) -> tuple[Floats, Floats, Floats]:
    """(p, low, high), each (C,): what harness.stats.paired.compare gives for every simulation."""
    n = a.shape[-1]
    if a.shape[-2] == 1 and not clustered:
        only_a = (a * (1 - b)).sum(axis=(1, 2)).astype(int)
        only_b = (b * (1 - a)).sum(axis=(1, 2)).astype(int)
        rows = [one_run(x, y, n) for x, y in zip(only_a.tolist(), only_b.tolist(), strict=True)]
        p, low, high = np.array(rows).T
        return p, low, high
    v = crossed.variance(groups, n)
    difference = groups[0].accuracy - groups[1].accuracy
    half = crossed.half_width(v)
    p = 2 * crossed.tail(v, np.abs(difference))
    return p, difference - half, difference + half


def single(a: Floats, own: crossed.Group, clustered: bool) -> tuple[Floats, Floats]:
    """(low, high), each (C,): what harness.stats.accuracy.accuracy gives."""
    n = a.shape[-1]
    if a.shape[-2] == 1 and not clustered:
        low, high = np.array([wilson(hits, n) for hits in a.sum(axis=(1, 2)).astype(int).tolist()]).T
        return low, high
    # All right in every run: there is no variance to go by, and the interval counts as a miss.
    with np.errstate(invalid="ignore"):
        return effective_wilson(own.accuracy, crossed.variance([own], n))


def starts_of(world: World, n: int) -> NDArray[np.intp] | None:
    return np.arange(0, n, CLUSTER) if world.together else None


def coverage(
    world: World, n: int, accuracy: float, seeds: int, simulations: int
) -> tuple[float, float, float]:
    """(coverage of one accuracy, of the difference, share called different when identical). With one seed the
    accuracies are those of the runs, and the last is of runs that are identical only where runs do not vary.
    """
    rng = np.random.default_rng([n, int(1000 * accuracy), seeds, len(world.name)])
    starts = starts_of(world, n)
    # B is 3 points below A for the coverage; a third strategy, equal to A, for the false positives.
    accuracies = [accuracy, accuracy - 0.03, accuracy]
    one = two = false = done = 0
    while done < simulations:
        count = min(simulations - done, max(1, CELLS_AT_ONCE // (n * seeds)))
        drawn = answers(world, accuracies, n, seeds, count, rng)
        a, b, same = (own.correct for own in drawn)
        groups = [crossed.group(x, starts) for x in (a, b, same)]
        low, high = single(a, groups[0], bool(world.together))
        one += int(((low <= drawn[0].truth) & (drawn[0].truth <= high)).sum())
        _, low, high = compare(a, b, (groups[0], groups[1]), bool(world.together))
        truth = drawn[0].truth - drawn[1].truth
        two += int(((low <= truth) & (high >= truth)).sum())
        p, _, _ = compare(a, same, (groups[0], groups[2]), bool(world.together))
        false += int((p <= 0.05).sum())
        done += count
    return one / simulations, two / simulations, false / simulations


def family(world: World, n: int, accuracy: float, seeds: int, simulations: int) -> tuple[float, float]:
    """(share of families of 10 with any false difference, share of comparisons) after Holm: five
    identical strategies, every pair."""
    rng = np.random.default_rng([7, n, int(1000 * accuracy), seeds, len(world.name)])
    pairs = list(combinations(range(5), 2))
    families = comparisons = done = 0
    while done < simulations:
        count = min(simulations - done, max(1, CELLS_AT_ONCE // (n * seeds)))
        drawn = [own.correct for own in answers(world, [accuracy] * 5, n, seeds, count, rng)]
        groups = [crossed.group(x) for x in drawn]
        p = np.array([compare(drawn[i], drawn[j], (groups[i], groups[j]), False)[0] for i, j in pairs])
        for column in p[:, p.min(axis=0) <= 0.05].T:
            false = sum(value <= 0.05 for value in holm(column.tolist()))
            families += false > 0
            comparisons += false
        done += count
    return families / simulations, comparisons / (simulations * len(pairs))


def forecast(
    world: World, n: int, accuracy: float, seeds: int, simulations: int
) -> tuple[float, float, float]:
    """(difference, forecast power, simulated power) at the smallest difference the forecast calls
    detectable; its figures (discordant share, flips, seed deviation) are those of the world itself."""
    rng = np.random.default_rng([11, n, int(1000 * accuracy), seeds, len(world.name)])

    def design(low: float) -> Design:
        big = answers(world, [accuracy, low], 2000, 2, 400, np.random.default_rng(5))
        a, b = (own.correct for own in big)
        cross = (a[:, 0] != b[:, 0]).mean()
        flips = ((a[:, 0] != a[:, 1]).mean() + (b[:, 0] != b[:, 1]).mean()) / 2
        density = stats.norm.pdf(stats.norm.ppf([accuracy, low])) / world.total(world.run)
        return Design(n, float(cross), seeds, float(flips), float(world.run * density.mean()))

    difference = smallest_detectable(design(accuracy)) or 1.0
    difference = min(difference, accuracy - 0.02)
    plan = design(accuracy - difference)
    shown = done = 0
    while done < simulations:
        count = min(simulations - done, max(1, CELLS_AT_ONCE // (n * seeds)))
        a, b = (
            own.correct for own in answers(world, [accuracy, accuracy - difference], n, seeds, count, rng)
        )
        p, _, _ = compare(a, b, (crossed.group(a), crossed.group(b)), False)
        shown += int((p <= 0.05).sum())
        done += count
    return difference, power(difference, plan), shown / simulations


def per_cent(values: list[float]) -> str:
    return f"{100 * min(values):.1f} to {100 * max(values):.1f}"


def coverages(
    worlds: tuple[World, ...],
    items: tuple[int, ...],
    accuracies: tuple[float, ...],
    all_seeds: tuple[int, ...],
    simulations: int,
) -> list[str]:
    lines = [f"{simulations:,} simulations a cell; n {', '.join(map(str, items))}; accuracy "
             f"{', '.join(map(str, accuracies))}. Lowest and highest cell, per cent.", "",
             "| world | seeds | coverage, one accuracy | coverage, difference | identical, called different |",
             "|---|---|---|---|---|"]  # fmt: skip
    outside, judged = [], 0
    for world in worlds:
        for seeds in all_seeds:
            rows = {(n, p): coverage(world, n, p, seeds, simulations) for n in items for p in accuracies}
            one, two, false = (list(column) for column in zip(*rows.values(), strict=True))
            of_runs = seeds == 1 and world.run > 0
            told = "the runs do differ" if of_runs else per_cent(false)
            lines.append(f"| {world.name} | {seeds} | {per_cent(one)} | {per_cent(two)} | {told} |")
            for (n, p), (first, second, third) in rows.items():
                wrong = [f"{what} {100 * value:.1f}" for what, value in (("accuracy", first), ("difference", second))
                         if value < 0.94]  # fmt: skip
                wrong += [f"false positives {100 * third:.1f}"] if third > 0.06 and not of_runs else []
                judged += 1
                if wrong:
                    outside.append(f"| {world.name} | {n} | {p} | {seeds} | {', '.join(wrong)} |")
            print(lines[-1], flush=True)
    lines += ["", f"{len(outside)} of {judged} cells have a coverage below 94, or more than 6% false positives before Holm:", "",
              "| world | n | accuracy | seeds | what |", "|---|---|---|---|---|", *(outside or ["| none | | | | |"])]  # fmt: skip
    return lines


def table_of_methods(world: World, n: int, seeds: int, simulations: int) -> tuple[float, float, float]:
    """(share of tables with a false better or worse about methods, with a false equivalent, coverage).

    A table: METHODS methods against a reference, decided together by `verdicts`. For the first all are equal,
    for the second each differs from the reference by the margin exactly. Coverage is of a difference of 3
    points (with one seed: of that of the two runs). One seed makes no verdict about methods whatever it shows.
    """
    rng = np.random.default_rng([13, n, seeds, int(1e6 * world.run), int(10 * world.fit)])
    accuracies = [0.5] * (METHODS + 1) + [0.47, 0.5 - MARGIN]
    false = alike = covered = done = 0
    while done < simulations:
        count = min(simulations - done, max(1, CELLS_AT_ONCE // (n * seeds)))
        drawn = answers(world, accuracies, n, seeds, count, rng)
        groups = [crossed.group(own.correct) for own in drawn]

        def of(
            i: int, j: int, drawn: list[Drawn] = drawn, groups: list[crossed.Group] = groups
        ) -> tuple[Floats, Floats, Floats]:
            return compare(drawn[i].correct, drawn[j].correct, (groups[i], groups[j]), False)

        _, low, high = of(0, METHODS + 1)
        truth = drawn[0].truth - drawn[METHODS + 1].truth
        covered += int(((low <= truth) & (truth <= high)).sum())
        if seeds > 1:
            p = np.array([of(i, 0)[0] for i in range(1, METHODS + 1)])
            false += int((p.min(axis=0) * METHODS <= 0.05).sum())
            alike += any_equivalent(groups, n)
        done += count
    return false / simulations, alike / simulations, covered / simulations


def any_equivalent(groups: list[crossed.Group], n: int) -> int:
    """In how many simulations one of the methods is called equivalent to the last group, after Holm."""
    p = []
    for own in groups[:METHODS]:
        v = crossed.variance([own, groups[-1]], n)
        difference = own.accuracy - groups[-1].accuracy
        p.append(np.maximum(crossed.tail(v, difference + MARGIN), crossed.tail(v, MARGIN - difference)))
    return int((np.min(p, axis=0) * METHODS < 0.05).sum())


def check_scope(world: World, n: int, seeds: int) -> None:
    """What the product says a table of so many seeds is about: with one, never the methods."""
    drawn = answers(world, [0.5, 0.5], n, seeds, 20, np.random.default_rng(1))
    for a, b in zip(drawn[0].correct, drawn[1].correct, strict=True):
        found = verdicts([paired.compare(a, b)] * METHODS)
        expected = "runs" if seeds == 1 else "methods"
        if {v.scope for v in found} != {expected} or (seeds == 1) != found[0].kind.startswith("runs_"):
            raise SystemExit(f"a table of {seeds} seeds speaks of {found[0].scope}: {found[0].kind}")


def acceptance(simulations: int) -> list[str]:
    """False verdicts about methods, by seeds, items and how much runs vary; the worse of two worlds."""
    lines = [f"{METHODS} methods against a reference, {simulations:,} tables a cell, accuracy 0.5, per cent: tables with a false "
             "better or worse about methods / tables with a false equivalent (all differ by the margin of 2 points) / "
             "coverage of a difference of 3 points. The worse of two worlds: methods alike but for chance, and suiting "
             "different items. One seed: no verdict is about methods; the coverage is of the runs' difference.", "",
             "| seeds | n | " + " | ".join(f"seed sd {points:g}" for points in POINTS) + " |",
             "|---|---|" + "---|" * len(POINTS)]  # fmt: skip
    for seeds in SEEDS:
        for n in ITEMS:
            told = []
            for points in POINTS:
                worlds = [world_of_points(points, fit) for fit in (0.0, 0.5)]
                for world in worlds:
                    check_scope(world, n, seeds)
                false, alike, covered = zip(
                    *(table_of_methods(w, n, seeds, simulations) for w in worlds), strict=True
                )
                told.append(f"{100 * max(false):.1f} / {100 * max(alike):.1f} / {100 * min(covered):.1f}")
            lines.append(f"| {seeds} | {n} | {' | '.join(told)} |")
            print(lines[-1], flush=True)
    return lines


def collapses(simulations: int) -> list[str]:
    """Runs that collapse: methods of equal mean accuracy, of which one reaches it by good runs and bad ones."""
    lines = ["Runs that collapse to 25%, of A only, with the mean accuracy of A and B equal: called different, per cent.", "",
             "| seeds | n | 10% of runs collapse | 20% | 30% |", "|---|---|---|---|---|"]  # fmt: skip
    for seeds in (3, 5):
        for n in (500, 1273):
            told = []
            for share in (0.1, 0.2, 0.3):
                rng, shown, done = np.random.default_rng([17, n, seeds, int(100 * share)]), 0, 0
                while done < simulations:
                    count = min(simulations - done, max(1, CELLS_AT_ONCE // (n * seeds)))
                    difficulty = of_items(World(""), 1.2, count, n, rng)
                    a = collapsing(0.5, 0.25, share, n, seeds, difficulty, rng)
                    b = collapsing(0.5 - 0.25 * share, 0.25, 0.0, n, seeds, difficulty, rng)
                    p, _, _ = compare(a, b, (crossed.group(a), crossed.group(b)), False)
                    shown += int((p <= 0.05).sum())
                    done += count
                told.append(f"{100 * shown / simulations:.1f}")
            lines.append(f"| {seeds} | {n} | {' | '.join(told)} |")
            print(lines[-1], flush=True)
    return lines


def sizes() -> list[str]:
    """The size of the score test of one run of each, exactly: the largest over all discordant shares."""
    lines = ["Size of the score test of two runs (computed, not simulated), per cent, largest over discordant shares up to 50%:", "",
             "| level | " + " | ".join(f"n {n}" for n in (20, 50, *ITEMS)) + " |", "|---|" + "---|" * 5]  # fmt: skip
    for level in (0.05, 0.01, 0.005):
        told = [
            max(power(0.0, Design(n, share, alpha=level)) for share in np.linspace(0.01, 0.5, 50))
            for n in (20, 50, *ITEMS)
        ]
        lines.append(f"| {100 * level:g} | " + " | ".join(f"{100 * size:.2f}" for size in told) + " |")
    return lines


def tables(simulations: int) -> str:
    lines = acceptance(simulations)
    lines += [
        "",
        *collapses(simulations),
        "",
        *sizes(),
        "",
        "One accuracy, and the difference of two strategies:",
        "",
    ]
    lines += coverages(WORLDS, ITEMS, ACCURACIES, SEEDS, simulations)
    lines += ["", "The same in settings that the rules were not chosen on:", ""]
    lines += coverages(OTHER_WORLDS, OTHER_ITEMS, OTHER_ACCURACIES, OTHER_SEEDS, simulations)
    lines += ["", "Five identical strategies, all ten pairs, after Holm:", "",
              "| world | seeds | families with a false difference | comparisons called different |",
              "|---|---|---|---|"]  # fmt: skip
    for world in WORLDS[:3]:
        for seeds in SEEDS[1:] if world.run else SEEDS:
            found = [family(world, n, p, seeds, simulations) for n in ITEMS for p in ACCURACIES[1:3]]
            any_false, each = (list(column) for column in zip(*found, strict=True))
            lines.append(f"| {world.name} | {seeds} | {per_cent(any_false)} | {per_cent(each)} |")
            print(lines[-1], flush=True)
    lines += ["", "Power at the smallest difference called detectable:", "",
              "| world | n | accuracy | seeds | difference | forecast | simulated |", "|---|---|---|---|---|---|---|"]  # fmt: skip
    for world in (WORLDS[1], WORLDS[2]):
        for n, accuracy, seeds in cells():
            if accuracy in (0.5, 0.75) and not (seeds == 1 and world.run):
                size, expected, seen = forecast(world, n, accuracy, seeds, simulations)
                lines.append(
                    f"| {world.name} | {n} | {accuracy} | {seeds} | {100 * size:.1f} | {100 * expected:.1f} | {100 * seen:.1f} |"
                )
                print(lines[-1], flush=True)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulations", type=int, default=10_000)
    parser.add_argument(
        "--acceptance", action="store_true", help="only the table of false verdicts about methods"
    )
    parser.add_argument("--write", action="store_true", help="put the tables into docs/statistics.md")
    asked = parser.parse_args()
    began = time.monotonic()
    text = "\n".join(acceptance(asked.simulations)) if asked.acceptance else tables(asked.simulations)
    print("\n" + text + f"\n\n{time.monotonic() - began:.0f} seconds")
    if asked.write and not asked.acceptance:
        page = PAGE.read_text()
        before, after = page.split(BEGIN)[0], page.split(END)[1]
        PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


if __name__ == "__main__":
    main()
