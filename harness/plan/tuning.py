"""`--tune`: which trials a grid needs, what they choose, and how `show` tells of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import StoreError
from harness.launch.progress import duration
from harness.plan.reuse import check_holds
from harness.plan.trials import (
    Tuning,
    failed_record,
    fold_means,
    is_decided,
    judge,
    read_tuning,
    trial_store,
    trials_of,
    with_rate,
)
from harness.record import RunRecord
from harness.registry import Registry
from harness.render.numbers import interval, number
from harness.render.tables import print_table
from harness.spec import RunSpec
from harness.store.runs import Store

if TYPE_CHECKING:
    from rich.console import Console


class Tuner:
    """The trials of a grid: those there are, those to run, and the runs they lead to."""

    def __init__(
        self,
        specs: Sequence[RunSpec],
        n: int,
        store: Store,
        registry: Registry,
        *,
        force: bool,
        validation_n: Callable[[RunSpec], int],
    ) -> None:
        """validation_n: how many validation items a run's data has; asked only where something is tuned."""
        self.store = trial_store(store)
        self._root = store.root
        self._registry = registry
        self._trials = {
            spec.run_id: trials_of(spec, n, validation_n(spec)) if n > 1 and spec.trains else []
            for spec in specs
        }
        self.all = list(
            {trial.run_id: trial for trials in self._trials.values() for trial in trials}.values()
        )
        self.records: dict[str, RunRecord] = {} if force else self._decided(self.all)

    def _decided(self, trials: Iterable[RunSpec]) -> dict[str, RunRecord]:
        found = {}
        for trial in trials:
            try:
                state = self.store.state(trial.run_id)
            except StoreError:  # counts as missing; why it cannot be run either is said when it is its turn
                continue
            if state in ("ok", "failed"):
                record = self.store.record(trial.run_id)
                if is_decided(record):
                    check_holds(trial, record, self.store, self._registry)
                    found[trial.run_id] = record
        return found

    @property
    def missing(self) -> list[RunSpec]:
        return [trial for trial in self.all if trial.run_id not in self.records]

    def drop_weights(self, record: RunRecord) -> None:
        """A trial's weights are not kept: full tuning of a 7B model writes 14 GB each time."""
        shutil.rmtree(self.store.folder(record.run_id) / "adapter", ignore_errors=True)

    def is_open(self, spec: RunSpec) -> bool:
        """Whether trials of `spec` have still to be run before its learning rate is known."""
        return any(trial.run_id not in self.records for trial in self._trials[spec.run_id])

    def settled(self, specs: Iterable[RunSpec]) -> list[RunSpec]:
        """Those whose learning rate is known, or is known not to be found."""
        return [spec for spec in specs if not self.is_open(spec)]

    def tuning(self, spec: RunSpec) -> Tuning | None:
        """How the rate of `spec` is chosen; `None` where it is not tuned."""
        trials = self._trials[spec.run_id]
        return judge(spec, trials, self.records) if trials else None

    def resolved(self, spec: RunSpec) -> RunSpec | RunRecord:
        """`spec` with the rate that was chosen, or the record of its failure where none could be."""
        tuning = self.tuning(spec)
        if tuning is None or self.is_open(spec):
            return spec
        if tuning.chosen is None:
            return failed_record(spec, tuning, self._root)
        return with_rate(spec, tuning.chosen)


def told(spec: RunSpec, tuning: Tuning) -> str:
    """One line for the user: what was chosen for a run, of what, and what that cost."""
    tried = ", ".join(f"{rate:g}" for rate in tuning.rates)
    best = next((trial for trial in tuning.trials if trial.learning_rate == tuning.chosen), None)
    what = f"tuned {spec.strategy.name} on {spec.task.name}"
    if best is None:
        return f"{what}: none of {tried} ended well"
    reached = f"validation accuracy {interval(best.accuracy)} %"
    if tuning.folds:
        mean = fold_means(tuning.trials)[best.learning_rate]
        reached = f"mean nll {mean:.4f} over {tuning.folds} folds of train"
    return (
        f"{what}: learning rate {best.learning_rate:g} of {tried} ({reached}), "
        f"{duration(tuning.total_seconds)} in all"
    )


def print_tuning(console: Console, folder: Path) -> None:
    """The trials of the run in `folder` and their cost; nothing where it was not tuned."""
    tuning = read_tuning(folder)
    if tuning is None:
        return
    rows = [
        [
            f"{trial.learning_rate:g}{' (chosen)' if trial.learning_rate == tuning.chosen else ''}",
            *([] if trial.fold is None else [str(trial.fold + 1)]),
            interval(trial.accuracy) if trial.accuracy else trial.failure or trial.status,
            number(trial.nll.value if trial.nll else None, digits=4),
            number(trial.total_seconds, digits=1),
        ]
        for trial in tuning.trials
    ]
    hours = "" if tuning.gpu_hours is None else f", {tuning.gpu_hours:.3f} GPU hours"
    title = (
        f"Tuning: {len(rows)} trials, {duration(tuning.total_seconds)}{hours} besides this run's cost "
        f"(once for all its seeds)"
    )
    on = "fold" if tuning.folds else "validation"
    headers = [
        "learning rate",
        *(["fold"] if tuning.folds else []),
        f"{on} accuracy % [95%]",
        f"{on} nll",
        "s",
    ]
    print_table(console, headers, rows, title=title, right=[True] * len(headers))
    console.print(f"Chosen by {tuning.rule}. Seed of the trials: {tuning.seed}.", soft_wrap=True)
