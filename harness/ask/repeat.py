"""A stored spec back into the command that gives it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from harness.ask.settings import format_value
from harness.contracts import Strategy
from harness.errors import UsageError
from harness.spec import RunSpec

# Sections written as --set, and what of them an option of its own says.
_BY_OPTION = {
    "model": {"name", "dtype"},
    "task": {"name", "source", "scoring", "shots", "limit"},
    "train": set[str](),
    "engine": {"name"},
}


def repeat_command(spec: RunSpec, strategy: type[Strategy] | None = None, seeds: Sequence[int] = ()) -> str:
    """The shell command that asks for exactly this spec, or for it over several seeds.

    What the strategy's class would fill in by itself is left out where `strategy` is given; else
    every setting is written.
    """
    words = ["python", "-m", "harness", "run", "--strategy", spec.strategy.name, "--task", spec.task.name]
    words += ["--model", spec.model.name, "--data", spec.task.source, "--scoring", spec.task.scoring]
    words += ["--seed", ",".join(map(str, seeds or (spec.seed,)))]
    if spec.task.shots:
        words += ["--shots", str(spec.task.shots)]
    if spec.task.limit is not None:
        words += ["--limit", str(spec.task.limit)]
    if spec.trains:
        words += ["--engine", spec.engine.name]
    if spec.probes:
        words += ["--probe", ",".join(spec.probes)]
    for plugin in spec.plugins:
        words += [] if plugin.package else ["--plugin", plugin.path]
    # Always: left out, it would be what suits the machine on which the command is given.
    words += ["--set", f"model.dtype={spec.model.dtype}"]
    for section, said in _BY_OPTION.items():
        own = getattr(spec, section)
        for name, field in type(own).model_fields.items():
            value = getattr(own, name)
            if name not in said and value != field.get_default(call_default_factory=True):
                words += ["--set", f"{section}.{name}={format_value(value)}"]
    defaults = _defaults(strategy)
    for name, value in spec.strategy.settings.items():
        if name not in defaults or defaults[name] != value:
            words += ["--set", f"strategy.{name}={format_value(value)}"]
    return shlex.join(words)


def _defaults(strategy: type[Strategy] | None) -> dict[str, Any]:
    """The settings a strategy has when none is given; none where it cannot be made without some."""
    if strategy is None:
        return {}
    try:
        return strategy.model_validate({}).model_dump(mode="json")
    except (ValidationError, UsageError):
        return {}
