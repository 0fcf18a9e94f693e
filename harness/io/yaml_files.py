"""YAML as settings and study files need it: the scalars of YAML 1.2, no tags, and bounded in every way.

`compose` gives the nodes, with their places; `value_of` makes values of them. Both raise `YamlError` only;
in the nodes a key may still be given twice, which `value_of` refuses.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any

from harness.errors import error_line
from harness.io.terminal import OBEYED

if TYPE_CHECKING:
    import yaml

MOST_BYTES = 2**16
MOST_DEPTH = 40
MOST_NODES = 20_000
"""Counted as often as an alias repeats them."""
MOST_DIGITS = 18

_INTEGER = r"[-+]?(?:0|[1-9][0-9]*)"
_FLOAT = r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?"
_PREFIX = "tag:yaml.org,2002:"


class YamlError(Exception):
    """What is wrong, and the line (from 1) where that is known."""

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.line = line


def load(text: str) -> Any:
    """The value of one document."""
    node = compose(text)
    return None if node is None else value_of(node)


def compose(text: str) -> Any:
    """The root node of one document, `None` of an empty one; bounded, so that `value_of` ends."""
    if len(text) > MOST_BYTES:
        raise YamlError(f"{len(text):,} characters, more than the {MOST_BYTES:,} that are read")
    import yaml

    try:
        node = _loader()(text).get_single_node()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise YamlError(reason, mark.line + 1 if mark else None) from error
    except RecursionError as error:
        raise YamlError(f"nested more than {MOST_DEPTH} deep") from error
    except Exception as error:  # an escape of no character, a directive that is none: PyYAML has no list
        raise YamlError(error_line(error)) from error
    if node is not None:
        _check(node, 0, {}, set())
    return node


def value_of(node: Any) -> Any:
    """The value of a node that `compose` gave, or of one within it."""
    if node.id == "sequence":
        return [value_of(item) for item in node.value]
    if node.id == "mapping":
        _check_keys(node)
        return {value_of(key): value_of(value) for key, value in node.value}
    kind, text = node.tag.removeprefix(_PREFIX), node.value
    if kind == "bool":
        return text.lower() == "true"
    if kind == "null":
        return None
    return int(text) if kind == "int" else float(text) if kind == "float" else text


def _check(node: Any, depth: int, known: dict[int, tuple[int, int]], above: set[int]) -> tuple[int, int]:
    """How many nodes `node` stands for, and how deep they are. Raises `YamlError` for what no setting is."""
    line = node.start_mark.line + 1
    if id(node) in above:
        raise YamlError("an alias within what it stands for", line)
    if depth + known.get(id(node), (0, 0))[1] > MOST_DEPTH:
        raise YamlError(f"nested more than {MOST_DEPTH} deep", line)
    if id(node) in known:
        return known[id(node)]
    size, height = 1, 0
    if node.id == "scalar":
        _check_scalar(node, line)
    else:
        inner = node.value if node.id == "sequence" else [part for pair in node.value for part in pair]
        for part in inner:
            own_size, own_height = _check(part, depth + 1, known, above | {id(node)})
            size, height = size + own_size, max(height, own_height + 1)
    if size > MOST_NODES:
        raise YamlError(f"stands for more than {MOST_NODES:,} values", line)
    known[id(node)] = size, height
    return size, height


def _check_scalar(node: Any, line: int) -> None:
    kind, text = node.tag.removeprefix(_PREFIX), node.value
    if kind == "int" and len(text.lstrip("+-")) > MOST_DIGITS:
        raise YamlError(f"a number of {len(text):,} digits (at most {MOST_DIGITS} are read)", line)
    if kind == "float" and float(text) in (float("inf"), float("-inf")):
        raise YamlError(f"the number {text[:20]} is too large", line)
    if OBEYED.search(text):
        raise YamlError("a control character, or half of one, in a text", line)


def _check_keys(node: Any) -> None:
    seen = set()
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if key.id != "scalar":
            raise YamlError("expected a name as the key", line)
        if (key.tag, key.value) in seen:
            raise YamlError(f"'{key.value[:60]}' is given twice", line)
        seen.add((key.tag, key.value))


@cache
def _loader() -> type[yaml.SafeLoader]:
    """PyYAML's safe loader with the scalars of YAML 1.2 (its own 1.1 reads 1e-4 as text), without tags."""
    import yaml

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

        def compose_node(self, parent: Any, index: Any) -> Any:
            event: Any = self.peek_event()  # type: ignore[no-untyped-call]
            tag = getattr(event, "tag", None)
            if tag is not None:
                reason = f"the tag {tag} is not read: write the value alone (in quotes for text)"
                raise yaml.composer.ComposerError(None, None, reason, event.start_mark)
            return super().compose_node(parent, index)

    digits = list("-+0123456789.")
    for tag, pattern, first in (
        ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
        ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
        ("int", _INTEGER, digits),
        # No .inf and no .nan: no setting can hold them.
        ("float", _FLOAT, digits),
    ):
        Loader.add_implicit_resolver(f"{_PREFIX}{tag}", re.compile(f"^(?:{pattern})$"), first)
    return Loader
