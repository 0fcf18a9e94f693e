"""The main job as a user types it: `python -m harness run`, with real training of a tiny model."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from harness.record import RunRecord
from harness.runtime.training.batches import shuffled

STRATEGY_PLUGIN = '''
"""Tune the norms only."""
from typing import ClassVar
from pydantic import Field
from harness.contracts import Strategy

class NormOnly(Strategy):
    """Only the norms' scales are trained."""
    name = "norm-only"
    summary = "trains the norms"
    source = "a test"
    default_learning_rate: ClassVar[float | None] = 1e-3
    learning_rate_source = "a test"
    part: str = Field("norm", description="weights whose name holds this are trained")

    def adapt(self, model):
        for name, weight in model.named_parameters():
            weight.requires_grad_(self.part in name)
            if weight.requires_grad:
                weight.data = weight.data.float()
        return model
'''

TASK_PLUGIN = '''
"""Is a number even?"""
from harness.contracts import Example, Metric, Splits, Task

class Parity(Task):
    name = "parity"
    title = "Parity"
    summary = "is a number even"
    source = "a test"
    metrics = (Metric("accuracy", chance=0.5),)
    class_names = ("yes", "no")

    def load(self, source):
        def rows(start, stop):
            return tuple(Example(f"n{i}", f"Is {i} even?", ("yes", "no"), i % 2) for i in range(start, stop))
        return Splits(rows(0, 40), rows(40, 50), rows(50, 70), "Parity (built-in sample)", "sample", None, False)

    def prompt(self, example, scoring):
        return f"Question: {example.question}\\nAnswer:"

    def choices(self, example, scoring):
        return example.options
