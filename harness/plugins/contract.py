"""What a plugged-in class must say of itself, looked at when it comes in: later it would be a traceback."""

from __future__ import annotations

import inspect
import re
from typing import Any

from harness.contracts import Engine, Metric, Probe, Strategy
from harness.spec import EngineSpec

HIGHEST_RATE = 10.0
"""TrainSpec's bound."""
MOST_SHOTS = 64
"""TaskSpec's bound."""

ENGINE_SETTINGS = frozenset(EngineSpec.model_fields) - {"name", "evaluation_batch_tokens"}
"""What of a spec's `engine` is for some engines only."""

_NAME = re.compile(r"[^\s,()=@/\\]{1,64}")


def contract_problems(cls: type[Any]) -> list[str]:
    """One line for each thing that is missing in a strategy, task or probe, or is of another kind."""
    if inspect.isabstract(cls):
        return [f"{cls.__name__} lacks {', '.join(sorted(cls.__abstractmethods__))}()"]
    checks = next((own for base, own in _OF_KIND if issubclass(cls, base)), _TASK)
    missing = object()
    problems = []
    for name, (fits, expected) in {**_BOTH, **checks}.items():
        value = getattr(cls, name, missing)
        if value is missing:
            problems.append(f"{cls.__name__} has no {name}: expected {expected}")
        elif not fits(value):
            problems.append(f"{cls.__name__}.{name} is {_shown(value)}: expected {expected}")
    return problems


def is_rate(value: Any) -> bool:
    """Whether `value` can be a learning rate."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and 0 < value <= HIGHEST_RATE


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable() and bool(_NAME.fullmatch(value))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _are_texts(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(item, str) for item in value)


def _is_rate_or_none(value: Any) -> bool:
    return value is None or is_rate(value)


def _are_shots(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_SHOTS


def _are_metrics(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and all(isinstance(item, Metric) for item in value)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _are_settings(value: Any) -> bool:
    return isinstance(value, frozenset) and value <= ENGINE_SETTINGS


def _is_hub_id(value: Any) -> bool:
    return value is None or _is_text(value)


_BOTH = {
    "name": (_is_name, "a name without spaces, commas, brackets, = @ or slashes, at most 64 letters"),
    "summary": (_is_text, "one line of text on what it is"),
    "source": (_is_text, "text on where it comes from"),
}
_STRATEGY = {
    "trains": (_is_flag, "True or False"),
    "default_learning_rate": (_is_rate_or_none, f"a number above 0 and at most {HIGHEST_RATE:g}, or None"),
    "learning_rate_source": (lambda value: isinstance(value, str), "text"),
    "default_engine": (_is_name, "the name of an engine (plain, deepspeed, or one of a plugin)"),
    "default_shots": (_are_shots, f"a whole number from 0 to {MOST_SHOTS}"),
    "packages": (_are_texts, "a tuple of package names"),
}
_TASK = {
    "title": (_is_text, "the name that a table shows"),
    "metrics": (_are_metrics, "a tuple of harness.contracts.Metric"),
    "class_names": (_are_texts, "a tuple of texts"),
    "hub_id": (_is_hub_id, "org/name, or None"),
}
_PROBE = {"metrics": (_are_metrics, "a tuple of harness.contracts.Metric")}
_ENGINE = {
    "packages": (_are_texts, "a tuple of package names"),
    "settings": (_are_settings, f"a frozenset of {', '.join(sorted(ENGINE_SETTINGS))}"),
    "trains_in_float16": (_is_flag, "True or False"),
    "forkable": (_is_flag, "True or False"),
    "keeps_weights": (_is_flag, "True or False"),
    "synchronises": (_is_flag, "True or False"),
}
_OF_KIND = ((Strategy, _STRATEGY), (Probe, _PROBE), (Engine, _ENGINE))
