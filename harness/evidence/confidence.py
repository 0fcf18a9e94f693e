"""How sure a run was of each item, from its stored predictions: the probabilities its calibration error is of.

Legend: n items, K choices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.stats.classification import choice_probabilities, surest

SURE_COLUMNS = ("logprobs", "same_as", "merged")


@dataclass(frozen=True, slots=True)
class Sure:
    """confidence: (n,) the highest probability over each item's choices; right: (n,) whether that choice is."""

    confidence: NDArray[np.float64]
    right: NDArray[np.bool_]


def sure_of(table: Any, correct: NDArray[np.bool_]) -> Sure | None:
    """Of an arrow table of predictions; None where they lack the log-likelihoods of the choices, or these are
    no finite numbers.

    Items with choices of one text have `merged` log-likelihoods, one a text. Runs stored before these were
    scored by `logprobs`, as they are here.
    """
    confidence = _highest(table["logprobs"].combine_chunks()) if "logprobs" in table.column_names else None
    if confidence is None:
        return None
    if set(table.column_names) >= {"merged", "same_as", "gold"} and _any_item(table["merged"]):
        return _with_merged(table, confidence, correct.copy())
    return Sure(confidence, correct)


def _any_item(lists: Any) -> bool:
    """Whether any of the lists of a column of lists holds something."""
    import pyarrow as pa

    return not pa.types.is_list(lists.type) or len(lists.combine_chunks().flatten()) > 0


def _highest(logprobs: Any) -> NDArray[np.float64] | None:
    """(n,) the largest probability over each item's choices. `logprobs`: an arrow array of n lists of K
    numbers; None where it is not, or one of them is empty, missing, NaN or infinite.
    """
    import pyarrow as pa

    if not pa.types.is_list(logprobs.type) or logprobs.null_count:
        return None
    inner = logprobs.flatten()
    if not pa.types.is_floating(inner.type) or inner.null_count:
        return None
    values = inner.to_numpy(zero_copy_only=False).astype(np.float64, copy=False)
    if not np.isfinite(values).all():
        return None
    offsets = logprobs.offsets.to_numpy()
    starts, lengths = offsets[:-1] - offsets[0], np.diff(offsets)
    if not lengths.all():
        return None
    highest = np.maximum.reduceat(values, starts)
    # The best choice has weight 1, so its probability is one over the sum of all weights.
    return np.asarray(1 / np.add.reduceat(np.exp(values - np.repeat(highest, lengths)), starts))


def _with_merged(table: Any, confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> Sure | None:
    """With the items that have choices of one text put in; None where theirs are damaged."""
    merged, same_as, gold = (table[name].to_pylist() for name in ("merged", "same_as", "gold"))
    for i in (i for i, own in enumerate(merged) if own):
        if not _usable(merged[i], same_as[i], gold[i]):
            return None
        own = choice_probabilities([tuple(merged[i])])
        (confidence[i],), (right[i],) = surest(own, np.array([same_as[i][gold[i]]]))
    return Sure(confidence, right)


def _usable(merged: Any, same_as: Any, gold: Any) -> bool:
    """Whether what is stored of an item is numbers of which one is finite, and a place for each choice."""
    if not (isinstance(merged, list) and isinstance(same_as, list) and isinstance(gold, int)):
        return False
    numbers = all(isinstance(value, float) and value < np.inf for value in merged)  # NaN is not below it
    return numbers and max(merged) > -np.inf and len(merged) == len(same_as) and 0 <= gold < len(same_as)
