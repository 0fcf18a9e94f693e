"""A probe on a finished model, for the record: its figures, or why it has none."""

from __future__ import annotations

import inspect

from pydantic import ValidationError

from harness.contracts import Finished, Measured, Probe
from harness.errors import HarnessError, UsageError
from harness.plugins.loading import guarded
from harness.record import MetricInfo, ProbeResult, Score
from harness.runtime.failures import failure_of


def probed(cls: type[Probe], finished: Finished) -> ProbeResult:
    """What a probe measures. A run that was trained and scored is no failed one because a probe of it fails."""
    try:
        with guarded(f"probe {cls.name}", inspect.getfile(cls)):
            probe = cls()
            reason = probe.refusal(finished.task, finished.scoring, finished.items)
            if reason:
                raise UsageError(f"probe '{cls.name}' measures nothing here: {reason}", "Leave --probe out.")
            found = probe.measure(finished)
            _check_names(cls, found)
            scores = {name: _score(cls.name, name, value) for name, value in found.items()}
    except HarnessError as error:
        return ProbeResult(failure=failure_of(error, f"probe:{cls.name}"))
    metrics = {
        own.name: MetricInfo(
            unit=own.unit, higher_is_better=own.higher_is_better, chance=own.chance, definition=own.definition
        )
        for own in cls.metrics
    }
    return ProbeResult(scores=scores, metrics=metrics)


def _check_names(cls: type[Probe], found: dict[str, Measured]) -> None:
    """Raise `UsageError` unless each declared metric, and no other, has a value."""
    declared = {own.name for own in cls.metrics}
    if found.keys() != declared:
        odd = ", ".join(sorted(found.keys() ^ declared))
        raise UsageError(f"probe '{cls.name}' does not give what it declares: {odd}", "Mend the probe.")


def _score(probe: str, metric: str, own: Measured) -> Score:
    """Raises `UsageError` for what is no score: not a number, or outside its own interval."""
    try:
        return Score(value=own.value, n=own.n, ci_low=own.low, ci_high=own.high)
    except ValidationError as error:
        why = error.errors()[0]["msg"]
        raise UsageError(f"probe '{probe}': {metric} is no score: {why}", "Mend the probe.") from error
