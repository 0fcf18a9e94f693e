"""The benchmarks of training run, on a tiny model: their figures mean nothing, the equality does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def rows_of(script: str, *words: str) -> list[dict[str, Any]]:
    command = [sys.executable, str(BENCHMARKS / script), *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("row", ["lora-cloze", "ia3", "prefix", "full"])
def test_losses_are_those_of_trainer_and_peft(row: str, tiny_model_dir: Path) -> None:
    (found,) = rows_of(
        "training.py", "--rows", row, "--model", str(tiny_model_dir), "--steps", "3", "--repeats", "1",
        "--check-steps", "3",
    )  # fmt: skip
    assert found["loss_apart_float32"] < 1e-3
    assert len(found["ours_losses"]) == len(found["peer_losses"]) == 3
    assert found["ours_losses"][0] != found["ours_losses"][-1]
    assert found["speed_ratio"] == pytest.approx(
        found["ours_tokens_per_second"] / found["peer_tokens_per_second"]
    )
    assert found["ours_peak_bytes"] > 0


@pytest.mark.parametrize("strategy", ["lora", "qlora"])
def test_the_gpu_table_works_on_a_tiny_shape(strategy: str) -> None:
    if strategy == "qlora":
        pytest.importorskip("bitsandbytes")
    (found,) = rows_of(
        "training_gpu.py", "--shape", "tiny", "--strategies", strategy, "--lengths", "32", "--steps", "3",
        "--step-tokens", "64",
    )  # fmt: skip
    assert (found["strategy"], found["length"], found["batch"]) == (strategy, 32, 2)
    assert found["tokens_per_second"] > 0
    assert 0 < found["used"] < 1
