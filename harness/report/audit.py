"""What differs between runs that are compared, besides the strategy and its learning rate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.record import RunRecord

Severity = Literal["breaks", "warns"]
"""`breaks`: the scores must not be compared. `warns`: they may, and the reader must know."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not the same on both sides."""

    what: str
    one: str
    other: str
    severity: Severity

    def __str__(self) -> str:
        return f"{self.what}: {self.one} against {self.other}"


def _data(name: str) -> Callable[[RunRecord], Any]:
    return lambda record: getattr(record.data, name) if record.data else None


def _environment(name: str) -> Callable[[RunRecord], Any]:
    return lambda record: getattr(record.environment, name) if record.environment else None


def _trains(record: RunRecord) -> bool:
    return record.spec.train.learning_rate is not None


_BREAKS: dict[str, Callable[[RunRecord], Any]] = {
    "data set": _data("title"),
    "test items": _data("test_fingerprint"),
    "scoring": lambda record: record.spec.task.scoring,
}

_WARNS: dict[str, Callable[[RunRecord], Any]] = {
    "data": _data("fingerprint"),
    "model": lambda record: record.spec.model.name,
    "model weights": lambda record: record.model.fingerprint if record.model else None,
    "worked examples (shots)": lambda record: record.spec.task.shots,
    "precision": lambda record: record.spec.model.dtype,
    "attention": lambda record: record.spec.model.attention,
    "device": _environment("device_name"),
    "processes": _environment("processes"),
    "python": _environment("python"),
}

# Compared only where both sides train: a zero-shot run has no budget to differ in.
_BUDGET: dict[str, Callable[[RunRecord], Any]] = {
    "training steps": lambda record: record.cost.train_steps,
    "training tokens": lambda record: record.cost.train_tokens,
    "training examples": _data("train_n"),
}
_TRAIN_FIELDS = (
    "batch_size", "max_length", "schedule", "warmup_ratio", "weight_decay", "adam_beta1", "adam_beta2",
    "max_grad_norm", "early_stopping_patience",
)  # fmt: skip


def audit(one: Sequence[RunRecord], other: Sequence[RunRecord]) -> list[Difference]:
    """Every difference between two groups of runs, those that forbid a comparison first."""
    found = _compare(_BREAKS, one, other, "breaks")
    found += _compare(_WARNS, one, other, "warns")
    if all(map(_trains, (*one, *other))):
        train = {f"train.{name}": _train_field(name) for name in _TRAIN_FIELDS}
        found += _compare({**_BUDGET, **train}, one, other, "warns")
    return found + _packages(one, other) + _seeds(one, other)


def _train_field(name: str) -> Callable[[RunRecord], Any]:
    return lambda record: getattr(record.spec.train, name)


def _compare(
    fields: dict[str, Callable[[RunRecord], Any]],
    one: Sequence[RunRecord],
    other: Sequence[RunRecord],
    severity: Severity,
) -> list[Difference]:
    found = []
    for what, read in fields.items():
        left, right = {str(read(record)) for record in one}, {str(read(record)) for record in other}
        if left != right:
            found.append(Difference(what, " / ".join(sorted(left)), " / ".join(sorted(right)), severity))
    return found


def _packages(one: Sequence[RunRecord], other: Sequence[RunRecord]) -> list[Difference]:
    def versions(records: Sequence[RunRecord], name: str) -> str:
        own = {r.environment.packages.get(name, "none") for r in records if r.environment}
        return " / ".join(sorted(own))

    every = (*one, *other)
    names = sorted({name for record in every if record.environment for name in record.environment.packages})
    return [
        Difference(f"package {name}", left, right, "warns")
        for name in names
        if (left := versions(one, name)) != (right := versions(other, name))
    ]


def _seeds(one: Sequence[RunRecord], other: Sequence[RunRecord]) -> list[Difference]:
    left, right = ([record.spec.seed for record in side] for side in (one, other))
    if sorted(left) == sorted(right):
        return []
    return [Difference("seeds", ", ".join(map(str, left)), ", ".join(map(str, right)), "warns")]


def comparable(differences: Sequence[Difference]) -> bool:
    """Whether scores may be compared at all."""
    return all(difference.severity != "breaks" for difference in differences)


def same_device(one: RunRecord, other: RunRecord) -> bool:
    """Whether costs may be compared: memory, time and energy mean nothing across devices."""
    return (
        one.environment is not None
        and other.environment is not None
        and one.environment.device_name == other.environment.device_name
        and one.environment.processes == other.environment.processes
    )