'''


class Cli:
    """Runs the command line in a folder of its own."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.results = folder / "runs"
        self.base = [
            "--model",
            str(model),
            "--data",
            "sample",
            "--limit",
            "8",
            "--results",
            str(self.results),
        ]
        self.few = ["--set", "train.max_steps=3", "--set", "train.limit=32", "--set", "model.dtype=float32"]
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "harness", *words]

    def __call__(self, *words: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(*words), capture_output=True, text=True, env=self.environment, timeout=300
        )
        assert done.returncode == expect, done.stdout + done.stderr
        return done

    def run(self, *words: str, expect: int = 0) -> Any:
        done = self("run", *self.base, *self.few, "--json", *words, expect=expect)
        return json.loads(done.stdout) if done.stdout else None


@pytest.fixture
def cli(tmp_path: Path, tiny_model_dir: Path) -> Cli:
    return Cli(tmp_path, tiny_model_dir)


def test_a_run_is_stored_shown_and_not_run_again(cli: Cli) -> None:
    record = cli.run("--strategy", "lora", "--task", "medqa")
    RunRecord.model_validate(record)
    folder = cli.results / record["run_id"]
    present = {path.name for path in folder.iterdir()}
    assert {"spec.json", "record.json", "predictions.parquet", "steps.jsonl", "adapter", "log.txt"} <= present
    assert "checkpoints" not in present
    assert record["data"]["title"] == "MedQA (built-in sample)"
    assert (
        record["cost"]["gpu_memory_allocated_peak_bytes"] is None or record["cost"]["gpu_hours"] is not None
    )

    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    again = cli.run("--strategy", "lora", "--task", "medqa")
    assert again == record
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    shown = cli("show", record["run_id"], "--results", str(cli.results)).stdout
    assert "python -m harness run" in shown
    assert record["run_id"] in cli("list", "runs", "--json", "--results", str(cli.results)).stdout


def test_a_result_is_not_used_again_after_its_inputs_changed(
    cli: Cli, tmp_path: Path, tiny_model_dir: Path
) -> None:
    model = Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))
    data = tmp_path / "data"
    data.mkdir()
    rows = [
        {"question": f"Item {n}?", "options": dict.fromkeys("ABCD", f"{n}") | {"B": "b"}, "answer_idx": "B"}
        for n in range(20)
    ]
    for name in ("train", "test"):
        (data / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("--strategy", "zero-shot", "--task", "medqa", "--data", str(data), "--model", str(model))
    record = cli.run(*words)
    assert set(record["model"]["files"]) >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert cli.run(*words) == record

    shutil.copy(data / "test.jsonl", data / "dev.jsonl")
    done = cli("run", *cli.base, *cli.few, *words, expect=2)
    assert f"its data has changed since: dev.jsonl is new in {data}" in done.stderr
    assert "--force" in done.stderr
    (data / "dev.jsonl").unlink()
    weights, stat = model / "model.safetensors", (model / "model.safetensors").stat()
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    done = cli("run", *cli.base, *cli.few, *words, expect=2)
    assert f"its model has changed since: model.safetensors is changed in {model}" in done.stderr
    assert cli.run(*words, "--force")["model"]["fingerprint"] != record["model"]["fingerprint"]


def test_force_gives_the_same_numbers_again(cli: Cli) -> None:
    asked = ("--strategy", "lora", "--task", "pubmedqa")
    first, other = cli.run(*asked, "--seed", "0,1", "--warm")
    second = cli.run(*asked, "--force")
    assert second["scores"] == first["scores"]
    assert second["created"] >= first["created"]
    assert other["scores"]["nll"] != first["scores"]["nll"]


def test_no_clinical_text_is_stored_unless_asked(cli: Cli) -> None:
    import pyarrow.parquet as pq

    record = cli.run("--strategy", "zero-shot", "--task", "medqa")
    folder = cli.results / record["run_id"]
    names = pq.read_schema(folder / "predictions.parquet").names
    assert names == [
        "example_id",
        "gold",
        "predicted",
        "predicted_norm",
        "correct",
        "logprobs",
        "subgroup",
        "cluster",
    ]
    question = b"Which"
    for path in folder.rglob("*"):
        if path.is_file():
            assert question not in path.read_bytes(), path
    cli.run("--strategy", "zero-shot", "--task", "medqa", "--force", "--log-samples")
    assert "prompt" in pq.read_schema(folder / "predictions.parquet").names


def test_plugins_run_and_are_listed(cli: Cli, tmp_path: Path) -> None:
    strategy, task = tmp_path / "norm_only.py", tmp_path / "parity.py"
    strategy.write_text(STRATEGY_PLUGIN)
    task.write_text(TASK_PLUGIN)
    plugins = ["--plugin", str(strategy), "--plugin", str(task)]
    record = cli.run("--strategy", "norm-only", "--task", "parity", "--scoring", "cloze", *plugins)
    assert record["scores"]["chance_accuracy"]["value"] == 0.5
    assert 0 < record["cost"]["trainable_fraction"] < 0.1
    listed = cli("list", *plugins).stdout
    assert "norm-only" in listed
    assert "parity" in listed


def test_what_does_not_fit_or_is_there_twice_is_recorded_and_said(cli: Cli, tmp_path: Path) -> None:
    """Every fourth question is long, and one item has the right answer twice."""
    task = tmp_path / "parity.py"
    question = 'f"Is {i} even?" + " Think of it again." * (60 if i % 4 == 3 else 0)'
    options = '("yes", "no") if i != 52 else ("yes", "yes")'
    text = TASK_PLUGIN.replace('f"Is {i} even?"', question).replace(
        '("yes", "no"), i % 2)', f"{options}, i % 2)"
    )
    task.write_text(text)
    words = ["--task", "parity", "--scoring", "cloze", "--plugin", str(task), "--set", "model.max_length=300"]
    few_shot = cli.run("--strategy", "few-shot", "--shots", "12", *words)
    found = few_shot["inputs"]
    assert found["truncated_items"] > 0
    assert found["truncated_item_tokens"] > 0
    assert 0 <= found["shots_min"] <= found["shots_mean"] < 12
    assert (found["repeated_gold_items"], found["truncated_rows"]) == (1, 0)
    trained = cli.run("--strategy", "lora", *words, "--set", "train.max_length=64")["inputs"]
    long = sum(i % 4 == 3 for i in shuffled(40, 0, 0)[:32])  # train.limit
    assert trained["truncated_rows"] == long > 3
    assert trained["truncated_row_tokens"] > 60 * long
    events = (cli.results / few_shot["run_id"] / "events.jsonl").read_text()
    report = cli("report", "--results", str(cli.results)).stdout
    shown = cli("show", few_shot["run_id"], "--results", str(cli.results), "--plugin", str(task)).stdout
    for said in (events, report, shown):
        assert "prompts do not fit the context and lost" in " ".join(said.split())


def _alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_kill_during_training_leaves_no_half_record_and_goes_on(cli: Cli) -> None:
    long = ["--set", "train.max_steps=60", "--set", "train.checkpoint_steps=5", "--set", "train.limit=64"]
    words = ["run", *cli.base, "--set", "model.dtype=float32", *long, "--strategy", "lora", "--task", "medqa"]
    process = subprocess.Popen(
        cli.command(*words), env=cli.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not list(cli.results.glob("*/checkpoints/checkpoint-*/complete")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    # Both processes at once, as a power cut would: the launcher is held so that it writes nothing.
    os.kill(process.pid, signal.SIGSTOP)
    tasks = Path(f"/proc/{process.pid}/task").glob("*/children")  # a thread of the launcher starts the run
    children = [child for task in tasks for child in task.read_text().split()]
    assert children
    for child in children:
        os.kill(int(child), signal.SIGKILL)
    process.kill()
    process.wait()
    while any(map(_alive, children)):  # a killed process holds its lock until its memory is given back
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert not list(cli.results.glob("*/record.json"))

    done = cli(*words, "--json")
    assert "unfinished" in done.stderr
    record = json.loads(done.stdout)
    assert record["status"] == "ok"
    assert record["resumed"] == 1
    assert record["cost"]["train_steps"] == 60
    # both count the first try, so the part cannot exceed the whole
    assert record["cost"]["total_seconds"] > record["cost"]["train_seconds"]
    steps = (cli.results / record["run_id"] / "steps.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in steps] == list(range(1, 61))


BREAKS_AT_STEP_TWO = """
    def after_step(self, model, step):
        import torch
        if step == 2:
            with torch.no_grad():
                for weight in model.parameters():
                    weight.fill_(float("nan"))
"""


def test_a_failed_run_is_a_row_and_the_grid_goes_on(cli: Cli, tmp_path: Path) -> None:
    plugin = tmp_path / "breaks.py"
    plugin.write_text(STRATEGY_PLUGIN.replace("norm-only", "breaks") + BREAKS_AT_STEP_TWO)
    words = ["--strategy", "breaks,zero-shot", "--task", "medqa", "--plugin", str(plugin)]
    records = cli.run(*words, expect=1)
    states = {record["spec"]["strategy"]["name"]: record["status"] for record in records}
    assert states == {"breaks": "failed", "zero-shot": "ok"}
    failure = next(record["failure"] for record in records if record["status"] == "failed")
    assert (failure["kind"], failure["phase"]) == ("non_finite_loss", "train")
    assert "step 3" in failure["message"]


def test_a_broken_data_folder_names_file_and_line(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "medqa"
    folder.mkdir()
    row = {
        "question": "Q?",
        "answer": "b",
        "options": {"A": "a", "B": "b", "C": "c", "D": "d"},
        "answer_idx": "B",
    }
    (folder / "train.jsonl").write_text(
        json.dumps(row) + "\n" + json.dumps({**row, "answer_idx": "E"}) + "\n"
    )
    (folder / "test.jsonl").write_text(json.dumps(row) + "\n")
    done = cli("run", *cli.base, "--data", str(tmp_path), "--strategy", "lora", "--task", "medqa", expect=2)
    assert "train.jsonl" in done.stderr
    assert "line 2" in done.stderr
    assert not list(cli.results.glob("*"))
