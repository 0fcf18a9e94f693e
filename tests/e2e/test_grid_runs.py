"""A grid and a tuning as a user types them, with real training of a tiny model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow.parquet as pq
import pytest
from formats import READERS, accuracy_of

from harness.cli import main
from harness.contracts import DataSource
from harness.plan.trials import Tuning
from harness.record import RunRecord
from harness.registry import load_registry
from tasks.sample import medqa_rows

STUDY = """
name: a small one
grid: {{strategy: [lora, ia3], task: [medqa, pubmedqa], model: "{model}", seed: [0, 1]}}
set:
  train: {{max_steps: 3, limit: 32}}
  model.dtype: float32
per_strategy:
  lora: {{strategy.r: 4}}
limit: 8
data: sample
"""


@pytest.fixture
def study(tmp_path: Path, tiny_model_dir: Path) -> Path:
    return write_study(tmp_path, tiny_model_dir)


def write_study(folder: Path, model: Path) -> Path:
    path = folder / "study.yaml"
    path.write_text(STUDY.format(model=model))
    return path


@pytest.fixture(scope="module")
def grid(
    tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The whole grid, run once; forked from a warm process: 8 of their own would import torch 8 times."""
    study = write_study(tmp_path_factory.mktemp("grid"), tiny_model_dir)
    return study, run(study, "--parallel", "2", "--warm")


def run(study: Path, *words: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable, "-m", "harness", "run", "--study", str(study), "--results", str(study.parent / "runs"),
        *words,
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1500)
    assert done.returncode == expect, done.stdout + done.stderr
    return done


def records(folder: Path) -> list[RunRecord]:
    return [RunRecord.model_validate_json(path.read_text()) for path in sorted(folder.glob("*/record.json"))]


