"""What is asked for: settings in layers, checked against each section, and given to strategies."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.ask.settings import Assignment, build, parse_assignments
from harness.contracts import Strategy
from harness.errors import did_you_mean
from harness.plugins.loading import guarded_class
from harness.spec import AskedModel, EngineSpec, TaskSpec, TrainSpec

# Settings with an option, and a key in a study file, of their own: option, section, setting.
SHORT_FORMS = (
    ("scoring", "task", "scoring"),
    ("shots", "task", "shots"),
    ("limit", "task", "limit"),
    ("engine", "engine", "name"),
)


@dataclass(frozen=True, slots=True)
class Asked:
    """What is given for the runs of one variant: only what was typed, no defaults."""

    model: dict[str, Any] = field(default_factory=dict)
    task: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    engine: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Named:
    """A name or number of an axis of the grid; `where` is its place in a study file, else empty."""

    value: Any
    where: str = ""


@dataclass(slots=True)
class Variant:
    """One strategy under one set of settings, crossed with tasks, models and seeds."""

    cls: type[Strategy]
    assignments: list[Assignment]
    tasks: list[str] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    asked: Asked = field(default_factory=Asked)
    strategy: Strategy | None = None


def read_assignments(args: argparse.Namespace, problems: list[str]) -> list[Assignment]:
    """`--set` and the options that are short for one, with values given twice as problems."""
    found = parse_assignments(args.set, problems)
    for option, section, name in SHORT_FORMS:
        value = getattr(args, option)
        if value is not None:
            found.append(Assignment(section, (name,), value, f"--{option} {value}"))
    return each_once(found, problems)


def each_once(found: Iterable[Assignment], problems: list[str]) -> list[Assignment]:
    """The first of each key; another one of the same layer is a problem."""
    first: dict[str, Assignment] = {}
    for assignment in found:
        earlier = first.setdefault(assignment.key, assignment)
        if earlier is not assignment:
            problems.append(f"{assignment.key} is given twice: {earlier.text} and {assignment.text}")
    return list(first.values())


def layered(*layers: Iterable[Assignment]) -> list[Assignment]:
    """All layers as one, a later one replacing what an earlier one says of the same setting or below it."""
    found: dict[str, Assignment] = {}
    for layer in layers:
        for assignment in layer:
            for key in [key for key in found if f"{key}.".startswith(f"{assignment.key}.")]:
                del found[key]
            found[assignment.key] = assignment
    return list(found.values())


def check_sections(assignments: Sequence[Assignment], problems: list[str]) -> Asked:
    """The values of each section but the strategy's, each checked against its own model."""
    asked = Asked()
    for assignment in assignments:
        if assignment.section != "strategy":
            getattr(asked, assignment.section)[assignment.path[0]] = assignment.value
    found: list[str] = []
    build(AskedModel, asked.model, "model", found)
    build(TaskSpec, {"name": "any", **asked.task}, "task", found)
    build(TrainSpec, asked.train, "train", found)
    build(EngineSpec, asked.engine, "engine", found)
    problems += located(found, assignments)
    return asked


def located(problems: Iterable[str], assignments: Sequence[Assignment]) -> list[str]:
    """`problems` with the place in the study file before those that name a setting given there."""
    return [_place(problem, assignments) + problem for problem in problems]


def _place(problem: str, assignments: Sequence[Assignment]) -> str:
    for assignment in assignments:
        if problem.startswith((f"{assignment.key}=", f"{assignment.key}:", f"{assignment.key}.")):
            return assignment.where
    return ""


def build_variants(variants: Sequence[Variant], problems: list[str]) -> None:
    """Give each variant its checked settings and its strategy.

    A `strategy.*` setting goes to the strategies that have it; one that none of those it is given to
    has is a problem.
    """
    _check_strategy_settings(variants, problems)
    for variant in variants:
        variant.asked = check_sections(variant.assignments, problems)
        variant.strategy = _build_strategy(variant.cls, variant.assignments, problems)


def _check_strategy_settings(variants: Sequence[Variant], problems: list[str]) -> None:
    given: dict[str, tuple[Assignment, list[type[Strategy]]]] = {}
    for variant in variants:
        for assignment in variant.assignments:
            if assignment.section == "strategy":
                given.setdefault(assignment.text, (assignment, []))[1].append(variant.cls)
    for assignment, classes in given.values():
        name = assignment.path[0]
        if any(name in cls.model_fields for cls in classes):
            continue
        known = sorted({known for cls in classes for known in cls.model_fields})
        of = ", ".join(dict.fromkeys(cls.name for cls in classes))
        shown = ", ".join(known) or "no settings"
        problems.append(
            f"{assignment.text}: unknown setting '{name}'{did_you_mean(name, known)} ({of} has: {shown})"
        )


def _build_strategy(
    cls: type[Strategy], assignments: Sequence[Assignment], problems: list[str]
) -> Strategy | None:
    values: dict[str, Any] = {}
    own = [a for a in assignments if a.section == "strategy" and a.path[0] in cls.model_fields]
    found: list[str] = []
    with guarded_class(cls):
        for assignment in own:
            _assign(values, cls, assignment, problems)
        strategy = build(cls, values, "strategy", found, of=cls.name)
    problems += located(found, own)
    return strategy


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
