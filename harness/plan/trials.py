"""Learning rates tried and chosen on validation: the same number for each strategy that trains.

A trial is a run like any other, with its own folder and record, except that what it scores is the
validation split (`task.split`): the test split is not scored before the rate is chosen. All seeds of
a run share one tuning, done with `TUNING_SEED`, so that asking for another seed later neither adds
trials nor changes the choice, and seeds differ in nothing but the seed. That seed is no evaluation seed:
a run that is also the trial it was chosen by would be better than its method, the more so the more its
method's runs vary.

The choice: highest validation accuracy, because accuracy is what the runs are then compared by; at
the same accuracy (common, with a few hundred items) the lower mean negative log-likelihood, which
sees what accuracy is too coarse for; then the lower rate. With fewer than `FEW` validation items accuracy
chooses at random among good rates: then each rate has a trial on each of the folds of train, and the lowest
mean negative log-likelihood over the folds is chosen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Literal

from pydantic import ValidationError

from harness.errors import StoreError, UsageError
from harness.io.files import write_json_atomic
from harness.record import Cost, Failure, RunRecord, Score
from harness.spec import FOLDS, Frozen, RunSpec
from harness.store.boundary import misfit, read_json, reading
from harness.store.runs import Store

TUNING_SEED = 1_618_033_988
"""No run may have it: see the module."""
FEW = 200
DECADES = 2.0
HIGHEST_RATE = 10.0  # TrainSpec's bound
FOLDER = ".tune"
FILE = "tuning.json"
RULE = "highest validation accuracy, then lowest validation nll, then lowest rate"
FOLD_RULE = (
    f"lowest mean nll over {FOLDS} folds of train (fewer than {FEW} validation items), then lowest rate"
)


class Trial(Frozen):
    """One learning rate and what it reached on validation, or on one fold of train; scores are `None` where it
    did not end well.
    """

    run_id: str
    learning_rate: float
    fold: int | None = None
    status: Literal["ok", "failed", "interrupted"]
    accuracy: Score | None = None
    nll: Score | None = None
    failure: str | None = None
    total_seconds: float | None = None
    gpu_hours: float | None = None


class Tuning(Frozen):
    """How a run's learning rate was chosen; tuning.json in its folder. Its cost is not in the record's."""

    schema_version: Literal[1] = 1
    rule: str = RULE
    split: Literal["validation", "train"] = "validation"
    folds: int = 0
    seed: int = TUNING_SEED
    centre: float
    chosen: float | None
    trials: tuple[Trial, ...]

    @property
    def rates(self) -> list[float]:
        """The learning rates tried, in their order; with folds each has several trials."""
        return list(dict.fromkeys(trial.learning_rate for trial in self.trials))

    @property
    def total_seconds(self) -> float:
        return sum(trial.total_seconds or 0.0 for trial in self.trials)

    @property
    def gpu_hours(self) -> float | None:
        known = [trial.gpu_hours for trial in self.trials if trial.gpu_hours is not None]
        return sum(known) if known else None


def trial_store(store: Store) -> Store:
    """Where the trials of a results folder are: within it, where `list` and `report` do not look."""
    return Store(store.root / FOLDER)


def rates(centre: float, n: int) -> list[float]:
    """`n` rates around `centre`: the middles of `n` equal parts of two decades of the logarithm.

    One is the centre alone, three are 0.22, 1 and 4.6 times it; an odd number has the centre in it.
    """
    exponents = (((i + 0.5) / n - 0.5) * DECADES for i in range(n))
    found = (min(HIGHEST_RATE, float(f"{centre * 10**exponent:.3g}")) for exponent in exponents)
    return list(dict.fromkeys(found))


def trials_of(spec: RunSpec, n: int, validation_n: int) -> list[RunSpec]:
    """The trials that choose the learning rate of `spec`; none where it does not train. validation_n: how
    many items its validation split has. Raises `UsageError` where a run has the seed of its trials.
    """
    if spec.train.learning_rate is None or n == 1:
        return []
    if spec.seed == TUNING_SEED:
        raise UsageError(
            f"seed {TUNING_SEED} is the one that learning rates are tuned with", "Give the run another seed."
        )
    splits: list[dict[str, object]] = [{"split": "validation"}]
    if min(validation_n, spec.task.limit or validation_n) < FEW:
        splits = [{"split": "train", "fold": fold} for fold in range(FOLDS)]
    return [
        with_rate(spec, rate).model_copy(
            update={"task": spec.task.model_copy(update=split), "seed": TUNING_SEED, "probes": ()}
        )
        for rate in rates(spec.train.learning_rate, n)
        for split in splits
    ]


def with_rate(spec: RunSpec, rate: float) -> RunSpec:
    return spec.model_copy(update={"train": spec.train.model_copy(update={"learning_rate": rate})})


def is_decided(record: RunRecord | None) -> bool:
    """Whether a trial need not be run again: it ended well, or its loss diverged, as it would again."""
    if record is None:
        return False
    return record.status == "ok" or (record.failure is not None and record.failure.kind == "non_finite_loss")


def judge(spec: RunSpec, trials: Iterable[RunSpec], records: Mapping[str, RunRecord]) -> Tuning:
    """The tuning of `spec` from its trials' records; nothing is chosen where no trial ended well."""
    judged = tuple(_trial(records[trial.run_id]) for trial in trials if trial.run_id in records)
    centre, folds = spec.train.required_learning_rate, any(trial.fold is not None for trial in judged)
    if folds:
        means = fold_means(judged)
        chosen = min(means, key=lambda rate: (means[rate], rate), default=None)
        return Tuning(rule=FOLD_RULE, split="train", folds=FOLDS, centre=centre, chosen=chosen, trials=judged)
    scored = [trial for trial in judged if trial.accuracy is not None]
    best = min(scored, key=_rank, default=None)
    return Tuning(centre=centre, chosen=best.learning_rate if best else None, trials=judged)


