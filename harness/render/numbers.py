"""Figures as text. `None` was not measured and is shown as a dash, never as 0."""

from __future__ import annotations

from typing import Protocol

MISSING = "-"


class Scored(Protocol):
    """A value with its 95% interval, where it has one."""

    @property
    def value(self) -> float: ...
    @property
    def ci_low(self) -> float | None: ...
    @property
    def ci_high(self) -> float | None: ...


def percent(value: float | None, digits: int = 1) -> str:
    return MISSING if value is None else f"{value * 100:.{digits}f}"


def points(value: float | None, sign: bool = True) -> str:
    """A fraction in points of a per cent, with no sign before a zero."""
    if value is None:
        return MISSING
    value = round(value * 100, 2) + 0.0  # no minus before a zero
    return f"{value:+.2f}" if sign and value else f"{value:.2f}"


def interval(score: Scored | None) -> str:
    """`43.2 [36.5, 50.1]`, in per cent; without an interval the value alone."""
    if score is None:
        return MISSING
    if score.ci_low is None:
        return percent(score.value)
    return f"{percent(score.value)} [{percent(score.ci_low)}, {percent(score.ci_high)}]"


def number(value: float | None, unit: float = 1, digits: int = 0) -> str:
    """With `digits` behind the point, and more where something measured would be rounded to nothing."""
    if value is None:
        return MISSING
    shown = f"{value / unit:,.{digits}f}"
    return shown if value == 0 or shown.strip("-0.,") else f"{value / unit:.1g}"


def small_percent(value: float | None) -> str:
    """A share in per cent with enough digits to be told from nothing."""
    if value is None:
        return MISSING
    return percent(value, 1 if value == 0 or value >= 0.1 else 3 if value < 0.001 else 2)
