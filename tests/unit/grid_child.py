"""Stands in for a run's process in tests of grids: grid_child.py FOLDER, told what to do by GRID_CHILD (JSON).

Its accuracy falls with the distance of the learning rate from `best_rate`; above `diverge_above` its
loss diverges. It writes what it saw of its environment, and when it ran, to seen.json.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
from pathlib import Path

from harness.record import Cost, DataInfo, Environment, Failure, ModelInfo, RunRecord, Score
from harness.spec import RunSpec

folder = Path(sys.argv[1])
orders = json.loads(os.environ.get("GRID_CHILD", "{}"))
spec = RunSpec.model_validate_json((folder / "spec.json").read_text())
started = time.time()
validation = spec.task.split == "validation"
rate = spec.train.learning_rate


def emit(event: str, **fields: object) -> None:
    with (folder / "events.jsonl").open("a") as stream:
        stream.write(json.dumps({"event": event, **fields}) + "\n")


def write(failure: Failure | None = None) -> None:
    distance = abs(math.log10(rate / orders.get("best_rate", 1e-3))) if rate else 1.0
    value = orders.get("accuracy", round(max(0.1, 0.9 - 0.2 * distance), 6))
    noise = (
        0.0 if spec.task.fold is None else (0.3, -0.2, 0.1, -0.1, -0.1)[spec.task.fold] * (rate or 0) * 100
    )
    scores = {"accuracy": Score(value=value, n=8), "nll": Score(value=1 + distance + noise, n=8)}
    status = "ok" if failure is None else "interrupted" if failure.kind == "interrupted" else "failed"
    record = RunRecord(
        run_id=spec.run_id, status=status, spec=spec, created="2026-01-01T00:00:00+00:00",
        scores={} if failure else scores,
        cost=Cost(train_seconds=20.0, train_steps=10, eval_seconds=4.0, total_seconds=30.0),
        data=DataInfo(
            task=spec.task.name, title="Stub (validation split)" if validation else "Stub", source="sample",
            revision=None, fingerprint="f", test_fingerprint="validation" if validation else "test",
            train_n=160, validation_n=4, test_n=4 if validation else 8, test_known_n=8, comparable=False,
            files=orders.get("files", {}),
        ),
        environment=Environment(
            git=None, packages={}, python="3", device_name=orders.get("device", "cpu"), device_count=1,
            driver=None, fingerprint="e", cores=len(os.sched_getaffinity(0)),
            parallel_runs=int(os.environ.get("HARNESS_PARALLEL_RUNS", "1")),
        ),
        model=ModelInfo(source="random", revision=None, fingerprint=None, dtype="float32"),
        failure=failure,
    )  # fmt: skip
    temporary = folder / "record.tmp"
    temporary.write_text(record.as_json())
    temporary.replace(folder / "record.json")


signal.signal(signal.SIGTERM, signal.default_int_handler)
emit("phase", name="train")
emit("step", step=1, of=2, loss=1.5, seconds_left=3)
try:
    (folder / "ready").touch()
    time.sleep(orders.get("sleep", 0))
except KeyboardInterrupt:
    write(Failure(phase="train", kind="interrupted", message="interrupted"))
    sys.exit(130)
keys = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "HARNESS_PARALLEL_RUNS")
seen = {"start": started, "end": time.time(), **{key: os.environ.get(key) for key in keys}}
(folder / "seen.json").write_text(json.dumps(seen))
if orders.get("crash_seed") == spec.seed and not validation:
    sys.exit(7)
if rate is not None and rate > orders.get("diverge_above", math.inf):
    write(Failure(phase="train", kind="non_finite_loss", message="the loss became nan at step 3"))
    sys.exit(1)
(folder / "adapter").mkdir(exist_ok=True)
write()
