"""What makes two runs the same: a strategy's settings that equal its defaults are no part of it.

So a setting that a strategy gains later, with a default, renames no run.
"""

from __future__ import annotations

import functools
import json
from typing import Any

from harness.contracts import Strategy
from harness.errors import UsageError, first_line
from harness.plugins.loading import guarded_class
from harness.registry import load_registry
from harness.spec import Dtype, RunSpec, StrategySpec


def strategy_spec(strategy: Strategy, dtype: Dtype) -> StrategySpec:
    """A strategy with every setting as JSON holds it, in a run of this precision, and which of them are
    its defaults. Raises `UsageError` for what JSON cannot hold.
    """
    with guarded_class(type(strategy)):
        settings = strategy.at_precision(dtype).model_dump(mode="json")
        usual = usual_settings(type(strategy), dtype)
    try:
        json.dumps(settings, allow_nan=False)
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"strategy '{strategy.name}' has a setting that no record can hold: {first_line(str(error))}",
            "Settings are text, numbers (not NaN), true, false, null, lists and mappings.",
        ) from error
    return StrategySpec(name=strategy.name, settings=settings, at_default=_at_default(settings, usual))


def described_anew(spec: RunSpec) -> RunSpec:
    """A spec of an earlier medtune as this one would describe the run, so that both have one digest.

    Of a plugged-in strategy the defaults are not known: nothing that a record names is loaded.
    """
    if spec.strategy.at_default is not None or spec.plugins:
        return spec
    cls = _built_in().get(spec.strategy.name)
    if cls is None:
        return spec
    known = _at_default(spec.strategy.settings, usual_settings(cls, spec.model.dtype))
    return spec.model_copy(update={"strategy": spec.strategy.model_copy(update={"at_default": known})})


@functools.cache
def usual_settings(cls: type[Strategy], dtype: Dtype) -> dict[str, Any]:
    """The settings of a strategy for which nothing is asked; without those that must be given."""
    required = {name for name, field in cls.model_fields.items() if field.is_required()}
    # Not validated: a method that has to be told more (which one of PEFT's) has its other defaults all the same.
    usual = cls.model_construct()
    return (usual if required else usual.at_precision(dtype)).model_dump(
        mode="json", exclude=required, warnings=False
    )


def _at_default(settings: dict[str, Any], usual: dict[str, Any]) -> tuple[str, ...]:
    return tuple(sorted(k for k, value in settings.items() if k in usual and usual[k] == value))


@functools.cache
def _built_in() -> dict[str, type[Strategy]]:
    return load_registry(with_installed=False).strategies
