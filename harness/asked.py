"""What a command line asks for: its settings read, checked against each section, given to strategies."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.contracts import Strategy
from harness.errors import did_you_mean
from harness.settings import Assignment, build, parse_assignments
from harness.spec import EngineSpec, ModelSpec, TaskSpec, TrainSpec


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line gives for every run of its grid: only what was typed, no defaults."""

    model: dict[str, Any] = field(default_factory=dict)
    task: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    engine: dict[str, Any] = field(default_factory=dict)


def read_assignments(args: argparse.Namespace, problems: list[str]) -> list[Assignment]:
    """`--set` and the options that are short for one, with values given twice as problems."""
    found = parse_assignments(args.set, problems)
    for option, section, name in (
        ("scoring", "task", "scoring"),
        ("shots", "task", "shots"),
        ("limit", "task", "limit"),
        ("engine", "engine", "name"),
    ):
        value = getattr(args, option)
        if value is not None:
            found.append(Assignment(section, (name,), value, f"--{option} {value}"))
    first: dict[str, Assignment] = {}
    for assignment in found:
        earlier = first.setdefault(assignment.key, assignment)
        if earlier is not assignment:
            problems.append(f"{assignment.key} is given twice: {earlier.text} and {assignment.text}")
    return list(first.values())


def check_sections(assignments: Sequence[Assignment], problems: list[str]) -> Asked:
    """The values of each section but the strategy's, each checked against its own model."""
    asked = Asked()
    for assignment in assignments:
        if assignment.section != "strategy":
            getattr(asked, assignment.section)[assignment.path[0]] = assignment.value
    build(ModelSpec, asked.model, "model", problems)
    build(TaskSpec, {"name": "any", **asked.task}, "task", problems)
    build(TrainSpec, asked.train, "train", problems)
    build(EngineSpec, asked.engine, "engine", problems)
    return asked


def build_strategies(
    classes: Sequence[type[Strategy]], assignments: Iterable[Assignment], problems: list[str]
) -> list[Strategy]:
    """One strategy of each class, with the `strategy.*` settings that it has."""
    values: dict[str, dict[str, Any]] = {cls.name: {} for cls in classes}
    for assignment in assignments:
        if assignment.section != "strategy":
            continue
        name = assignment.path[0]
        having = [cls for cls in classes if name in cls.model_fields]
        if classes and not having:
            known = sorted({known for cls in classes for known in cls.model_fields})
            of = ", ".join(cls.name for cls in classes)
            shown = ", ".join(known) or "no settings"
            problems.append(
                f"{assignment.text}: unknown setting '{name}'{did_you_mean(name, known)} ({of} has: {shown})"
            )
        for cls in having:
            _assign(values[cls.name], cls, assignment, problems)
    built = (build(cls, values[cls.name], "strategy", problems, of=cls.name) for cls in classes)
    return [strategy for strategy in built if strategy is not None]


def _assign(values: dict[str, Any], cls: type[Strategy], assignment: Assignment, problems: list[str]) -> None:
    """Put a value at its place; a dotted rest goes into a setting that is a group of values."""
    name, *rest = assignment.path
    if not rest:
        values[name] = assignment.value
        return
    if name not in values:
        default = cls.model_fields[name].get_default(call_default_factory=True)
        values[name] = default.model_dump() if hasattr(default, "model_dump") else default
    if not isinstance(values[name], dict):
        problems.append(f"{assignment.text}: strategy.{name} of {cls.name} is one value, not a group")
        return
    values[name] = _nested(values[name], rest, assignment.value)


def _nested(group: dict[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    """A copy of `group` with `value` at `path`; a default is never changed in place."""
    name, *rest = path
    if not rest:
        return {**group, name: value}
    inner = group.get(name)
    return {**group, name: _nested(inner if isinstance(inner, dict) else {}, rest, value)}
