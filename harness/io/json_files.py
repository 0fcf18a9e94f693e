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
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]|-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|NaN|-?Infinity')
_STEPS = {"[": 1, "{": 1, "]": -1, "}": -1}

Pairs = Callable[[list[tuple[str, Any]]], Any]


class BoundsError(json.JSONDecodeError):
    """JSON of sound syntax that is refused all the same; it has the place of it, as a syntax error has."""


def loads_bounded(
    text: str, *, max_depth: int = MAX_DEPTH, max_digits: int = MAX_DIGITS, pairs: Pairs | None = None
) -> Any:
    """`json.loads`, which raises `json.JSONDecodeError` also for nesting deeper than `max_depth`, whole numbers
    of more than `max_digits`, NaN and infinities (1e999 is one) and halves of \\u escape pairs.

    `pairs` is json's `object_pairs_hook`.
    """

    def whole(digits: str) -> int:
        if len(digits.lstrip("-")) > max_digits:
            raise _RefusedError
        return int(digits)

    try:
        value = json.loads(
            text,
            parse_int=whole,
            parse_float=_finite,
            parse_constant=_refuse_constant,
            object_pairs_hook=pairs,
        )
    except (RecursionError, _RefusedError) as error:
        raise _found(text, max_depth, max_digits) from error
    # A text with few brackets cannot be deep, and one without such escapes holds no half characters.
    is_deep = text.count("[") + text.count("{") > max_depth and not _is_within(value, max_depth)
    if is_deep or (_MAY_HOLD_HALF.search(text) and _half(text) is not None):
        raise _found(text, max_depth, max_digits)
    return value


class _RefusedError(Exception):
    """Out of the parser; where it is, is looked for afterwards."""


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise _RefusedError
    return value


def _refuse_constant(name: str) -> Any:
    raise _RefusedError


def _is_within(value: Any, max_depth: int) -> bool:
    """Whether lists and objects lie in each other at most `max_depth` deep; level by level, not by recursion."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > max_depth and any(isinstance(part, dict | list) for part in level):
            return False
        level = [
            inner
            for part in level
            if isinstance(part, dict | list)
            for inner in (part.values() if isinstance(part, dict) else part)
        ]
    return True


def _half(text: str) -> int | None:
    """Where the first string with half of an escape pair starts."""
    for match in _TOKEN.finditer(text):
        token = match[0]
        if token[0] == '"' and _MAY_HOLD_HALF.search(token) and _HALF_A_CHARACTER.search(json.loads(token)):
            return match.start()
    return None


def _found(text: str, max_depth: int, max_digits: int) -> BoundsError:
    """The first thing in `text` that is out of bounds."""
    depth = 0
    half = _half(text)
    for match in _TOKEN.finditer(text):
        token, start = match[0], match.start()
        depth += _STEPS.get(token, 0)
        if depth > max_depth:
            return BoundsError(f"nested more than {max_depth} deep", text, start)
        if start == half:
            return BoundsError("half of a \\u escape pair, which is no character", text, start)
        if token in ("NaN", "Infinity", "-Infinity"):
            return BoundsError(f"{token} is no JSON value (write null for a missing one)", text, start)
        if token[0] in "-0123456789":
            digits = token.lstrip("-")
            if digits.isdigit() and len(digits) > max_digits:
                told = f"a number of {len(digits):,} digits (at most {max_digits} are read)"
                return BoundsError(told, text, start)
            if not digits.isdigit() and float(token) in (float("inf"), float("-inf")):
                return BoundsError(f"the number {token[:20]} is too large", text, start)
    return BoundsError("out of the bounds that are read", text, 0)
