"""The benchmarks run, on a tiny model: their figures mean nothing, the equality does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.bench
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def rows_of(script: str, *words: str) -> list[dict[str, Any]]:
    command = [sys.executable, str(BENCHMARKS / script), *words, "--json"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # tiny models gain nothing from more
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_losses_are_those_of_trainer_and_peft(tiny_model_dir: Path) -> None:
    """The other strategies against a plain loop: tests/unit/runtime/test_training.py."""
    (found,) = rows_of(
        "training.py", "--rows", "lora-cloze", "--model", str(tiny_model_dir), "--steps", "3", "--repeats", "1",
        "--check-steps", "3",
    )  # fmt: skip
    assert found["loss_apart_float32"] < 1e-3
    assert len(found["ours_losses"]) == len(found["peer_losses"]) == 3
    assert found["ours_losses"][0] != found["ours_losses"][-1]
    assert found["speed_ratio"] == pytest.approx(
        found["ours_tokens_per_second"] / found["peer_tokens_per_second"]
    )
    assert found["ours_peak_bytes"] > 0


def test_the_gpu_table_works_on_a_tiny_shape() -> None:
    pytest.importorskip("bitsandbytes")
    kinds = ("equal", "packed")
    found = rows_of(
        "training_gpu.py", "--shape", "tiny", "--strategies", "qlora", "--lengths", "32", "--steps", "3",
        "--step-tokens", "64", "--rows", ",".join(kinds),
    )  # fmt: skip
    assert [row["rows"] for row in found] == list(kinds)
    for row in found:
        assert (row["strategy"], row["length"]) == ("qlora", 32)
        assert row["batch"] == (2 if row["rows"] == "equal" else 3)
        assert row["tokens_per_second"] > 0
        assert row["used"] > 0


def test_the_gpu_table_of_scoring_works_on_a_tiny_shape(tiny_model_dir: Path) -> None:
    found = rows_of(
        "scoring_gpu.py", "--shape", "tiny", "--lengths", "32", "--questions", "4",
        "--tokenizer", str(tiny_model_dir),
    )  # fmt: skip
    assert [row["scoring"] for row in found] == ["letter", "cloze"]
    for row in found:
        assert row["furthest_log_likelihood"] < 1  # bfloat16 with random weights
        assert row["questions_per_second"] > 0
        assert row["used"] > 0


def test_scoring_has_the_choices_of_hflm(tiny_model_dir: Path) -> None:
    found = rows_of(
        "scoring.py", "--model", str(tiny_model_dir), "--items", "5", "--dtype", "float32", "--peer-batch", "2",
        "--rows", "medqa-letter,medqa-cloze",  # five examples do not fit, and are left out otherwise by the peer
    )  # fmt: skip
    assert [row["items"] for row in found] == [5, 5]
    for row in found:
        assert row["same_choice"] == 1
        assert row["furthest_log_likelihood"] < 1e-3
        assert row["ratio"] == pytest.approx(row["ours_items_per_second"] / row["peer_items_per_second"])
