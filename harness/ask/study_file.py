"""A study file: a grid in YAML, read with the place of every value so that every problem names its line.

    name: lora against full
    grid: {strategy: [full, lora], task: [medqa, pubmedqa], model: smollm2-135m, seed: [0, 1, 2]}
    set: {train.max_steps: 200}
    per_strategy:
      lora: {strategy.r: 8, train.learning_rate: 1e-4}
    pairs:                                # values that go together, in place of their cross product
      - {strategy: lora, strategy.r: 8, train.learning_rate: 1e-4}
      - {strategy: lora, strategy.r: 64, train.learning_rate: 5e-5}
    data: sample                          # and scoring, shots, limit, engine, tune, plugins: [FILE]

Scalars are YAML 1.2's: 1e-4 is a number, and `no`, `on` and 1:30 are text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.ask.layers import SHORT_FORMS, Named, each_once
from harness.ask.options import MOST_TRIALS
from harness.ask.settings import OWN_OPTION, SECTIONS, Assignment, format_input, key_problem
from harness.errors import UsageError, all_at_once, did_you_mean
from harness.io import yaml_files
from harness.io.files import NotReadableError, read_bounded

Node = Any  # of PyYAML, whose stubs know no `id` of it

AXES = ("strategy", "task", "model", "seed")
_SHORT = {name: (section, setting) for name, section, setting in SHORT_FORMS}
KEYS = ("name", "grid", "set", "per_strategy", "pairs", "data", *_SHORT, "tune", "plugins")
_TYPES: dict[str, tuple[type, str]] = {
    "name": (str, "text"), "data": (str, "auto, hub, sample or a folder"), "scoring": (str, "letter or cloze"),
    "shots": (int, "a whole number"), "limit": (int, "a whole number"), "engine": (str, "the name of an engine"),
    "tune": (int, f"a whole number from 1 to {MOST_TRIALS}"),
}  # fmt: skip
MOST_PROBLEMS = 50
Axes = dict[str, list[Named]]


@dataclass(slots=True)
class Pair:
    """Values that go together: axes in place of the grid's, and settings on top of all others."""

    axes: Axes = field(default_factory=dict)
    settings: list[Assignment] = field(default_factory=list)


@dataclass(slots=True)
class Study:
    """What a study file asks for. Names and values are checked where the grid is made."""

    name: str = ""
    axes: Axes = field(default_factory=dict)
    settings: list[Assignment] = field(default_factory=list)
    per_strategy: dict[str, tuple[Named, list[Assignment]]] = field(default_factory=dict)
    pairs: list[Pair] = field(default_factory=list)
    data: Named | None = None
    tune: int | None = None
    plugins: list[str] = field(default_factory=list)


def read_study(path: Path, problems: list[str]) -> Study:
    """The study in `path`; what is wrong with it is added to `problems`, each with file and line.

    Raises `UsageError` for a file that cannot be read as YAML at all.
    """
    remedy = "Give a YAML file: --study FILE.yaml"
    try:
        text = read_bounded(path, yaml_files.MOST_BYTES).decode("utf-8-sig")
    except NotReadableError as error:
        raise UsageError(f"study {error.message}", remedy) from error
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"study {path}: {reason}", remedy) from error
    try:
        node = yaml_files.compose(text)
    except yaml_files.YamlError as error:
        line = f":{error.line}" if error.line else ""
        raise UsageError(f"{path}{line}: not YAML: {error.reason}", "See docs/grids.md.") from error
    return _Reader(str(path), problems).study(node)


