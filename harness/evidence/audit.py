"""What differs between runs that are compared, besides the strategy and its learning rate."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.record import RunRecord

Severity = Literal["breaks", "warns"]
"""`breaks`: the scores must not be compared. `warns`: they may, and the reader must know."""

_FINGERPRINT = re.compile(r"[0-9a-f]{16,}")


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


def _test_items(record: RunRecord) -> str | None:
    return f"{record.data.test_n} ({record.data.test_fingerprint[:12]})" if record.data else None


def _scoring(record: RunRecord) -> str:
    return record.spec.task.scoring


def _examples_seen(record: RunRecord) -> str:
    """How many of the worked examples asked for fitted in front of the items."""
    asked = record.spec.task.shots
    if asked == 0:
        return "all"
    if record.inputs is None or record.inputs.shots_min is None or record.inputs.shots_mean is None:
        return "unknown"  # a record of before they were counted
    if record.inputs.shots_min >= asked:
        return "all"
    return f"{record.inputs.shots_mean:.1f} of {asked} on average, {record.inputs.shots_min} at least"


def _inputs(name: str) -> Callable[[RunRecord], Any]:
    return lambda record: getattr(record.inputs, name) if record.inputs else "unknown"


_BREAKS: dict[str, Callable[[RunRecord], Any]] = {
    "data set": _data("title"),
    "test items": _test_items,
    "scoring": _scoring,
}
# The fingerprints are over prompts and choices as they are scored: with another scoring they differ
# although the items are the same, so that then only the numbers of items can be held together.
_BREAKS_OTHER_SCORING = {**_BREAKS, "test items": _data("test_n")}

_WARNS: dict[str, Callable[[RunRecord], Any]] = {
    "data": _data("fingerprint"),
    "model": lambda record: record.spec.model.name,
    "model weights": lambda record: record.model.fingerprint if record.model else None,
    "worked examples (shots)": lambda record: record.spec.task.shots,
    "worked examples really seen": _examples_seen,
    "test prompts cut off": _inputs("truncated_items"),
    "weights stored quantised": lambda record: (record.model and record.model.quantization) or "no",
    "precision": lambda record: record.spec.model.dtype,
    "attention": lambda record: record.spec.model.attention,
    "device": _environment("device_name"),
    "cores": _environment("cores"),
    "threads": _environment("threads"),
    "processes": _environment("processes"),
    "runs side by side": _environment("parallel_runs"),
    "forked from a warm process": _environment("warm"),
    "driver": _environment("driver"),
    "medtune commit": _environment("git"),
    "python": _environment("python"),
}

# Compared only where both sides train: a zero-shot run has no budget to differ in.
_BUDGET: dict[str, Callable[[RunRecord], Any]] = {
    "training steps": lambda record: record.cost.train_steps,
    "training tokens": lambda record: record.cost.train_tokens,
    "training examples": _data("train_n"),
    "training prompts cut off": _inputs("truncated_rows"),
}
_TRAIN_FIELDS = (
    "batch_size", "max_length", "schedule", "warmup_ratio", "weight_decay", "adam_beta1", "adam_beta2",
    "max_grad_norm", "early_stopping_patience",
)  # fmt: skip


def audit(one: Sequence[RunRecord], other: Sequence[RunRecord]) -> list[Difference]:
    """Every difference between two groups of runs, those that forbid a comparison first."""
    same_scoring = len({_scoring(record) for record in (*one, *other)}) == 1
    found = _compare(_BREAKS if same_scoring else _BREAKS_OTHER_SCORING, one, other, "breaks")
    warns = {what: read for what, read in _WARNS.items() if same_scoring or what != "data"}
    found += _compare(warns, one, other, "warns")
    if all(record.spec.trains for record in (*one, *other)):
        train = {f"train.{name}": _train_field(name) for name in _TRAIN_FIELDS}
        engine: dict[str, Callable[[RunRecord], Any]] = {"engine": lambda record: record.spec.engine.name}
        found += _compare({**_BUDGET, **train, **engine}, one, other, "warns")
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
            found.append(Difference(what, _joined(left), _joined(right), severity))
    return found


def _joined(values: set[str]) -> str:
    """The values, those that are fingerprints by their beginning."""
    return " / ".join(value[:12] if _FINGERPRINT.fullmatch(value) else value for value in sorted(values))


def _packages(one: Sequence[RunRecord], other: Sequence[RunRecord]) -> list[Difference]:
    fields = {f"package {name}": _package(name) for name in _package_names((*one, *other))}
    return _compare(fields, one, other, "warns")


def _package(name: str) -> Callable[[RunRecord], Any]:
    return lambda record: record.environment.packages.get(name, "none") if record.environment else "unknown"


def _package_names(records: Sequence[RunRecord]) -> list[str]:
    return sorted({name for record in records if record.environment for name in record.environment.packages})


def _seeds(one: Sequence[RunRecord], other: Sequence[RunRecord]) -> list[Difference]:
    left, right = ([record.spec.seed for record in side] for side in (one, other))
    # Where nothing is drawn, a seed is only a name.
    if sorted(left) == sorted(right) or not all(record.spec.seeded for record in (*one, *other)):
        return []
    return [Difference("seeds", ", ".join(map(str, left)), ", ".join(map(str, right)), "warns")]


def within(records: Sequence[RunRecord]) -> list[Difference]:
    """What is not the same over the seeds of one group."""
    found = []
    packages = {f"package {name}": _package(name) for name in _package_names(records)}
    for what, read in {**_WARNS, **packages}.items():
        first, *others = sorted({str(read(record)) for record in records})
        if others:
            found.append(Difference(what, _joined({first}), _joined(set(others)), "warns"))
    return found


def comparable(differences: Sequence[Difference]) -> bool:
    """Whether scores may be compared at all."""
    return all(difference.severity != "breaks" for difference in differences)


def same_device(one: RunRecord, other: RunRecord) -> bool:
    """Whether costs may be compared: memory, time and energy mean nothing across devices.

    Records of before cores and threads were kept have None for both, and are of one device among
    themselves only.
    """
    return (
        one.environment is not None
        and other.environment is not None
        and one.environment.device_name == other.environment.device_name
        and one.environment.cores == other.environment.cores
        and one.environment.threads == other.environment.threads
        and one.environment.processes == other.environment.processes
        and one.environment.parallel_runs == other.environment.parallel_runs
        and one.environment.warm == other.environment.warm
    )
