"""Dividing rows of different lengths into forward passes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence


def alike(tokens: int) -> Hashable:
    """The kind of every row, where rows of all lengths may share a pass; see harness.runtime.models.rotary."""
    return None


def cheapest_cuts(
    widths: Sequence[int], fits: Callable[[int, int], bool], overhead: int
) -> list[tuple[int, int]]:
    """(first, behind the last) of each pass over rows of these lengths, longest first.

    A pass costs its padded tokens, and as much again as `overhead` tokens (reading all weights,
    starting every operation); the sum is as small as it can be. A pass of more than one row is only
    made where `fits(width, rows)`.
    """
    least, begin = [0], [0]  # of the first n rows: their cost, and where their last pass begins
    for end in range(1, len(widths) + 1):
        options: list[tuple[int, int]] = []
        for start in range(end - 1, -1, -1):
            if options and not fits(widths[start], end - start):
                break  # a larger one is longer and wider
            options.append((least[start] + widths[start] * (end - start) + overhead, start))
        cost, start = min(options)
        least.append(cost)
        begin.append(start)
    passes: list[tuple[int, int]] = []
    end = len(widths)
    while end:
        passes.append((begin[end], end))
        end = begin[end]
    return passes[::-1]


def filled_rows(lengths: Mapping[int, int], budget: int) -> list[list[int]]:
    """Indices of examples that share a row of at most `budget` tokens (or have one of their own).

    First-fit decreasing: at most 11/9 of the fewest rows there can be, and one (Dosa 2007).
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for i in sorted(lengths, key=lambda i: (-lengths[i], i)):
        fitting = next((n for n, left in enumerate(room) if lengths[i] <= left), None)
        if fitting is None:
            rows.append([i])
            room.append(budget - lengths[i])
        else:
            rows[fitting].append(i)
            room[fitting] -= lengths[i]
    return rows