class _Reader:
    def __init__(self, path: str, problems: list[str]) -> None:
        self._path = path
        self._problems = problems

    def study(self, node: Node | None) -> Study:
        study = Study()
        if node is None or not self._is(
            node, "mapping", "a study is a mapping with the keys " + _listed(KEYS)
        ):
            if node is None:
                self._problems.append(f"{self._path}: empty (a study has the keys {_listed(KEYS)})")
            return study
        for key, name_node, value in self._items(node, KEYS):
            if value.tag.endswith(":null"):
                continue
            if key == "grid":
                self._axes(value, study.axes)
            elif key == "set":
                study.settings += self._settings(value)
            elif key == "per_strategy":
                self._per_strategy(value, study)
            elif key == "pairs":
                study.pairs = self._pairs(value)
            elif key == "plugins":
                study.plugins = [str(named.value) for named in self._names(key, value, str)]
            elif (plain := self._plain(key, value)) is not None:
                self._short(key, plain, self._where(name_node), study)
        study.settings = each_once(study.settings, self._problems)
        return study

    def _short(self, key: str, value: Any, where: str, study: Study) -> None:
        if key == "name":
            study.name = value
        elif key == "tune":
            study.tune = value
        elif key == "data":
            study.data = Named(value, where)
        else:
            section, setting = _SHORT[key]
            study.settings.append(Assignment(section, (setting,), value, f"{where}{key}", where))

    def _plain(self, key: str, node: Node) -> Any:
        kind, expected = _TYPES[key]
        value: Any = self._value(node)
        if not _is_a(value, kind) or (key == "tune" and not 1 <= value <= MOST_TRIALS):
            self._wrong(node, f"{key}: expected {expected}, got {format_input(value)}")
            return None
        return value

    def _axes(self, node: Node, axes: Axes) -> None:
        if not self._is(node, "mapping", f"grid: expected a mapping with the keys {_listed(AXES)}"):
            return
        for key, _, value in self._items(node, AXES):
            axes[key] = self._names(key, value, int if key == "seed" else str)

    def _names(self, key: str, node: Node, kind: type) -> list[Named]:
        """One value or a list of them, each of type `kind`."""
        nodes = node.value if node.id == "sequence" else [node]
        found = []
        for item in nodes:
            value: Any = self._value(item)
            if _is_a(value, kind) and not (kind is str and "," in value):
                found.append(Named(value, self._where(item)))
            elif isinstance(value, str) and "," in value:
                self._wrong(item, f"{key}: write a list: [{', '.join(p.strip() for p in value.split(','))}]")
            else:
                expected = "a whole number" if kind is int else "a name (in quotes if it is a number)"
                self._wrong(item, f"{key}: expected {expected}, got {format_input(value)}")
        if not nodes:
            self._wrong(node, f"{key}: an empty list")
        return found

    def _per_strategy(self, node: Node, study: Study) -> None:
        if self._is(node, "mapping", "per_strategy: expected a mapping of strategies to settings"):
            for name, name_node, value in self._items(node):
                settings = each_once(self._settings(value), self._problems)
                study.per_strategy[name] = (Named(name, self._where(name_node)), settings)

    def _pairs(self, node: Node) -> list[Pair]:
        found = []
        if not self._is(node, "sequence", "pairs: expected a list of mappings"):
            return []
        for entry in node.value:
            if not self._is(entry, "mapping", "pairs: expected a mapping of values that go together"):
                continue
            pair = Pair()
            for key, name_node, value in self._items(entry):
                if key in AXES and not (key in SECTIONS and value.id == "mapping"):
                    pair.axes[key] = self._names(key, value, int if key == "seed" else str)
                else:
                    pair.settings += self._setting(key, name_node, value)
            pair.settings = each_once(pair.settings, self._problems)
            found.append(pair)
        return found

    def _settings(self, node: Node) -> list[Assignment]:
        if not self._is(node, "mapping", "expected a mapping such as {train.learning_rate: 1e-4}"):
            return []
        return [
            found
            for key, name_node, value in self._items(node)
            for found in self._setting(key, name_node, value)
        ]

    def _setting(self, key: str, name_node: Node, node: Node) -> Iterator[Assignment]:
        """One setting by its dotted name, or a section with its settings below it."""
        if key in SECTIONS and node.id == "mapping":
            for inner, inner_node, value in self._items(node):
                yield from self._setting(f"{key}.{inner}", inner_node, value)
            return
        if key in OWN_OPTION:
            home = "data" if key == "task.source" else f"grid: {key.split('.')[0]}"
            self._wrong(name_node, f"{key}: give it under {home}")
        elif wrong := key_problem(key):
            self._wrong(name_node, f"{key}: {wrong}")
        else:
            section, *path = key.split(".")
            where = self._where(name_node)
            yield Assignment(section, tuple(path), self._value(node), f"{where}{key}", where)

    def _items(self, node: Node, known: tuple[str, ...] = ()) -> Iterator[tuple[str, Node, Node]]:
        """Key, its node and the value's node; a key given twice or not `known` is a problem."""
        seen: set[str] = set()
        for name_node, value in node.value:
            key = self._value(name_node) if name_node.id == "scalar" else None
            if not isinstance(key, str):
                self._wrong(name_node, "expected a name as the key")
            elif key in seen:
                self._wrong(name_node, f"'{key}' is given twice")
            elif known and key not in known:
                hint = did_you_mean(key, known)
                self._wrong(name_node, f"unknown key '{key}'{hint} (known: {_listed(known)})")
            else:
                seen.add(key)
                yield key, name_node, value

    def _is(self, node: Node, kind: str, expected: str) -> bool:
        if node.id != kind:
            self._wrong(node, expected)
        return bool(node.id == kind)

    def _value(self, node: Node) -> Any:
        try:
            return yaml_files.value_of(node)
        except yaml_files.YamlError as error:
            self._problems.append(f"{self._path}:{error.line}: {error.reason}")
            return None

    def _where(self, node: Node) -> str:
        return f"{self._path}:{node.start_mark.line + 1}: "

    def _wrong(self, node: Node, reason: str) -> None:
        self._problems.append(f"{self._where(node)}{reason}")
        if len(self._problems) >= MOST_PROBLEMS:
            all_at_once(self._problems, f"There may be more: {MOST_PROBLEMS} are shown.")


def _is_a(value: Any, kind: type) -> bool:
    """Whether `value` is of `kind`; true is no number."""
    return isinstance(value, kind) and not isinstance(value, bool)


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names)
