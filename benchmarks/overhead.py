"""Harness overhead: the wall time of a whole `run` command less loading, training steps and
evaluation forwards, as a share of the whole. Goal: at most 10% of a 3-minute run.

Runs lora on the sample with the bundled model, in a results folder of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STEPS = 90


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "harness", "run", "--strategy", "lora", "--task", "medqa", "--data", "sample",
            "--set", f"train.max_steps={STEPS}", "--results", folder, "--json", "--force",
        ]  # fmt: skip
        started = time.perf_counter()
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        wall = time.perf_counter() - started
        record = json.loads(done.stdout)
        events = (Path(folder) / record["run_id"] / "events.jsonl").read_text().splitlines()
    final = [json.loads(line) for line in events if '"forward_seconds"' in line][-1]
    load = next(phase["seconds"] for phase in record["phases"] if phase["name"] == "load")
    parts = {
        "load (imports, data, model)": load,
        "training steps": record["cost"]["train_seconds"],
        "evaluation forwards": final["forward_seconds"],
    }
    overhead = wall - sum(parts.values())
    for name, seconds in parts.items():
        print(f"{name:30} {seconds:7.1f} s")
    print(f"{'everything else (overhead)':30} {overhead:7.1f} s")
    print(f"{'the whole command':30} {wall:7.1f} s   overhead {overhead / wall:.1%}")


if __name__ == "__main__":
    main()
