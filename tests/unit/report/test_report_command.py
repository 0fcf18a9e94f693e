"""`report` on the command line: where it writes, and what it says when it cannot."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made import spec_of, write_run

from harness.cli import main


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    root = tmp_path / "runs"
    for strategy in ("full", "lora"):
        for seed in (0, 1):
            write_run(root, spec_of(strategy, seed=seed), n=120)
    return root


def test_no_runs_says_what_to_type(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["report", "--results", str(tmp_path / "none")]) == 2
    told = capsys.readouterr().err
    assert "nothing to report" in told
    assert "python -m harness run" in told
    assert "--results DIR" in told


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("r.html", "<!DOCTYPE html>"),
        ("r.md", "# "),
        ("r.csv", "kind,"),
        ("r.tex", "%"),
        ("r.json", "{"),
        ("r.txt", "medtune"),
    ],
)
def test_the_ending_of_out_says_the_format(runs: Path, tmp_path: Path, name: str, start: str):
    out = tmp_path / name
    assert main(["report", "--results", str(runs), "--out", str(out)]) == 0
    assert out.read_text(encoding="utf-8").startswith(start)


def test_the_reliability_diagram_is_of_the_stored_likelihoods(runs: Path, tmp_path: Path):
    """One run's choices are all alike, so that all its answers stand in the bin at one half."""
    out = tmp_path / "r.html"
    spec = spec_of("ia3", seed=0)
    write_run(runs, spec, n=120)
    path = runs / spec.run_id / "predictions.parquet"
    table = pq.read_table(path)
    place = table.schema.get_field_index("logprobs")
    pq.write_table(table.set_column(place, "logprobs", pa.array([[-1.0, -1.0]] * 120)), path)
    assert main(["report", "--results", str(runs), "--out", str(out)]) == 0
    page = out.read_text(encoding="utf-8")
    assert "ia3: confidence 0.50, right" in page
    assert page.count("ia3: confidence") == 1
    assert page.count("lora: confidence") > 1


@pytest.mark.parametrize("lacking", ["the column", "a row", "a choice"])
def test_runs_without_likelihoods_are_told_and_the_rest_is_written(runs: Path, tmp_path: Path, lacking: str):
    out = tmp_path / "r.html"
    path = runs / spec_of("lora", seed=1).run_id / "predictions.parquet"
    table = pq.read_table(path)
    kept = table.drop_columns(["logprobs"])
    rows: list[list[float] | None] = [[-1.0, -2.0]] * 119
    more = pa.array([*rows, None if lacking == "a row" else []], pa.list_(pa.float64()))
    pq.write_table(kept if lacking == "the column" else kept.append_column("logprobs", more), path)
    assert main(["report", "--results", str(runs), "--out", str(out)]) == 0
    page = out.read_text(encoding="utf-8")
    assert "no reliability diagram for lora" in page
    assert "lora: confidence" not in page
    assert "full: confidence" in page


def test_rows_carry_the_command_that_repeats_them(runs: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["report", "--results", str(runs), "--format", "json"]) == 0
    (table,) = json.loads(capsys.readouterr().out)["tables"]
    commands = [cell["command"] for row in table["rows"] for cell in row["cells"]]
    assert all(command.startswith("python -m harness run --strategy ") for command in commands)
    assert all("--seed 0,1" in command for command in commands)


def test_out_into_a_missing_folder(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["report", "--results", str(runs), "--out", str(tmp_path / "no" / "r.html")]) == 2
    told = capsys.readouterr().err
    assert "there is no folder" in told
    assert "mkdir -p" in told


def test_out_that_is_a_folder(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["report", "--results", str(runs), "--out", str(tmp_path)]) == 2
    assert "it is a folder" in capsys.readouterr().err


def test_out_that_cannot_be_written(runs: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["report", "--results", str(runs), "--out", "/proc/report.html"]) == 2
    told = capsys.readouterr().err
    assert "cannot write /proc/report.html" in told
    assert "--out FILE" in told
    assert "--results" not in told


def test_what_cannot_be_read_is_named_and_the_rest_goes_on(runs: Path, capsys: pytest.CaptureFixture[str]):
    broken, lost = sorted(path for path in runs.iterdir() if "lora" in path.name)
    (broken / "record.json").write_text("{", encoding="utf-8")
    (lost / "predictions.parquet").write_bytes(b"PAR1")
    (runs / "notes").mkdir()
    assert main(["report", "--results", str(runs)]) == 0
    shown = capsys.readouterr()
    assert "broken or cut off" in shown.err
    assert "no verdict for lora" in shown.err
    assert "notes: not a run" in shown.err
    assert "Warnings" in shown.out
    assert "per-item outcomes cannot be read" in shown.out


def test_unfinished_runs_are_counted(runs: Path, capsys: pytest.CaptureFixture[str]):
    spec = spec_of("qlora")
    folder = runs / spec.run_id
    folder.mkdir()
    (folder / "spec.json").write_text(spec.model_dump_json(), encoding="utf-8")
    assert main(["report", "--results", str(runs)]) == 0
    assert "1 unfinished: " in capsys.readouterr().out


@pytest.mark.parametrize("margin", ["0", "-1", "100", "nan"])
def test_margin_is_in_points(runs: Path, margin: str, capsys: pytest.CaptureFixture[str]):
    assert main(["report", "--results", str(runs), f"--margin={margin}"]) == 2
    assert "points between 0 and 100" in capsys.readouterr().err


def test_unknown_task_is_named(runs: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["report", "--results", str(runs), "--task", "medqua"]) == 2
    assert "did you mean 'medqa'" in capsys.readouterr().err


def test_runs_of_other_items_have_no_verdict_and_say_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_run(tmp_path, spec_of("full"), n=50)
    write_run(tmp_path, spec_of("lora"), n=50, ids=[f"other-{i}" for i in range(50)])
    assert main(["report", "--results", str(tmp_path)]) == 0
    assert "different items" in " ".join(capsys.readouterr().out.split())
