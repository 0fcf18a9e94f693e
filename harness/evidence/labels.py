"""What a strategy's variants are called where they stand side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from harness.record import RunRecord

# Told only where two variants on the same task have nothing else to tell them apart by: a learning
# rate may be chosen for each task, and the others change what a run costs and not what it computes.
_LAST_RESORT = (
    "train.learning_rate",
    "train.micro_batch_tokens",
    "train.packing",
    "train.gradient_checkpointing",
    "train.compile",
    "train.kernels",
    "train.checkpoint_steps",
    "train.evaluation_steps",
    "engine.evaluation_batch_tokens",
)


def labels(records: Sequence[RunRecord]) -> list[str]:
    """For each record its strategy's name, plus the settings in which that strategy's variants differ.

    Give one record of each group of runs that differ in nothing but the seed. Variants are told apart
    within a model, a way of scoring and a limit; over tasks a label means the same settings.
    """
    buckets: dict[tuple[Any, ...], list[int]] = {}
    for index, record in enumerate(records):
        spec = record.spec
        key = (spec.strategy.name, spec.model.name, spec.task.scoring, spec.task.limit)
        buckets.setdefault(key, []).append(index)
    named = [record.spec.strategy.name for record in records]
    for members in buckets.values():
        own = [records[index] for index in members]
        for index, told in zip(members, _told(own), strict=True):
            if told:
                named[index] += f" ({told})"
    return named


def _told(records: Sequence[RunRecord]) -> list[str]:
    if len(records) == 1:
        return [""]
    flat = [_flat(record) for record in records]
    values: dict[str, set[str]] = {}
    for settings in flat:
        for key, value in settings.items():
            values.setdefault(key, set()).add(repr(value))
    differing = [key for key, found in values.items() if len(found) > 1]
    differing += [key for key in values if key not in differing and any(key not in own for own in flat)]
    telling = [key for key in differing if key not in _LAST_RESORT]
    for key in (key for key in _LAST_RESORT if key in differing):
        if not _ambiguous(records, flat, telling):
            break
        telling.append(key)
    return [
        ", ".join(f"{key.rpartition('.')[2]}={own[key]}" for key in telling if key in own) for own in flat
    ]


def _ambiguous(records: Sequence[RunRecord], flat: Sequence[dict[str, object]], keys: Sequence[str]) -> bool:
    """Whether two variants on the same data would have the same label."""
    place: Callable[[RunRecord], Any] = lambda record: (record.spec.task.name, record.spec.task.source)  # noqa: E731
    seen = [(place(r), *(repr(own.get(key)) for key in keys)) for r, own in zip(records, flat, strict=True)]
    return len(set(seen)) < len(seen)


def _flat(record: RunRecord) -> dict[str, object]:
    spec = record.spec
    flat: dict[str, object] = {f"strategy.{key}": value for key, value in spec.strategy.settings.items()}
    for section, names in (("model", spec.model), ("train", spec.train), ("engine", spec.engine)):
        flat |= {f"{section}.{key}": getattr(names, key) for key in type(names).model_fields}
    flat["task.shots"] = spec.task.shots
    flat["plugin"] = ", ".join(plugin.sha256[:8] for plugin in spec.plugins) or None
    return flat
