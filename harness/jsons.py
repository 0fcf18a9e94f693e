"""JSON from files that somebody else may have written: bounded, and one kind of error for all that is wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

MAX_DEPTH = 100
MAX_DIGITS = 100
"""Of a whole number. The largest that fits in a float has 309; Python itself refuses above 4,300."""

_HALF_A_CHARACTER = re.compile("[\ud800-\udfff]")
_MAY_HOLD_HALF = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")

Pairs = Callable[[list[tuple[str, Any]]], Any]


def loads_bounded(
    text: str, *, max_depth: int = MAX_DEPTH, max_digits: int = MAX_DIGITS, pairs: Pairs | None = None
) -> Any:
    """`json.loads`, which raises ValueError (its own `JSONDecodeError` where the syntax is broken) also for
    nesting deeper than `max_depth`, whole numbers of more than `max_digits`, NaN and infinities (1e999 is
    one) and halves of \\u escape pairs. `pairs` is json's `object_pairs_hook`.
    """

    def whole(digits: str) -> int:
        if len(digits.lstrip("-")) > max_digits:
            raise ValueError(
                f"a number of {len(digits.lstrip('-')):,} digits (at most {max_digits} are read)"
            )
        return int(digits)

    try:
        value = json.loads(
            text,
            parse_int=whole,
            parse_float=_finite,
            parse_constant=_refuse_constant,
            object_pairs_hook=pairs,
        )
    except RecursionError as error:
        raise ValueError(f"nested more than {max_depth} deep") from error
    # A text with few brackets cannot be deep, and one without such escapes holds no half characters.
    if text.count("[") + text.count("{") > max_depth or _MAY_HOLD_HALF.search(text):
        _check(value, max_depth)
    return value


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"the number {text[:20]} is too large")
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON value (write null for a missing one)")


def _check(value: Any, max_depth: int) -> None:
    """Level by level, not by recursion. Raises ValueError."""
    level, depth = [value], 0
    while level:
        inner: list[Any] = []
        depth += 1
        for part in level:
            if isinstance(part, str):
                if _HALF_A_CHARACTER.search(part):
                    raise ValueError("half of a \\u escape pair, which is no character")
            elif isinstance(part, dict | list):
                if depth > max_depth:
                    raise ValueError(f"nested more than {max_depth} deep")
                inner += [*part.keys(), *part.values()] if isinstance(part, dict) else part
        level = inner
