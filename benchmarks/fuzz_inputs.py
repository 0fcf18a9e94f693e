"""Valid inputs changed in one or several places, for benchmarks/fuzz.py: by structure first, by bytes at times."""

from __future__ import annotations

import copy
import json
from random import Random
from typing import Any

EVIL = "\x1b]0;t\x07\x1b[2J\x9b\x7f\u202e\u2066[bold]x[/]"
TEXTS = (
    "", " ", "a", "0", "-1", "nan", "true", "null", "~", "~nosuchuser/x", "x" * 300, "x" * 5000, "9" * 5000, "1e999",
    "../..", "a/b", "a b", "a\nb", "a\tb", "é✓", "\u200f", EVIL, "\ud800", "\0", "%s{}", "=1+1", "<b>", "--json", "@file",
    "lora", "medqa", "sample", "random:smollm2-135m", "1,2,3", ",", "[1, 2]", "{a: 1}", "!!int x", "&a [*a]", "*a",
)  # fmt: skip
NUMBERS = (0, 1, -1, 2, 0.5, -0.5, 1e-320, 1e15, 1e308, -1e308, 2**31, 2**53, 10**17, 10**18, 10**30, 10**400)
BYTES = (
    b"\0",
    b"\xff",
    b"\x1b",
    b"\r",
    b"\n",
    b'"',
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b",",
    b"\\ud800",
    b"\xe2\x80\xae",
    b"NaN",
)


def deep(rng: Random, depth: int) -> Any:
    """A list or mapping within another, `depth` times."""
    value: Any = 1
    for _ in range(depth):
        value = [value] if rng.random() < 0.5 else {"a": value}
    return value


def odd_value(rng: Random) -> Any:
    """A value that hardly any place expects."""
    kind = rng.randrange(8)
    if kind == 0:
        return rng.choice((None, True, False, [], {}, [[]], [None]))
    if kind == 1:
        return deep(rng, rng.choice((3, 60, 150)))
    if kind == 2:
        return [rng.choice(TEXTS), rng.choice(NUMBERS)]
    if kind == 3:
        return {rng.choice(TEXTS): rng.choice(TEXTS)}
    return rng.choice(TEXTS) if kind < 6 else rng.choice(NUMBERS)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) within a JSON value."""
    found, waiting = [], [value]
    while waiting:
        container = waiting.pop()
        keys = range(len(container)) if isinstance(container, list) else list(container)
        for key in keys:
            found.append((container, key))
            if isinstance(container[key], dict | list):
                waiting.append(container[key])
    return found


def changed(rng: Random, value: Any) -> Any:
    """A copy of a JSON value with one to three places changed."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        there = places(value) if isinstance(value, dict | list) else []
        if not there or rng.random() < 0.02:
            value = odd_value(rng)
            continue
        container, key = rng.choice(there)
        how = rng.randrange(7)
        if how == 0:
            del container[key]
        elif how == 1:
            other, name = rng.choice(there)
            if isinstance(name, int) and name >= len(other):
                continue
            container[key] = (
                copy.deepcopy(other[name]) if not isinstance(name, str) or name in other else None
            )
        elif how == 2 and isinstance(container, dict):
            container[rng.choice(TEXTS)] = container.pop(key)
        elif how == 3 and isinstance(container, list):
            container.append(odd_value(rng))
        else:
            container[key] = odd_value(rng)
    return value


def dumped(value: Any) -> bytes:
    """As JSON; 10**400 has fewer digits than Python itself refuses."""
    return json.dumps(value).encode()


def changed_bytes(rng: Random, content: bytes) -> bytes:
    """With some bytes changed, cut off, put in or doubled."""
    content = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(content) + 1)
        how = rng.randrange(5)
        if how == 0:
            del content[at : at + rng.choice((1, 3, 40))]
        elif how == 1:
            content[at:at] = rng.choice(BYTES)
        elif how == 2:
            content[at:at] = content[max(0, at - 30) : at]
        elif how == 3 and content:
            content[min(at, len(content) - 1)] = rng.randrange(256)
        else:
            del content[at:]
    return bytes(content)


def changed_json(rng: Random, value: Any) -> bytes:
    """A JSON file: changed by its structure, or one in six times by its bytes."""
    if rng.random() < 1 / 6:
        return changed_bytes(rng, dumped(value))
    return dumped(changed(rng, value))


def changed_text(rng: Random, text: str, words: tuple[str, ...] = TEXTS) -> str:
    """With words of a kind put in the place of others, lines left out, doubled or moved."""
    lines = text.split("\n")
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(lines))
        how: int = rng.randrange(5)
        if how == 0:
            del lines[at]
        elif how == 1:
            lines.insert(at, lines[rng.randrange(len(lines))])
        elif how == 2:
            place = rng.randrange(len(lines[at]) + 1)
            lines[at] = lines[at][:place] + rng.choice(words) + lines[at][place:]
        else:
            parts = lines[at].split(" ")
            parts[rng.randrange(len(parts))] = rng.choice(words)
            lines[at] = " ".join(parts)
        lines = lines or [""]
    return "\n".join(lines)


def changed_words(rng: Random, words: list[str]) -> list[str]:
    """A command line with words replaced, joined, left out, doubled or moved; the command itself stays."""
    words = list(words)
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(1, len(words)) if len(words) > 1 else 0
        how = rng.randrange(6)
        if how == 0 and len(words) > 1:
            del words[at]
        elif how == 1:
            words.insert(at + 1, words[at])
        elif how == 2:
            words[at:at] = [rng.choice(TEXTS)]
        elif how == 3 and at:
            words[at] = f"{words[at]}{rng.choice(('=', ',', ''))}{rng.choice(TEXTS)}"
        elif at:
            words[at] = rng.choice(TEXTS)
    return words
