"""Where a function crosses zero. Of our own: importing scipy.optimize takes as long as a small report."""

from __future__ import annotations

import math
from collections.abc import Callable


def root(f: Callable[[float], float], low: float, high: float, tolerance: float) -> float:
    """Where f is 0 between low and high, at which its signs differ; to `tolerance`.

    Inverse quadratic interpolation where the last three points show that it will do well, else halving
    (Chandrupatla 1997, Adv. Eng. Softw. 28:145-149). Raises ValueError where the signs do not differ.
    """
    new, other = low, high  # the zero lies between these two
    at_new, at_other = f(low), f(high)
    if at_new == 0 or at_other == 0:
        return low if at_new == 0 else high
    if (at_new > 0) == (at_other > 0):
        raise ValueError(f"no zero between {low} and {high}: {at_new} and {at_other}")
    share = 0.5  # of the way from `new` to `other`
    while True:
        trial = new + share * (other - new)
        found = f(trial)
        if (found > 0) == (at_new > 0):
            old, at_old = new, at_new
        else:
            old, at_old, other, at_other = other, at_other, new, at_new
        new, at_new = trial, found
        best = new if abs(at_new) < abs(at_other) else other
        width = abs(other - new)
        if width <= tolerance or found == 0:
            return best
        share = _interpolated((new, at_new), (other, at_other), (old, at_old))
        least = tolerance / 2 / width  # so that the other end comes near as well
        share = min(max(share, least), 1 - least)


def _interpolated(new: tuple[float, float], other: tuple[float, float], old: tuple[float, float]) -> float:
    """The share of the way from `new` to `other` at which to try next; points (x, f(x))."""
    (x, y), (x1, y1), (x2, y2) = new, other, old
    if not all(map(math.isfinite, (y, y1, y2))) or y2 in (y, y1):
        return 0.5
    place, height = (x - x1) / (x2 - x1), (y - y1) / (y2 - y1)
    if not 1 - math.sqrt(1 - place) < height < math.sqrt(place):
        return 0.5
    return y / (y1 - y) * (y2 / (y1 - y2)) + (x2 - x) / (x1 - x) * (y / (y2 - y)) * (y1 / (y2 - y1))
