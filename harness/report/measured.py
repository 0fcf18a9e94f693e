"""A cost as text, by its measure."""

from __future__ import annotations

from harness.measures import Measure
from harness.render.numbers import number, small_percent


def measured(own: Measure, value: float | None, *, listed: bool = False) -> str:
    """`value`, in the record's units, in the units shown. listed: by itself, as `show` has it."""
    if own.unit == "%":
        return small_percent(value)
    digits = own.digits if not listed or own.listed_digits is None else own.listed_digits
    return number(value, own.scale, digits)
