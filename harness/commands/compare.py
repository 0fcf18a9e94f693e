"""`compare`: two runs, or two strategies over their seeds, on the same items."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from itertools import combinations
from typing import Any

from harness.ask.options import filters_of
from harness.errors import EXIT_OK, UsageError
from harness.evidence.compare import Comparison, Subgroup, compare_pairs
from harness.evidence.costs import CostRow
from harness.evidence.rows import title_of
from harness.evidence.selection import Selector, pairs
from harness.render.document import Block, Bullets, Heading, Paragraph, Table, as_markdown, print_text
from harness.render.numbers import MISSING, points
from harness.stats.mcnemar import Interval
from harness.stats.verdict import Verdict
from harness.store.runs import Store

MOST_VALUES = 12


def compare(args: argparse.Namespace) -> int:
    """Print the comparison asked for; the exit code is 0 whatever the verdict."""
    # A variant's label, such as "lora (r=8, alpha=16)", holds commas of its own.
    lists = ([text] if "(" in text else text.split(",") for text in args.strategy)
    asked = [*args.groups, *(name.strip() for names in lists for name in names if name.strip())]
    if len(asked) != 2 and not (args.all_pairs and len(asked) > 2):
        raise UsageError(
            f"compare takes two runs or two strategies, not {len(asked)}"
            + (" (--all-pairs takes more)" if len(asked) > 2 else ""),
            "For example: python -m harness compare lora full --task medqa",
        )
    store = Store(args.results)
    selector = Selector(store, filters_of(args))

    def warn(text: str) -> None:
        print(f"warning: {text}", file=sys.stderr)

    for problem in selector.problems:
        warn(problem)
    sides = [selector.find(text) for text in asked]
    found = [pair for one, other in combinations(sides, 2) for pair in pairs(one, other)]
    comparisons = compare_pairs(store, found, args.margin, warn, args.assume_seed_sd)
    if args.format == "json":
        family = list(map(family_name, comparisons))
        data = {"schema_version": 2, "family": family, "comparisons": list(map(as_data, comparisons))}
        print(json.dumps(data, indent=1))
    elif args.format == "markdown":
        print(as_markdown(blocks_of(comparisons)), end="")
    else:
        print_text(blocks_of(comparisons))
    return EXIT_OK


def interval(ends: Interval | None) -> str:
    return MISSING if ends is None else f"[{points(ends[0])}, {points(ends[1])}]"


def p_value(p: float) -> str:
    return "p < 0.0001" if p < 0.0001 else f"p = {p:.4f}"


def sentence(v: Verdict, a: str, b: str) -> str:
    """The verdict in words, with what it is about where that is not simply the methods."""
    told = _statement(v, a, b)
    return f"{told} ({v.caveat[0].upper()}{v.caveat[1:]}.)" if v.caveat else told


def _statement(v: Verdict, a: str, b: str) -> str:
    margin, these = f"{v.margin * 100:g} points", these_runs(v)
    if v.kind == "equivalent":
        return f"{a} and {b} are equivalent within {margin}."
    if v.kind == "runs_within_margin":
        return f"{these} of {a} and {b} are within the margin of {margin}."
    if v.kind in ("no_difference_shown", "runs_show_no_difference"):
        if v.smallest_detectable is None:
            could = "These data could not have shown any difference (80% power)."
        else:
            could = (
                f"The smallest difference these data would have shown (80% power) is "
                f"{points(v.smallest_detectable, sign=False)} points; a smaller one may exist."
            )
        who = f"between {a} and {b}" if v.scope != "runs" else f"by {these.lower()} of {a} and {b}"
        return f"No difference shown {who}. {could}"
    small = f" The difference is real and within the margin of {margin}." if v.within_margin else ""
    if v.kind == "runs_differ":
        more, less = (a, b) if v.difference > 0 else (b, a)
        size = points(abs(v.difference), sign=False)
        return f"{these} differ: that of {more} is right {size} points more often than that of {less}.{small}"
    return f"{a} is {v.kind} than {b} by {points(abs(v.difference), sign=False)} points.{small}"


def these_runs(v: Verdict) -> str:
    return "These two runs" if v.runs_a == v.runs_b == 1 else f"These {v.runs_a + v.runs_b} runs"


def blocks_of(comparisons: list[Comparison]) -> list[Block]:
    """Everything that `compare` shows."""
    blocks: list[Block] = []
    for comparison in comparisons:
        blocks += _blocks(comparison)
    if len(comparisons) > 1:
        blocks.append(
            Paragraph(
                f"One family of {len(comparisons)} comparisons: adjusted for it (Holm) are the verdicts, the p-values and "
                "intervals named so, and nothing else."
            )
        )
        blocks.append(Bullets(list(map(family_name, comparisons))))
    return blocks


def family_name(c: Comparison) -> str:
    """Which comparison of a family this is."""
    return f"{c.name_a} against {c.name_b} on {title_of(c.a.first)}"


def _blocks(c: Comparison) -> list[Block]:
    spec, v, result = c.a.first.spec, c.verdict, c.paired
    family = (
        f"; adjusted for {v.comparisons} comparisons (Holm): {interval(v.adjusted_interval)}, {p_value(v.p_adjusted)}"
        if v.comparisons > 1
        else ""
    )
    runs = "" if result.runs_a == result.runs_b == 1 else f", {result.runs_a} and {result.runs_b} runs"
    accuracies = (
        f"accuracy {points(result.accuracy_a, sign=False)}% and {points(result.accuracy_b, sign=False)}%; "
        f"{c.name_a} less {c.name_b}: {points(v.difference)} points, 95% interval {interval(v.interval)}, "
        f"{p_value(v.p)}{family}"
    )
    blocks: list[Block] = [
        Heading(f"{c.name_a} against {c.name_b}: {title_of(c.a.first)}"),
        Paragraph(f"{spec.model.name}, {spec.task.scoring} scoring, {result.n} items{runs}"),
        Paragraph(f"Verdict: {sentence(v, c.name_a, c.name_b)}", strong=True),
        Paragraph(accuracies),
        Paragraph(
            f"Test: {result.method}. Equivalence within {v.margin * 100:g} points (two one-sided tests): "
            f"p = {c.equivalence.p:.4f}. Paired bootstrap over items, 95%: {interval(c.bootstrap)}."
        ),
    ]
    if v.scope == "runs":
        blocks.append(
            Paragraph(
                "Another seed may decide otherwise: run three seeds of each, or give --assume-seed-sd POINTS."
            )
        )
    blocks += _audit_blocks(c)
    return [*blocks, *_outcome_blocks(c), *_subgroup_blocks(c), *_cost_blocks(c)]


def _audit_blocks(c: Comparison) -> list[Block]:
    own = "the strategy and its learning rate"
    if c.audit:
        found: list[Block] = [
            Paragraph(f"Audit: besides {own} these differ and may explain the difference:"),
            Bullets([str(difference) for difference in c.audit]),
        ]
    else:
        found = [Paragraph(f"Audit: nothing differs besides {own}.")]
    return found + ([Bullets(c.notes)] if c.notes else [])


def _outcome_blocks(c: Comparison) -> list[Block]:
    blocks: list[Block] = []
    if table := c.paired.table:
        headers = ["items", f"{c.name_b} right", f"{c.name_b} wrong"]
        rows = [
            [f"{c.name_a} right", str(table.both), str(table.only_a)],
            [f"{c.name_a} wrong", str(table.only_b), str(table.neither)],
        ]
        return [Table("Items by outcome", headers, rows)]
    means = c.item_means
    if len(means) <= MOST_VALUES:
        rows = [[points(value), str(count)] for value, count in means]
    else:
        favour = {
            "A": sum(k for value, k in means if value > 0),
            "B": sum(k for value, k in means if value < 0),
        }
        none = c.paired.n - sum(favour.values())
        rows = [[f"{c.name_a} more often right", str(favour["A"])], ["no difference", str(none)]]
        rows.append([f"{c.name_b} more often right", str(favour["B"])])
    headers = [f"mean of {c.name_a} less mean of {c.name_b}, points", "items"]
    blocks.append(Table("Items by their mean difference over seeds", headers, rows))
    seeds = [[name, str(seed), points(accuracy, sign=False)] for name, group, own in (
        (c.name_a, c.a, c.accuracies_a), (c.name_b, c.b, c.accuracies_b),
    ) for seed, accuracy in zip(group.seeds, own, strict=True)]  # fmt: skip
    blocks.append(Table("Accuracy by seed", ["", "seed", "accuracy %"], seeds))
    if spread := c.paired.spread:
        told = " and ".join(
            f"{name} {points(value, sign=False)}"
            for name, value in ((c.name_a, spread.accuracy_sd_a), (c.name_b, spread.accuracy_sd_b))
            if value is not None
        )
        blocks.append(
            Paragraph(
                f"Spread of the accuracy over seeds (standard deviation, points): {told}. Two runs of one "
                f"strategy differ on {points(spread.flip_share, sign=False)}% of the items. Over items only, "
                f"given these very runs, the 95% interval is {interval(c.paired.items_interval)}."
            )
        )
    return blocks


def _subgroup_blocks(c: Comparison) -> list[Block]:
    if not c.subgroups:
        return []

    def row(s: Subgroup) -> list[str]:
        figures = [points(s.accuracy_a, sign=False), points(s.accuracy_b, sign=False), points(s.difference)]
        return [s.name, str(s.n), *figures, interval(s.interval), f"{s.p_adjusted:.4f}"]

    headers = [
        "subgroup",
        "items",
        f"{c.name_a} %",
        f"{c.name_b} %",
        "difference",
        "95% interval",
        "p (Holm)",
    ]
    shown = [s.name for s in c.subgroups if s.p_adjusted <= 0.05]
    told = f"Shown to differ after Holm: {', '.join(shown)}." if shown else "No subgroup is shown to differ."
    return [
        Table("By subgroup", headers, list(map(row, c.subgroups))),
        Paragraph(
            f"{told} Intervals are not adjusted for their number; p is, over {len(c.subgroups)} subgroups."
        ),
    ]


def _cost_blocks(c: Comparison) -> list[Block]:
    def row(cost: CostRow) -> list[str]:
        figures = [
            MISSING if x is None else f"{x:,.4g}" if x < 1000 else f"{x:,.0f}" for x in (cost.a, cost.b)
        ]
        return [cost.name, cost.unit, *figures, MISSING if cost.ratio is None else f"{cost.ratio:.2f}"]

    headers = ["cost", "unit", c.name_a, c.name_b, "ratio"]
    blocks: list[Block] = []
    if c.costs:
        blocks.append(
            Table(
                "Cost (memory and size: the highest run; else means)",
                headers,
                list(map(row, c.costs)),
                left=(0, 1),
            )
        )
    return blocks + ([Paragraph(f"Cost: {c.cost_note}")] if c.cost_note else [])


def as_data(c: Comparison) -> dict[str, Any]:
    """A comparison as JSON: fractions of 1, positive differences favour `a`."""
    result, v = c.paired, c.verdict
    return {
        "title": title_of(c.a.first),
        "a": {"name": c.name_a, "runs": [r.run_id for r in c.a.records], "accuracy": result.accuracy_a,
              "accuracies": c.accuracies_a},
        "b": {"name": c.name_b, "runs": [r.run_id for r in c.b.records], "accuracy": result.accuracy_b,
              "accuracies": c.accuracies_b},
        "verdict": {**dataclasses.asdict(v), "text": sentence(v, c.name_a, c.name_b)},
        "test": result.method,
        "equivalence": dataclasses.asdict(c.equivalence),
        "bootstrap_interval": c.bootstrap,
        "items_interval": result.items_interval,
        "table": dataclasses.asdict(result.table) if result.table else None,
        "item_mean_differences": c.item_means,
        "spread": dataclasses.asdict(result.spread) if result.spread else None,
        "subgroups": [dataclasses.asdict(s) for s in c.subgroups],
        "costs": [dataclasses.asdict(row) for row in c.costs],
        "cost_note": c.cost_note,
        "tuning": {side: dataclasses.asdict(own) if own else None for side, own in zip("ab", c.tuned, strict=True)},
        "audit": [dataclasses.asdict(difference) for difference in c.audit],
        "notes": c.notes,
    }  # fmt: skip
