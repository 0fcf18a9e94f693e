"""The most telling cells of benchmarks/kill_table.py: stopped, and ended by the same command to the bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kill_table.py"


@pytest.mark.timeout(600)
def test_a_run_stopped_anywhere_ends_as_if_it_had_not_been(tiny_model_dir: Path) -> None:
    phases = ("checkpoint half written", "after the record")
    command = [
        sys.executable, str(SCRIPT), "--model", str(tiny_model_dir), "--phases", ",".join(phases),
        "--signals", "SIGKILL", "--targets", "launcher,child", "--schedules", "constant", "--json",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(*cell["cell"][:3], cell["wrong"]) for cell in found] == [
        (phase, "SIGKILL", target, []) for phase in phases for target in ("launcher", "child")
    ], done.stderr[-2000:]
    assert done.returncode == 0
