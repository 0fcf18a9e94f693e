"""What `--tune` cost a group of runs: from tuning.json in their folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.evidence.audit import Difference
from harness.plan.trials import Trial, read_tuning
from harness.record import RunRecord
from harness.store.runs import Store


@dataclass(frozen=True, slots=True)
class Tuning:
    """What choosing a cell's learning rate on validation cost, once for all its seeds. Not in its costs.

    total_seconds, gpu_hours: of all trials; None where one of them did not measure it. All are None
    where the trials cannot be read.
    """

    trials: int | None = None
    failed: int | None = None
    rates: tuple[float, ...] = ()
    total_seconds: float | None = None
    gpu_hours: float | None = None


def tuning_of(store: Store, records: Sequence[RunRecord]) -> Tuning | None:
    """The trials of a group, each once (all seeds share one tuning); None where it was not tuned.

    Raises `StoreError` for a tuning.json that cannot be read.
    """
    found = [read_tuning(store.folder(record.run_id)) for record in records if record.spec.trains]
    trials = {trial.run_id: trial for tuning in found if tuning for trial in tuning.trials}
    if not trials:
        return None
    return Tuning(
        trials=len({trial.learning_rate for trial in trials.values()}),
        failed=len({trial.learning_rate for trial in trials.values() if trial.status != "ok"}),
        rates=tuple(sorted({trial.learning_rate for trial in trials.values()})),
        total_seconds=_sum(list(trials.values()), "total_seconds"),
        gpu_hours=_sum(list(trials.values()), "gpu_hours"),
    )


def _sum(trials: Sequence[Trial], name: str) -> float | None:
    """None where one was not measured: the sum of the others would be too small."""
    values = [getattr(trial, name) for trial in trials]
    return None if any(value is None for value in values) else float(sum(values))


def untuned(
    one: Sequence[RunRecord], other: Sequence[RunRecord], tuned: tuple[Tuning | None, Tuning | None]
) -> bool:
    """Whether two groups that train are compared at learning rates that nothing was chosen for."""
    return tuned == (None, None) and all(record.spec.trains for record in (*one, *other))


NEITHER = "neither side was tuned: learning rates are defaults or as given (--tune chooses them)"


def tuning_differences(
    one: Sequence[RunRecord], other: Sequence[RunRecord], tuned: tuple[Tuning | None, Tuning | None]
) -> list[Difference]:
    """Whether two groups that train were given different numbers of learning rates to choose from."""
    if not all(record.spec.trains for record in (*one, *other)):
        return []
    left, right = (own.trials if own else 0 for own in tuned)
    if left == right:
        return []
    told = [{0: "none (not tuned)", None: "unknown"}.get(count, str(count)) for count in (left, right)]
    return [Difference("learning rates tried", told[0], told[1], "warns")]
