"""How long a run will take, from runs of its kind that are in the store."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import median

from harness.record import DataInfo, RunRecord
from harness.spec import FOLDS, RunSpec

Kind = tuple[object, ...]

_SCALED = {"epochs", "max_steps", "limit", "batch_size"}
"""Of training: how much there is to do, which a forecast counts."""
_WITHOUT_COST = {
    "learning_rate", "schedule", "warmup_ratio", "weight_decay", "adam_beta1", "adam_beta2", "max_grad_norm",
    "checkpoint_steps",
}  # fmt: skip
"""Of training: what a step takes no longer for."""


class Forecaster:
    """Forecasts from `records` that ended well, on `device` only where its name is known.

    A run is of another's kind when everything that its time hangs on is the same: model, precision,
    strategy and its settings, task, data, scoring, shots, engine, passes; and when it was made as the
    next one will be, in as many processes and beside as many runs, on as many `cores` where these are
    given. Only what a time is in proportion to (steps, examples, items) may differ. Training is the median of seconds an example (over optimiser steps) times the
    examples of all steps, evaluation the median of seconds an item times the items; the rest
    (loading, saving) is taken over as it was.
    """

    def __init__(
        self,
        records: Iterable[RunRecord],
        device: str | None,
        *,
        processes: int = 1,
        parallel: int = 1,
        cores: int | None = None,
    ) -> None:
        self._runs: dict[Kind, list[RunRecord]] = defaultdict(list)
        self._sizes: dict[Kind, list[RunRecord]] = defaultdict(list)
        for record in records:
            if record.status != "ok" or record.data is None or record.environment is None:
                continue
            self._sizes[_data_kind(record.spec)].append(record)
            made_with = record.environment
            alike = (made_with.processes, made_with.parallel_runs) == (processes, parallel)
            alike = alike and device in (None, made_with.device_name) and cores in (None, made_with.cores)
            # A resumed run's total leaves out its earlier tries.
            if alike and not record.resumed:
                self._runs[_kind(record.spec)].append(record)

    def seconds(self, spec: RunSpec) -> float | None:
        """The whole run's wall-clock seconds; `None` where no run of its kind is known."""
        runs = self._runs.get(_kind(spec), [])
        parts = [self._train(spec, runs), self._evaluate(spec, runs), _rest(runs)]
        known = [part for part in parts if part is not None]
        return sum(known) if len(known) == len(parts) else None

    def _train(self, spec: RunSpec, runs: Sequence[RunRecord]) -> float | None:
        if spec.train.learning_rate is None:
            return 0.0
        rates = [
            run.cost.train_seconds / (run.cost.train_steps * run.spec.train.batch_size)
            for run in runs
            if run.cost.train_seconds is not None and run.cost.train_steps
        ]
        steps = self._steps(spec)
        return median(rates) * spec.train.batch_size * steps if rates and steps else None

    def _steps(self, spec: RunSpec) -> int | None:
        if spec.train.max_steps is not None:
            return spec.train.max_steps
        examples = self._train_n(spec)
        if examples is None:
            return None
        return math.ceil(spec.train.epochs * math.ceil(examples / spec.train.batch_size))

    def _train_n(self, spec: RunSpec) -> int | None:
        """Training examples: as many as the whole split has, or as the limit leaves."""
        limit = spec.train.limit
        sizes = [
            run.data.train_n
            for run in self._sizes[_data_kind(spec)]
            if run.data and (run.spec.train.limit is None or run.data.train_n < run.spec.train.limit)
        ]
        whole = max(sizes, default=None)
        if whole is None:
            return limit  # an upper bound: nothing says that there are fewer
        return whole if limit is None else min(limit, whole)

    def _evaluate(self, spec: RunSpec, runs: Sequence[RunRecord]) -> float | None:
        rates = [
            run.cost.eval_seconds / run.data.test_n
            for run in runs
            if run.cost.eval_seconds is not None and run.data is not None and run.data.test_n
        ]
        infos = [run.data for run in runs if run.data]
        if not rates or not infos:
            return None
        items = max(_scored_n(spec, data) for data in infos)
        return median(rates) * min(items, spec.task.limit or items)


def _scored_n(spec: RunSpec, data: DataInfo) -> int:
    """How many items a run scores of data like this: its test split, its validation split or a fold."""
    if spec.task.split == "train":
        return math.ceil(data.train_n / FOLDS)
    return data.validation_n if spec.task.split == "validation" else data.test_known_n


def total(seconds: Sequence[float | None]) -> tuple[float, int]:
    """The sum of the known ones, and how many are not known."""
    known = [value for value in seconds if value is not None]
    return sum(known), len(seconds) - len(known)


def _rest(runs: Sequence[RunRecord]) -> float | None:
    rests = [
        run.cost.total_seconds - (run.cost.train_seconds or 0.0) - (run.cost.eval_seconds or 0.0)
        for run in runs
        if run.cost.total_seconds is not None
    ]
    return max(0.0, median(rests)) if rests else None


def _kind(spec: RunSpec) -> Kind:
    """All of a spec but what a time is in proportion to, and what it does not hang on."""
    train = spec.train.model_dump(mode="json", exclude=set(_SCALED | _WITHOUT_COST))
    values = (spec.model, spec.strategy, spec.engine)
    return (
        *_data_kind(spec), spec.task.scoring, spec.task.shots,
        *(json.dumps(value.model_dump(mode="json"), sort_keys=True) for value in values),
        json.dumps(train, sort_keys=True),
    )  # fmt: skip


def _data_kind(spec: RunSpec) -> Kind:
    return (spec.task.name, spec.task.source)
