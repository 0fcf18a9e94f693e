"""`kill -9` of the launcher, while its runs import the libraries and later: no process of theirs is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes through /proc"),
    pytest.mark.timeout(600),
]

MARK = "MEDTUNE_TEST_MARK"
PLUGIN = """
import time
from strategies.lora import Lora


class Waits(Lora):
    name = "waits"
    summary = "never comes to an end"

    def adapt(self, model):
        time.sleep(3600)
"""
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def mark() -> Iterator[str]:
    """In the environment of all that a test starts."""
    found = uuid.uuid4().hex
    yield found
    for pid in marked(found):
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def start(tmp_path: Path, tiny_model_dir: Path, mark: str) -> Start:
    plugin = tmp_path / "waits.py"
    plugin.write_text(PLUGIN)

    def go(*words: str) -> subprocess.Popen[bytes]:
        command = [
            sys.executable, "-m", "harness", "run", "--plugin", str(plugin), "--strategy", "waits",
            "--task", "medqa", "--data", "sample", "--model", str(tiny_model_dir), "--limit", "4",
            "--set=model.dtype=float32", "--results", str(tmp_path / "runs"), *words,
        ]  # fmt: skip
        environment = {**os.environ, MARK: mark, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)

    return go


def marked(mark: str) -> list[int]:
    """The processes with this mark in their environment."""
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"{MARK}={mark}".encode() in environment.read_bytes().split(b"\0"):
                found.append(int(environment.parent.name))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def wait_for(found: Callable[[], Any], seconds: float = 240) -> Any:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if value := found():
            return value
        time.sleep(0.1)
    pytest.fail("it did not come")


WAYS: dict[str, tuple[tuple[str, ...], int]] = {
    "one": ((), 2),
    "two processes": (("--processes", "2"), 4),
    "warm": (("--warm",), 2),
    "side by side": (("--parallel", "2", "--seed", "0,1"), 3),
}
"""Options, and how many processes there are at least: the launcher, torchrun's agent, its workers."""
TESTED = [
    ("importing", "one"),
    ("importing", "two processes"),
    ("later", "two processes"),
    ("later", "side by side"),
]


@pytest.mark.parametrize(("when", "way"), TESTED)
def test_a_killed_launcher_leaves_no_process(
    when: str, way: str, start: Start, mark: str, tmp_path: Path
) -> None:
    words, processes = WAYS[way]
    launcher = start(*words)
    runs = 2 if way == "side by side" else 1
    if when == "importing":
        wait_for(lambda: len(marked(mark)) >= processes)
        assert not list(tmp_path.glob("runs/*/events.jsonl")), "it was to import still"
    else:
        wait_for(
            lambda: (
                sum('"adapt"' in path.read_text() for path in tmp_path.glob("runs/*/events.jsonl")) == runs
            )
        )
        assert len(marked(mark)) >= processes
    launcher.kill()
    launcher.wait()
    wait_for(lambda: not marked(mark))
