"""Stored runs made up for tests: a valid record and predictions, without any training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from harness.cli import main
from harness.io.files import write_json_atomic
from harness.record import Cost, DataInfo, Environment, Failure, ModelInfo, RunRecord, Score
from harness.spec import Dtype, ModelSpec, PluginSpec, RunSpec, StrategySpec, TaskSpec, TrainSpec
from harness.stats.intervals import wilson

GIB = 2**30
PACKAGES = {"torch": "2.8.0", "peft": "0.18.0"}


def bits(pattern: str) -> list[int]:
    """`11 0*3` is 1 1 0 0 0: outcomes as text."""
    found: list[int] = []
    for word in pattern.split():
        digit, _, times = word.partition("*")
        found += [int(digit)] * int(times) if times else [int(c) for c in word]
    return found


def write_run(
    root: Path,
    strategy: str,
    correct: Sequence[int],
    *,
    seed: int = 0,
    task: str = "medqa",
    model: str = "smollm2-135m",
    dtype: Dtype = "bfloat16",
    scoring: str = "cloze",
    shots: int = 0,
    settings: dict[str, Any] | None = None,
    trains: bool = True,
    train: dict[str, Any] | None = None,
    title: str = "MedQA (built-in sample)",
    items: str = "t" * 64,
    ids: Sequence[str] | None = None,
    subgroups: Sequence[str] | None = None,
    packages: dict[str, str] = PACKAGES,
    device: str = "Test GPU",
    memory: int | None = 10 * GIB,
    speed: float | None = 1000.0,
    fraction: float = 0.01,
    steps: int = 10,
    failed: bool = False,
    plugins: tuple[PluginSpec, ...] = (),
) -> str:
    """Write one run under `root` and return its id. 1: the item was answered right."""
    n = len(correct)
    spec = RunSpec(
        model=ModelSpec(name=model, dtype=dtype),
        strategy=StrategySpec(name=strategy, settings=settings or {}),
        task=TaskSpec(name=task, scoring=scoring, shots=shots),
        train=TrainSpec(**{"learning_rate": 1e-3, **(train or {})}) if trains else TrainSpec(),
        seed=seed,
        plugins=plugins,
    )
    right = sum(correct)
    low, high = wilson(right, n)
    ok = {
        "scores": {"accuracy": Score(value=right / n, ci_low=low, ci_high=high, n=n)},
        "cost": Cost(
            trainable_fraction=fraction, adapter_bytes=2**20, gpu_memory_reserved_peak_bytes=memory,
            host_memory_peak_bytes=2 * GIB, train_seconds=5.0 if trains else None,
            train_steps=steps if trains else None, train_tokens=steps * 100 if trains else None,
            train_tokens_per_second=speed if trains else None, eval_examples_per_second=speed,
        ),
        "data": DataInfo(
            task=task, title=title, source="sample", revision=None, fingerprint="d" * 64,
            test_fingerprint=items, train_n=600, validation_n=100, test_n=n, test_known_n=n, comparable=False,
        ),
        "environment": Environment(
            git=None, packages=packages, python="3.11", device_name=device, device_count=1, driver=None,
            fingerprint=f"{sorted(packages.items())}{device}",
        ),
        "model": ModelInfo(source="package", revision=None, fingerprint="m", dtype=dtype),
    }  # fmt: skip
    failure = Failure(phase="train", kind="out_of_memory", message="too big") if failed else None
    record = RunRecord(
        run_id=spec.run_id, status="failed" if failed else "ok", spec=spec, created="2026-01-01T00:00:00+00:00",
        failure=failure, **({} if failed else ok),
    )  # fmt: skip
    folder = root / spec.run_id
    folder.mkdir(parents=True, exist_ok=True)
    write_json_atomic(folder / "spec.json", spec)
    if not failed:
        write_predictions(folder, correct, ids, subgroups)
    write_json_atomic(folder / "record.json", record)
    return spec.run_id


def write_predictions(
    folder: Path,
    correct: Sequence[int],
    ids: Sequence[str] | None = None,
    subgroups: Sequence[str] | None = None,
) -> None:
    n = len(correct)
    columns = {
        "example_id": pa.array(list(ids or [f"item-{i}" for i in range(n)]), pa.string()),
        "gold": pa.array([0] * n, pa.int32()),
        "predicted": pa.array([1 - c for c in correct], pa.int32()),
        "predicted_norm": pa.array([1 - c for c in correct], pa.int32()),
        "correct": pa.array([bool(c) for c in correct], pa.bool_()),
        "logprobs": pa.array([[-1.0, -2.0]] * n, pa.list_(pa.float64())),
        "subgroup": pa.array(list(subgroups or [""] * n), pa.string()),
    }
    pq.write_table(pa.table(columns), folder / "predictions.parquet")


def command(name, root, capsys):
    """A function that runs a command on the results in `root`: its exit code, stdout and stderr."""

    def call(*words):
        try:
            code = main([name, *words, "--results", str(root)])
        except SystemExit as ended:
            code = ended.code
        out, err = capsys.readouterr()
        return code, out, err

    return call