def _rank(trial: Trial) -> tuple[float, float, float]:
    accuracy = trial.accuracy.value if trial.accuracy else 0.0
    return -accuracy, trial.nll.value if trial.nll else float("inf"), trial.learning_rate


def fold_means(trials: Iterable[Trial]) -> dict[float, float]:
    """The mean nll over the folds of each rate that ended well on all of them."""
    found: dict[float, list[float | None]] = {}
    for trial in trials:
        value = trial.nll.value if trial.nll and trial.status == "ok" else None
        found.setdefault(trial.learning_rate, []).append(value)
    complete = {rate: [v for v in values if v is not None] for rate, values in found.items()}
    return {rate: fmean(values) for rate, values in complete.items() if len(values) == FOLDS}


def _trial(record: RunRecord) -> Trial:
    return Trial(
        run_id=record.run_id,
        learning_rate=record.spec.train.required_learning_rate,
        fold=record.spec.task.fold,
        status=record.status,
        accuracy=record.scores.get("accuracy"),
        nll=record.scores.get("nll"),
        failure=record.failure.kind if record.failure else None,
        total_seconds=record.cost.total_seconds,
        gpu_hours=record.cost.gpu_hours,
    )


def failed_record(spec: RunSpec, tuning: Tuning, root: Path) -> RunRecord:
    """The record of a run for which no trial ended well."""
    kinds = {trial.failure for trial in tuning.trials}
    tried = ", ".join(f"{trial.learning_rate:g} ({trial.failure})" for trial in tuning.trials)
    return RunRecord(
        run_id=spec.run_id,
        status="failed",
        spec=spec,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        cost=Cost(),
        failure=Failure(
            phase="tune",
            kind="non_finite_loss" if kinds == {"non_finite_loss"} else "error",
            message=f"no learning rate could be chosen: {_why_none(tuning)}: {tried}",
            remedy=(
                f"See: python -m harness list runs --results {root / FOLDER}. "
                "Give another centre to tune around: --set train.learning_rate=..."
            ),
        ),
    )


def _why_none(tuning: Tuning) -> str:
    if tuning.folds:
        return f"none of {len(tuning.rates)} rates ended well on all {tuning.folds} folds"
    return f"none of {len(tuning.trials)} trials ended well"


def store_tuning(store: Store, run_id: str, tuning: Tuning) -> None:
    """Write how a run's rate was chosen beside its record. Raises `StoreError`."""
    folder = store.folder(run_id)
    if folder.is_dir():
        write_json_atomic(folder / FILE, tuning)


def store_failure(store: Store, record: RunRecord) -> None:
    """Store the record of a run that could not be tuned, unless a run of that name ended well before."""
    with store.lock(record.run_id):
        if store.state(record.run_id) != "ok":
            write_json_atomic(store.prepare(record.spec) / "record.json", record)


def read_tuning(folder: Path) -> Tuning | None:
    """How the rate of the run in `folder` was chosen; `None` where it was not tuned.

    Raises `StoreError` for a file that cannot be read.
    """
    path = folder / FILE
    with reading(path):
        try:
            text, _ = read_json(path)
        except FileNotFoundError:
            return None
        try:
            return Tuning.model_validate_json(text)
        except ValidationError as error:
            raise StoreError(f"{path} cannot be read: {misfit(error)}", f"Remove {path}.") from error
