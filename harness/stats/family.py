"""Several comparisons decided together."""

from __future__ import annotations

from collections.abc import Sequence


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given (Holm 1979, Scand. J. Stat. 6:65-70).

    Rejecting those at most alpha keeps the chance of any false rejection in the family at most alpha,
    whatever the dependence between the tests. Raises ValueError for a p-value outside 0 to 1 or NaN.
    """
    for p in p_values:
        if not 0 <= p <= 1:
            raise ValueError(f"not a p-value: {p}")
    count = len(p_values)
    adjusted = [0.0] * count
    least = 0.0
    for rank, place in enumerate(sorted(range(count), key=lambda i: p_values[i])):
        least = max(least, min(1.0, (count - rank) * p_values[place]))
        adjusted[place] = least
    return adjusted


def holm_levels(p_values: Sequence[float], alpha: float = 0.05) -> list[float]:
    """The level at which Holm's procedure decides each comparison, in the order given: alpha over the number
    of comparisons not yet rejected when its turn comes; from the first that is not rejected on, that one's.

    A p-value is at most its level exactly where its adjusted one is at most alpha, so that intervals at these
    levels leave out 0 exactly where a difference is shown. Raises ValueError as `holm`.
    """
    adjusted = holm(p_values)
    count, shown = len(p_values), sum(p <= alpha for p in adjusted)
    levels = [alpha / max(count - shown, 1)] * count
    for rank, place in enumerate(sorted(range(count), key=lambda i: p_values[i])[:shown]):
        levels[place] = alpha / (count - rank)
    return levels


def rejected(p_values: Sequence[float], alpha: float = 0.05) -> list[bool]:
    """Which hypotheses Holm's procedure rejects with a family-wise error of at most alpha."""
    return [p <= alpha for p in holm(p_values)]
