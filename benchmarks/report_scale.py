"""How long `report` takes over many stored runs, and how much memory.

    python benchmarks/report_scale.py                    1,000 runs of 2,000 items, all formats
    python benchmarks/report_scale.py --runs 10000 --no-verdicts --formats text

Makes synthetic runs in a temporary folder (or --keep DIR), then runs the command as a user does and
reads the peak memory of its process from the kernel.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from harness.record import Cost, DataInfo, Environment, ModelInfo, RunRecord, Score
from harness.spec import ModelSpec, RunSpec, StrategySpec, TaskSpec, TrainSpec
from harness.stats.intervals import wilson
from harness.store.runs import Store

STRATEGIES = {
    "zero-shot": (0.40, 0.0), "full": (0.55, 1.0), "lora": (0.54, 0.01), "qlora": (0.53, 0.01), "ia3": (0.46, 1e-4),
}  # fmt: skip
TASKS = ("medqa", "pubmedqa")
SUBGROUPS = ("step1", "step2&3")


def record_of(spec: RunSpec, correct: object, accuracy: float, items: int) -> RunRecord:
    """A record as a run leaves it, its costs by its strategy."""
    _, share = STRATEGIES[spec.strategy.name]
    low, high = wilson(round(accuracy * items), items)
    trains = spec.train.learning_rate is not None
    return RunRecord(
        run_id=spec.run_id,
        status="ok",
        spec=spec,
        created="2026-01-01T00:00:00+00:00",
        scores={
            "accuracy": Score(value=accuracy, ci_low=low, ci_high=high, n=items),
            "macro_f1": Score(value=accuracy * 0.98, n=items),
            "ece": Score(value=0.05, n=items),
            "chance_accuracy": Score(value=0.25, n=items),
            "majority_accuracy": Score(value=0.28, n=items),
        },
        cost=Cost(
            trainable_parameters=int(share * 1e8), total_parameters=10**8, trainable_fraction=share,
            adapter_bytes=int(share * 5e8) if trains else None,
            gpu_memory_reserved_peak_bytes=int((4 + 20 * share) * 2**30), host_memory_peak_bytes=3 * 2**30,
            train_seconds=(600 + 900 * share) * (1 + spec.seed / 50) if trains else None, total_seconds=1500.0,
            train_tokens_per_second=9000.0 if trains else None, gpu_hours=0.4,
        ),
        data=DataInfo(
            task=spec.task.name, title=spec.task.name, source="hub", revision="r", fingerprint="f" * 64,
            test_fingerprint="e" * 64, train_n=10_178, validation_n=1_272, test_n=items, test_known_n=items, comparable=True,
        ),
        environment=Environment(
            git="0" * 40, packages={"torch": "2.13.0", "peft": "0.21.2"}, python="3.11", device_name="NVIDIA H200",
            device_count=1, driver="580", fingerprint="e",
        ),
        model=ModelInfo(source="hub", revision="r", fingerprint="a" * 64, dtype="bfloat16"),
    )  # fmt: skip


def write_runs(root: Path, runs: int, items: int, seeds: int) -> None:
    """`runs` run folders: strategies x tasks x seeds, over as many models as it takes."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    generator = np.random.default_rng(0)
    ids = pa.array([f"item-{i:06d}" for i in range(items)])
    subgroups = pa.array([SUBGROUPS[i % 2] for i in range(items)])
    store = Store(root)
    ease = generator.normal(0, 1, items)
    made = 0
    while True:
        model = f"org/model-{made // (len(STRATEGIES) * len(TASKS) * seeds)}"
        for task in TASKS:
            for name, (level, _) in STRATEGIES.items():
                skill = ease + generator.normal(0, 0.5, items)
                for seed in range(seeds):
                    if made == runs:
                        return
                    made += 1
                    spec = RunSpec(
                        model=ModelSpec(name=model),
                        strategy=StrategySpec(name=name),
                        task=TaskSpec(name=task, source="hub"),
                        train=TrainSpec(learning_rate=None if name == "zero-shot" else 1e-4),
                        seed=seed,
                    )
                    answers = skill + generator.normal(0, 0.7, items) * (name != "zero-shot")
                    correct = answers > np.quantile(skill, 1 - level)
                    gold = generator.integers(0, 4, items)
                    scores = generator.normal(0, 1, (items, 4))
                    scores[np.arange(items), gold] += np.where(correct, 4, -4)
                    folder = store.prepare(spec)
                    table = {
                        "example_id": ids, "gold": pa.array(gold, pa.int32()),
                        "predicted": pa.array(scores.argmax(1), pa.int32()), "correct": pa.array(correct),
                        "logprobs": pa.FixedSizeListArray.from_arrays(scores.ravel(), 4).cast(pa.list_(pa.float64())),
                        "subgroup": subgroups,
                    }  # fmt: skip
                    pq.write_table(pa.table(table), folder / "predictions.parquet")
                    steps = [
                        {
                            "step": s,
                            "loss": 2 / (1 + s / 40),
                            "learning_rate": 1e-4,
                            "tokens": 900,
                            "seconds": 0.1,
                        }
                        for s in range(1, 301)
                    ]
                    if name != "zero-shot":
                        (folder / "steps.jsonl").write_text("\n".join(map(json.dumps, steps)) + "\n")
                    own = record_of(spec, correct, float(correct.mean()), items)
                    (folder / "record.json").write_text(own.as_json())


class Taken(NamedTuple):
    """wall, cpu in seconds (they differ where the machine is shared); memory in MiB; size in bytes."""

    wall: float
    cpu: float
    memory: float
    size: int


def measure(root: Path, out: Path, chosen: str, extra: list[str]) -> Taken:
    """One report in a process of its own."""
    command = [sys.executable, "-m", "harness", "report", "--results", str(root), "--format", chosen]
    start = time.perf_counter()
    process = subprocess.Popen([*command, "--out", str(out), *extra], stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{chosen}: exit code {process.returncode}")
    return Taken(
        time.perf_counter() - start,
        usage.ru_utime + usage.ru_stime,
        usage.ru_maxrss / 1024,
        out.stat().st_size,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--items", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--formats", default="text,json,csv,markdown,latex,html")
    parser.add_argument("--no-verdicts", action="store_true")
    parser.add_argument("--keep", type=Path, help="make the runs here, or use those that are here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = args.keep or Path(temporary) / "runs"
        if not root.is_dir():
            write_runs(root, args.runs, args.items, args.seeds)
        print(f"{args.runs} runs of {args.items} items, {args.seeds} seeds a group")
        for chosen in args.formats.split(","):
            extra = ["--no-verdicts"] if args.no_verdicts else []
            took = measure(root, Path(temporary) / f"report.{chosen}", chosen, extra)
            print(
                f"{chosen:9} {took.wall:6.2f} s ({took.cpu:.2f} s of CPU)  {took.memory:5.0f} MiB  "
                f"{took.size / 2**20:6.2f} MiB written",
                flush=True,
            )


if __name__ == "__main__":
    main()
