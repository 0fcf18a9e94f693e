"""Stored runs made up for the tests of the report: written as a run writes them, with known outcomes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.record import Cost, DataInfo, Environment, Failure, ModelInfo, RunRecord, Score
from harness.spec import ModelSpec, RunSpec, StrategySpec, TaskSpec, TrainSpec
from harness.stats.intervals import wilson
from harness.store.runs import Store

GIB = 2**30
TITLES = {"medqa": "MedQA", "pubmedqa": "PubMedQA", "medmcqa": "MedMCQA"}
GPU, CPU = "NVIDIA H200", "Intel Xeon (CPU)"
OUT_OF_MEMORY = Failure(
    phase="train", kind="out_of_memory", message="asked for 12 GiB, 3 GiB free", remedy="Try a smaller batch."
)
SHARES = {"full": 1.0, "lora": 0.012, "qlora": 0.012, "ia3": 0.0001}
LEVELS = {"zero-shot": 0.35, "few-shot": 0.39, "full": 0.55, "lora": 0.53, "qlora": 0.52, "ia3": 0.42}


def spec_of(
    strategy: str, task: str = "medqa", *, seed: int = 0, source: str = "hub", **parts: Any
) -> RunSpec:
    """A spec; `rate` None is a strategy that does not train."""
    trains = strategy not in ("zero-shot", "few-shot")
    rate = parts.get("rate", 1e-4 if trains else None)
    return RunSpec(
        model=ModelSpec(name=parts.get("model", "smollm2-135m")),
        strategy=StrategySpec(name=strategy, settings=parts.get("settings", {})),
        task=TaskSpec(
            name=task, source=source, scoring=parts.get("scoring", "cloze"), limit=parts.get("limit"),
            shots=parts.get("shots", 5 if strategy == "few-shot" else 0), split=parts.get("split", "test"),
        ),
        train=TrainSpec(learning_rate=rate),
        seed=seed,
    )  # fmt: skip


def outcomes(strategy: str, task: str, seed: int, n: int, level: float | None = None) -> np.ndarray:
    """(n,) of bool: items of differing difficulty, the same for all strategies of a task."""
    ease = np.random.default_rng(sum(map(ord, task))).normal(0, 1, n)
    own = np.random.default_rng(sum(map(ord, strategy + task))).normal(0, 0.35, n)
    noise = np.random.default_rng([seed, len(strategy)]).normal(0, 0.4, n) * (strategy != "zero-shot")
    level = LEVELS.get(strategy, 0.5) if level is None else level
    return ease + own + noise > np.quantile(ease, 1 - level)


def write_run(root: Path, spec: RunSpec, **parts: Any) -> RunRecord:
    """One run folder: spec.json, record.json and, where it ended well, predictions and steps."""
    n, strategy = parts.get("n", 400), spec.strategy.name
    correct = parts.get("correct")
    if correct is None:
        correct = outcomes(strategy, spec.task.name, spec.seed, n)
    failure = parts.get("failure")
    record = record_of(spec, np.asarray(correct), failure, parts)
    folder = Store(root).prepare(spec)
    (folder / "record.json").write_text(record.as_json(), encoding="utf-8")
    if failure is None:
        write_predictions(folder, np.asarray(correct), parts.get("ids"), parts.get("clusters"))
        if spec.train.learning_rate is not None:
            steps = [
                {
                    "step": s,
                    "loss": 0.4 + 2 / (1 + s / 12) + 0.1 * np.sin(s + spec.seed),
                    "learning_rate": 1e-4,
                }
                for s in range(1, 121)
            ]
            steps.append({"step": 120, "validation_loss": 0.9})
            (folder / "steps.jsonl").write_text("\n".join(map(json.dumps, steps)) + "\n", encoding="utf-8")
    return record


def record_of(
    spec: RunSpec, correct: np.ndarray, failure: Failure | None, parts: dict[str, Any]
) -> RunRecord:
    n, hits = len(correct), int(correct.sum())
    low, high = wilson(hits, n)
    device = parts.get("device", GPU)
    trains = spec.train.learning_rate is not None
    share = SHARES.get(spec.strategy.name, 0.01) if trains else 0.0
    source = "sample" if spec.task.source == "sample" else "hub" if spec.task.source == "hub" else "dir"
    title = TITLES.get(spec.task.name, spec.task.name) + (" (built-in sample)" if source == "sample" else "")
    cost = Cost(
        trainable_parameters=int(share * 1e8), total_parameters=10**8, trainable_fraction=share,
        adapter_bytes=int(share * 270 * 2**20) if trains else None,
        gpu_memory_reserved_peak_bytes=int((4 + 20 * share) * GIB) if device == GPU else None,
        host_memory_peak_bytes=3 * GIB, train_seconds=60 + 600 * share + spec.seed if trains else None,
        total_seconds=100 + 600 * share, train_tokens_per_second=9000 * (1 - share / 2) if trains else None,
        train_steps=120 if trains else None, train_tokens=108_000 if trains else None,
        gpu_hours=0.05 + share / 5 if device == GPU else None,
    )  # fmt: skip
    common = {"run_id": spec.run_id, "spec": spec, "created": "2026-01-01T00:00:00+00:00"}
    if failure is not None:
        return RunRecord(
            **common, status="interrupted" if failure.kind == "interrupted" else "failed", failure=failure
        )
    return RunRecord(
        **common,
        status="ok",
        scores={
            "accuracy": Score(value=hits / n, ci_low=low, ci_high=high, n=n),
            "macro_f1": Score(value=hits / n * 0.95, n=n),
            "ece": Score(value=0.061, n=n),
            "chance_accuracy": Score(value=0.25, n=n),
            "majority_accuracy": Score(value=0.283, n=n),
        },
        cost=cost,
        data=DataInfo(
            task=spec.task.name, title=parts.get("title", title), source=source, revision="main", fingerprint="a" * 64,
            test_fingerprint=parts.get("items", f"{spec.task.name}{source}"), train_n=1000, validation_n=100,
            test_n=n, test_known_n=n, comparable=source == "hub", note=parts.get("note", ""),
        ),
        environment=Environment(
            git="0" * 40, packages=parts.get("packages", {"torch": "2.13.0", "peft": "0.21.2"}), python="3.11.2",
            device_name=device, device_count=1, driver="580", fingerprint="e",
        ),
        model=ModelInfo(source="hub", revision="main", fingerprint="b" * 64, dtype="bfloat16"),
    )  # fmt: skip


def write_predictions(
    folder: Path, correct: np.ndarray, ids: Sequence[str] | None = None, clusters: Sequence[str] | None = None
) -> None:
    n = len(correct)
    generator = np.random.default_rng(0)
    gold = generator.integers(0, 4, n)
    scores = generator.normal(0, 0.6, (n, 4))
    scores[np.arange(n), gold] = scores.max(1) * np.where(correct, 1, 0) + np.where(correct, 0.8, -3)
    table = {
        "example_id": pa.array(ids or [f"item-{i:05d}" for i in range(n)]),
        "gold": pa.array(gold, pa.int32()),
        "predicted": pa.array(scores.argmax(1), pa.int32()),
        "correct": pa.array(correct, pa.bool_()),
        "logprobs": pa.array(scores.tolist(), pa.list_(pa.float64())),
        "subgroup": pa.array([("step1", "step2&3", "ethics <b>")[i % 3] for i in range(n)]),
    }
    if clusters is not None:
        table["cluster"] = pa.array(clusters)
    pq.write_table(pa.table(table), folder / "predictions.parquet")


def write_study(root: Path, *, source: str = "hub", seeds: Sequence[int] = (0, 1, 2), n: int = 400) -> None:
    """Six strategies on two tasks over seeds; IA3 ran out of memory on PubMedQA."""
    for task in ("medqa", "pubmedqa"):
        for strategy in LEVELS:
            for seed in seeds if strategy != "zero-shot" else seeds[:1]:
                failure = OUT_OF_MEMORY if (strategy, task) == ("ia3", "pubmedqa") else None
                write_run(root, spec_of(strategy, task, seed=seed, source=source), failure=failure, n=n)