@pytest.mark.timeout(1800)
def test_two_strategies_two_tasks_two_seeds_side_by_side(
    grid: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    study, done = grid
    assert "8 runs: 0 done, 8 to do; time unknown" in done.stderr
    assert "not comparable" in done.stderr
    found = records(study.parent / "runs")
    assert len(found) == 8
    assert {record.status for record in found} == {"ok"}
    assert len({(r.spec.strategy.name, r.spec.task.name, r.spec.seed) for r in found}) == 8
    again = run(study, "--parallel", "2")
    assert "8 runs: 8 done, 0 to do" in again.stderr
    assert again.stdout == done.stdout
    # alone or beside others, a run comes to the same
    alone: Any = json.loads(
        run(study, "--strategy", "lora", "--task", "medqa", "--seed", "1", "--force", "--json").stdout
    )
    (beside,) = (r for r in found if r.run_id == alone["run_id"])
    assert alone["scores"]["nll"]["value"] == pytest.approx(beside.scores["nll"].value, abs=1e-6)


@pytest.mark.timeout(1800)
def test_figures_of_a_grid_are_equal_in_all_formats(
    grid: tuple[Path, subprocess.CompletedProcess[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Read back from each format by itself, and held against the runs' own records."""
    runs = grid[0].parent / "runs"
    found = {}
    for name in READERS:
        assert main(["report", "--results", str(runs), "--format", name]) == 0
        found[name] = accuracy_of(name, capsys.readouterr().out)
    assert set(found["json"]) == {"lora", "ia3"}
    assert {name for name, own in found.items() if own != found["json"]} == set(), found
    for label, (seeds, medqa, pubmedqa, average) in found["json"].items():
        means = [
            fmean(
                r.scores["accuracy"].value * 100
                for r in records(runs)
                if (r.spec.strategy.name, r.spec.task.name) == (label, task)
            )
            for task in ("medqa", "pubmedqa")
        ]
        shown = [float(cell.partition(" ")[0]) for cell in (medqa, pubmedqa, average)]
        assert seeds == "2"
        assert shown == pytest.approx([*means, fmean(means)], abs=0.051)


@pytest.mark.timeout(1800)
def test_tuning_never_scores_the_test_split(study: Path, tmp_path: Path) -> None:
    """On data with 200 validation items, the fewest that are chosen by."""
    rows = medqa_rows()
    parts = {"train": rows["train"][200:], "validation": rows["train"][:200], "test": rows["test"]}
    folder = tmp_path / "data" / "medqa"
    folder.mkdir(parents=True)
    for name, own in parts.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own))
    words = ("--strategy", "lora", "--task", "medqa", "--seed", "1", "--tune", "2", "--limit", "200")
    words = (*words, "--data", str(tmp_path / "data"), "--warm")
    done = run(study, *words)
    assert "tuned lora on medqa: learning rate" in done.stderr
    trials = records(study.parent / "runs" / ".tune")
    (final,) = records(study.parent / "runs")
    splits = load_registry().task("medqa")().load(DataSource("dir", tmp_path / "data"))
    ids = {name: [e.id for e in getattr(splits, name)] for name in ("validation", "test")}
    assert len(trials) == 2
    for trial in trials:
        assert trial.status == "ok"
        assert trial.data is not None
        assert final.data is not None
        assert (trial.spec.task.split, trial.data.comparable, trial.data.test_n) == ("validation", False, 200)
        assert trial.spec.seed != final.spec.seed
        assert trial.data.title.endswith("(validation split)")
        assert trial.data.test_fingerprint != final.data.test_fingerprint
        # The final run's files and fingerprint are of test too, which a trial does not read.
        assert {Path(name).stem for name in trial.data.files} == {"train", "validation"}
        assert trial.data.files.items() < final.data.files.items()
        scored = scored_ids(study.parent / "runs" / ".tune" / trial.run_id)
        assert scored == ids["validation"]
        assert not set(scored) & set(ids["test"])
    folder = study.parent / "runs" / final.run_id
    assert scored_ids(folder) == ids["test"][:200]
    tuning = Tuning.model_validate_json((folder / "tuning.json").read_text())
    assert final.spec.train.learning_rate == tuning.chosen
    best = max(trials, key=lambda t: (t.scores["accuracy"].value, -t.scores["nll"].value))
    assert tuning.chosen == best.spec.train.learning_rate
    again = run(study, *words)
    assert again.stdout == done.stdout


@pytest.mark.timeout(1800)
def test_few_validation_items_are_replaced_by_folds_of_train(study: Path) -> None:
    """The sample has 100: each fold is held out once, and neither trained on then nor part of test."""
    words = (
        "--strategy",
        "lora",
        "--task",
        "medqa",
        "--seed",
        "1",
        "--tune",
        "2",
        "--limit",
        "1000",
        "--warm",
    )
    done = run(study, *words)
    assert "over 5 folds of train" in done.stderr
    trials = records(study.parent / "runs" / ".tune")
    (final,) = records(study.parent / "runs")
    splits = load_registry().task("medqa")().load(DataSource("sample"))
    train, scored = [e.id for e in splits.train], []
    assert len(trials) == 10
    for trial in trials:
        assert trial.data is not None
        assert trial.spec.task.fold is not None
        assert trial.data.title.endswith(f"(fold {trial.spec.task.fold + 1} of 5 of train)")
        held = scored_ids(study.parent / "runs" / ".tune" / trial.run_id)
        assert trial.data.test_n == len(held)
        scored += held
    assert sorted(scored) == sorted(train * 2)
    tuning = Tuning.model_validate_json((study.parent / "runs" / final.run_id / "tuning.json").read_text())
    means = {
        rate: fmean(t.scores["nll"].value for t in trials if t.spec.train.learning_rate == rate)
        for rate in tuning.rates
    }
    assert tuning.chosen == min(means, key=lambda rate: means[rate]) == final.spec.train.learning_rate


def scored_ids(folder: Path) -> list[str]:
    return list(
        pq.read_table(folder / "predictions.parquet", columns=["example_id"])["example_id"].to_pylist()
    )
