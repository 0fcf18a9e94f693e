"""Stands in for `python -m harness exec FOLDER`: fake_child.py MODE FOLDER."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from harness.record import DataInfo, Environment, Failure, ModelInfo, RunRecord, Score
from harness.spec import RunSpec

mode, folder = sys.argv[1], Path(sys.argv[2])
spec = RunSpec.model_validate_json((folder / "spec.json").read_text())


def emit(event: str, **fields: object) -> None:
    with (folder / "events.jsonl").open("a") as stream:
        stream.write(json.dumps({"event": event, **fields}) + "\n")


def write(record: RunRecord) -> None:
    temporary = folder / "record.tmp"
    temporary.write_text(record.as_json())
    temporary.replace(folder / "record.json")


def make(failure: Failure | None = None) -> RunRecord:
    files: dict[str, str] = json.loads(os.environ.get("FAKE_FILES", "{}"))
    status = "ok" if failure is None else "interrupted" if failure.kind == "interrupted" else "failed"
    return RunRecord(
        run_id=spec.run_id,
        status=status,
        spec=spec,
        created="2026-01-01T00:00:00+00:00",
        scores={} if failure else {"accuracy": Score(value=0.5, ci_low=0.25, ci_high=0.75, n=8)},
        data=DataInfo(
            task=spec.task.name,
            title="Stub",
            source="sample",
            revision=None,
            fingerprint="f",
            test_fingerprint="t",
            train_n=1,
            validation_n=1,
            test_n=8,
            test_known_n=8,
            comparable=False,
            files=files,
        ),
        environment=Environment(
            git=None, packages={}, python="3", device_name="cpu", device_count=1, driver=None, fingerprint="e"
        ),
        model=ModelInfo(source="random", revision=None, fingerprint=None, dtype="float32"),
        failure=failure,
    )


print(
    "fake child",
    mode,
    os.environ.get("HARNESS_LOG_SAMPLES"),
    flush=True,
)
emit("phase", name="train")
emit(
    "step",
    step=1,
    of=2,
    loss=1.5,
    tokens_per_second=10.0,
    memory_bytes=2**30,
    memory_kind="host",
    seconds_left=1,
)
if mode == "ok":
    write(make())
elif mode == "failed" or (mode == "fail_seed_1" and spec.seed == 1):
    write(make(Failure(phase="train", kind="non_finite_loss", message="loss is nan at step [7]")))
    sys.exit(1)
elif mode == "fail_seed_1":
    write(make())
elif mode in ("refuse2", "refuse3"):
    emit("refused", message="cannot do it", remedy="do that", exit_code=int(mode[-1]))
    sys.exit(int(mode[-1]))
elif mode == "kill9":
    os.kill(os.getpid(), signal.SIGKILL)
elif mode == "library":
    text = "RuntimeError: Error building extension 'op': \n" + "\n".join(
        f"[{i}/30] c++ -o op.o" for i in range(30)
    )
    write(
        make(
            Failure(
                phase="train", kind="error", message=text, remedy="Do this.", traceback="Traceback\n" + text
            )
        )
    )
    sys.exit(1)
elif mode == "import":
    print(
        "Traceback (most recent call last):\n  File 'x'\nModuleNotFoundError: No module named 'torch'",
        flush=True,
    )
    sys.exit(1)
elif mode == "worker":
    print("[rank1]: Traceback (most recent call last):\n[rank1]: acme.OddError: it broke", flush=True)
    print("torch.distributed.elastic.multiprocessing.errors.ChildFailedError: \n====\nrun FAILED", flush=True)
    print("  exitcode  : 1 (pid: 77)", flush=True)
    sys.exit(1)
elif mode == "worker_killed":
    print("  exitcode  : -9 (pid: 77)", flush=True)
    write(make(Failure(phase="train", kind="interrupted", message="interrupted")))
    sys.exit(1)
elif mode == "exit7":
    print("last words", flush=True)
    sys.exit(7)
elif mode == "torchrun":
    print("  exitcode  : -9 (pid: 77)", flush=True)
    sys.exit(1)
elif mode == "silent":
    sys.exit(0)
elif mode == "late":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    (folder / "ready").touch()
    time.sleep(1)
    write(make())
elif mode in ("hang", "stubborn"):
    # As the real one does: it may have inherited that Ctrl-C is ignored.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if mode == "stubborn":
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        (folder / "ready").touch()
        time.sleep(60)
    except KeyboardInterrupt:
        write(make(Failure(phase="train", kind="interrupted", message="interrupted")))
        sys.exit(130)
