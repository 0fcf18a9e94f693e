"""Does a model choose an answer for what it says, or for where it stands?

Pezeshkpour & Hruschka 2023, arXiv 2308.11483; Zheng et al. 2023, arXiv 2309.03882.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence

from harness.contracts import Example, Finished, Measured, Metric, Probe, Scoring, Task

ORDERS = 3


class OptionOrder(Probe):
    """Every item is asked again with its options in other orders; the letters stay where they are."""

    name = "option-order"
    summary = f"asks each item again with its options in {ORDERS} other orders"
    source = "arXiv 2308.11483"
    metrics = (
        Metric(
            "accuracy_reordered",
            definition=f"share of right answers over {ORDERS} random orders of each item's options",
        ),
        Metric(
            "answers_changed",
            higher_is_better=False,
            definition="share of those answers that say something else than the answer in the order given",
        ),
    )

    def refusal(self, task: Task, scoring: Scoring, items: Sequence[Example]) -> str:
        shown = any(task.prompt(_reordered(e, order), scoring) != task.prompt(e, scoring)
                    for e in items[:8] for order in [tuple(reversed(range(len(e.options))))])  # fmt: skip
        if not shown:
            return f"with {scoring} scoring {task.title}'s prompts do not show options in an order"
        return ""

    def measure(self, finished: Finished) -> dict[str, Measured]:
        right = [0] * len(finished.items)
        changed = [0] * len(finished.items)
        for number in range(ORDERS):
            orders = [_order(finished.seed, number, e) for e in finished.items]
            asked = [_reordered(e, order) for e, order in zip(finished.items, orders, strict=True)]
            answers = finished.predict(asked)
            for i, (item, order) in enumerate(zip(finished.items, orders, strict=True)):
                right[i] += answers[i].correct
                changed[i] += (
                    item.options[order[answers[i].predicted]]
                    != item.options[finished.predictions[i].predicted]
                )
        return {
            "accuracy_reordered": _over_items([value / ORDERS for value in right]),
            "answers_changed": _over_items([value / ORDERS for value in changed]),
        }


def _order(seed: int, number: int, item: Example) -> tuple[int, ...]:
    """Another order than the one given, fixed by seed, number and item. Item k of it is the option shown k-th."""
    given = tuple(range(len(item.options)))
    drawn = random.Random(f"{seed} {number} {item.id}")  # noqa: S311 (an order, and no secret)
    order = given
    while order == given and len(given) > 1:
        order = tuple(drawn.sample(given, len(given)))
    return order


def _reordered(item: Example, order: Sequence[int]) -> Example:
    return dataclasses.replace(
        item, options=tuple(item.options[k] for k in order), gold=order.index(item.gold)
    )


def _over_items(values: Sequence[float]) -> Measured:
    """Their mean, with the 95% interval of the central limit theorem; without one where all are alike."""
    n = len(values)
    mean = sum(values) / n
    variance = sum((value - mean) ** 2 for value in values) / (n - 1) if n > 1 else 0.0
    half = 1.959963984540054 * (variance / n) ** 0.5
    return Measured(mean, n, mean - half, mean + half) if half > 0 else Measured(mean, n)
