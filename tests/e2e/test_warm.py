"""`run --warm`: runs forked from one process that has imported the libraries, on a tiny model."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from harness.launch.warm import WarmProcess
from harness.record import RunRecord

PLUGIN = """
import os, signal, time
from strategies.lora import Lora


class Waits(Lora):
    name = "waits"
    summary = "takes its time to be adapted"

    def adapt(self, model):
        time.sleep(60)


class EndsItself(Waits):
    name = "ends-itself"

    def adapt(self, model):
        os.kill(os.getpid(), signal.SIGKILL)


class EndsParent(Waits):
    name = "ends-parent"

    def adapt(self, model):
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
"""
SETTINGS = ("max_steps=3", "limit=16", "max_length=400", "learning_rate=1e-3")
Grid = Callable[..., list[str]]


@pytest.fixture
def grid(tmp_path: Path, tiny_model_dir: Path) -> Grid:
    plugin = tmp_path / "ends.py"
    plugin.write_text(PLUGIN)

    def command(strategies: str, results: str, *words: str) -> list[str]:
        return [
            sys.executable, "-m", "harness", "run", "--plugin", str(plugin), "--strategy", strategies,
            "--task", "medqa", "--data", "sample", "--model", str(tiny_model_dir), "--limit", "8",
            *(f"--set=train.{setting}" for setting in SETTINGS), "--set=model.dtype=float32",
            "--results", str(tmp_path / results), *words,
        ]  # fmt: skip

    return command


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def finished(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=900)


def records(folder: Path) -> dict[str, RunRecord]:
    found = (RunRecord.model_validate_json(path.read_text()) for path in folder.glob("*/record.json"))
    return {record.spec.strategy.name: record for record in found}


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "steps.jsonl").read_text().splitlines()]


@pytest.mark.timeout(1200)
def test_warm_runs_come_to_what_cold_ones_do_and_outlive_a_crash(grid: Grid, tmp_path: Path) -> None:
    warm = finished(grid("lora,ends-itself,ends-parent,qlora", "warm", "--warm"))
    assert warm.returncode == 1, warm.stderr
    cold = finished(grid("lora,qlora", "cold"))
    assert cold.returncode == 0, cold.stderr
    found = records(tmp_path / "warm")
    for record in records(tmp_path / "cold").values():
        same = found[record.spec.strategy.name]
        folders = [tmp_path / kind / record.run_id for kind in ("warm", "cold")]
        assert losses(folders[0]) == losses(folders[1])
        predictions = [pq.read_table(folder / "predictions.parquet") for folder in folders]
        assert predictions[0].equals(predictions[1])
        assert record.scores == same.scores
        assert record.environment is not None
        assert same.environment is not None
        assert (same.environment.warm, record.environment.warm) == (True, False)
        imports = [run.phases[0].import_seconds for run in (same, record)]
        assert imports[0] < imports[1]  # type: ignore[operator]
        assert same.cost.host_memory_peak_bytes
        assert "Loading weights" in (folders[0] / "log.txt").read_text()
    for name in ("ends-itself", "ends-parent"):
        failure = found[name].failure
        assert failure is not None
        assert (failure.kind, failure.phase) == ("crash", "adapt")
        assert "SIGKILL" in failure.message


@pytest.mark.timeout(300)
@pytest.mark.parametrize("whom", ["launcher asked", "launcher killed"])
def test_a_stopped_grid_leaves_an_interrupted_run_and_no_process(
    grid: Grid, tmp_path: Path, whom: str
) -> None:
    command = grid("waits,lora", "stopped", "--warm")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment()) as launcher:
        events = wait_for(lambda: next((tmp_path / "stopped").glob("*/events.jsonl"), None))
        wait_for(lambda: '"adapt"' in events.read_text())
        holders = [int(pid) for pid in (events.parent / "lock").read_text().split()[:-1]]
        launcher.send_signal(signal.SIGINT if whom == "launcher asked" else signal.SIGKILL)
        _, told = launcher.communicate(timeout=60)
    record = wait_for(lambda: next((tmp_path / "stopped").glob("*/record.json"), None))
    assert json.loads(record.read_text())["status"] == "interrupted"
    if whom == "launcher asked":
        assert launcher.returncode == 130
        assert "1 more not started" in told
    wait_for(lambda: not any(lives(pid) for pid in holders))
    assert len(list((tmp_path / "stopped").glob("*/spec.json"))) == 1


def wait_for(found: Any, seconds: float = 120) -> Any:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if value := found():
            return value
        time.sleep(0.1)
    raise AssertionError("it did not come")


def lives(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.timeout(300)
def test_a_warm_process_needs_no_socket_that_keeps_messages_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on macOS. Two runs that end at once, for want of a spec: what they say is in their logs."""
    plain = socket.socketpair

    def socketpair(family: int, kind: int) -> tuple[socket.socket, socket.socket]:
        if kind != socket.SOCK_STREAM:
            raise OSError(43, "Protocol not supported")
        return plain(family, kind)

    monkeypatch.setattr(socket, "socketpair", socketpair)
    with WarmProcess({"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}) as warm:
        for name in ("one", "two"):
            folder = tmp_path / name
            folder.mkdir()
            with (folder / "lock").open("w") as lock:
                run = warm.start(folder, folder / "log.txt", lock.fileno())
                assert run.wait() == 1
            assert "spec.json" in (folder / "log.txt").read_text()
