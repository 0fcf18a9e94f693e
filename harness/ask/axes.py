"""The axes of a grid: strategies under their settings, tasks, models and seeds, each name checked."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from harness.ask.layers import Named, Variant, layered
from harness.ask.options import MOST_DIGITS
from harness.ask.settings import Assignment, one_line
from harness.ask.study_file import AXES, Axes, Pair, Study
from harness.errors import UsageError, unknown_name
from harness.io.paths import cut
from harness.model_names import resolve_model_name
from harness.registry import Registry

DEFAULTS = {"model": [Named("smollm2-135m")], "seed": [Named("0")]}


def command_axes(args: argparse.Namespace) -> Axes:
    """The axes that options give; one that is not given is not in it."""
    given = {axis: getattr(args, axis) for axis in AXES}
    return {
        axis: [Named(part) for part in split_list(text)] for axis, text in given.items() if text is not None
    }


def make_variants(
    study: Study, command: Axes, assignments: list[Assignment], registry: Registry, problems: list[str]
) -> list[Variant]:
    """The strategies under their settings: study's `set`, `per_strategy`, `pairs`, then the options'.

    A strategy runs once for each entry of `pairs` that names it or names none, and where there is no
    such entry once without. Axes given as options take the place of the grid's and of each entry's.
    """
    grid = {**study.axes, **command}
    asked = list(grid.get("strategy", []))
    if "strategy" not in command:
        asked += [named for pair in study.pairs for named in pair.axes.get("strategy", [])]
    classes = _known("strategy", asked, registry.strategies, problems)
    for name, (named, _) in study.per_strategy.items():
        if name not in registry.strategies:
            problems.append(
                f"{named.where}per_strategy: {unknown_name('strategy', name, registry.strategies)}"
            )
    if not classes:
        _read_axes(grid, registry, problems)
    variants = []
    for cls in classes:
        per = study.per_strategy.get(cls.name, (None, []))[1]
        for pair in [pair for pair in study.pairs if _applies(pair, cls.name)] or [Pair()]:
            axes = _read_axes({**grid, **pair.axes, **command}, registry, problems)
            settings = layered(study.settings, per, pair.settings, assignments)
            variants.append(Variant(cls, settings, axes["task"], axes["model"], axes["seed"]))
    return variants


def _applies(pair: Pair, strategy: str) -> bool:
    names = [named.value for named in pair.axes.get("strategy", [])]
    return not names or strategy in names


def _read_axes(axes: Axes, registry: Registry, problems: list[str]) -> dict[str, list[Any]]:
    """Task, model and seed as what they mean."""
    named = DEFAULTS | axes
    tasks = _known("task", named.get("task", []), registry.tasks, problems)
    return {
        "task": [cls.name for cls in tasks],
        "model": _models(named["model"], problems),
        "seed": _seeds(named["seed"], problems),
    }


def split_list(text: str | None) -> list[str]:
    """The parts of a comma list, each once, in order."""
    parts = (part.strip() for part in (text or "").split(","))
    return list(dict.fromkeys(part for part in parts if part))


def _known(
    kind: str, names: Sequence[Named], table: dict[str, type[Any]], problems: list[str]
) -> list[type[Any]]:
    """The classes of these names, each once."""
    if not names:
        problems.append(f"--{kind} is missing (known: {', '.join(sorted(table))})")
    problems += [
        named.where + unknown_name(kind, named.value, table) for named in names if named.value not in table
    ]
    found = dict.fromkeys(named.value for named in names if named.value in table)
    return [table[name] for name in found]


def _models(names: Sequence[Named], problems: list[str]) -> list[str]:
    models = []
    for named in names:
        try:
            models.append(resolve_model_name(named.value))
        except UsageError as error:
            problems.append(named.where + one_line(error))
    if not names:
        problems.append("--model is empty")
    return list(dict.fromkeys(models))


def _seeds(names: Sequence[Named], problems: list[str]) -> list[int]:
    seeds = []
    for named in names:
        text = str(named.value)
        if text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS and int(text) < 2**32:
            seeds.append(int(text))
        else:
            key = f"{named.where}seed" if named.where else "--seed"
            problems.append(f"{key} {cut(text)}: expected a whole number from 0 to {2**32 - 1}")
    if not names:
        problems.append("--seed is empty")
    return list(dict.fromkeys(seeds))
