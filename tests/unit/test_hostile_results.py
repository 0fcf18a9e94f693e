"""One run folder that is not what it should be takes no command down: it is named, the others are shown."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from stored import write_run
from stubs import PLUGIN

from harness.cli import main
from harness.report.chart_data import _curve

BAD = "medqa-bad-smollm2-135m-s0-0123abcd"


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "runs"
    write_run(root, "lora", [1, 1, 0, 1], subgroups=["a", "a", "b", "b"])
    write_run(root, "full", [1, 0, 0, 1], subgroups=["a", "a", "b", "b"])
    return root


@pytest.fixture
def cli(root, capsys, monkeypatch):
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)

    def call(*words):
        code = main([*words, "--results", str(root)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def bad_run(root: Path, **columns: object) -> Path:
    """A run `bad` beside the good ones, whose predictions have these columns in place of their own."""
    folder = root / write_run(root, "bad", [1, 0, 1, 1], subgroups=["a", "a", "b", "b"])
    table = pq.read_table(folder / "predictions.parquet")
    for name, values in columns.items():
        place = table.column_names.index(name)
        table = table.remove_column(place)
        if values is not None:
            table = table.add_column(place, name, values)
    pq.write_table(table, folder / "predictions.parquet")
    return folder


def nested(path: Path) -> None:
    path.write_text('{"spec": ' + "[" * 10_000 + "]" * 10_000 + "}")


def pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def device(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


def loop(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(path)


def folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def large(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(200 * 2**20)


def huge_integer(path: Path) -> None:
    value = json.loads(path.read_text())
    value.setdefault("cost", {})["trainable_parameters"] = 0
    path.write_text(
        json.dumps(value).replace('"trainable_parameters": 0', f'"trainable_parameters": {"9" * 400}')
    )


def without_metric(path: Path) -> None:
    value = json.loads(path.read_text())
    value["scores"] = {"other": {"value": 0.5, "n": 4}}
    path.write_text(json.dumps(value))


def not_text(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00")


RUIN = [nested, pipe, device, loop, folder, large, huge_integer, without_metric, not_text]


def assert_the_good_ones_are_shown(cli, named: str) -> None:
    code, out, err = cli("list", "runs")
    assert (code, out.count("75.0 ["), named in err) == (0, 1, True), err
    code, out, err = cli("report")
    assert code == 0
    assert named in err
    assert "lora" in out
    code, out, err = cli("report", "--format", "html")
    assert (code, named in err) == (0, True)
    code, out, err = cli("compare", "lora", "full")
    assert (code, named in err) == (0, True)
    code, out, err = cli("check", "--baseline", "lora", "--candidate", "full")
    assert code in (0, 1, 2, 4)
    assert "quality" in out
    code, out, _ = cli("show", "medqa-lora")
    assert (code, "75.0 [" in out) == (0, True)
    words = ("--strategy", "stub-tune", "--task", "stub-task", "--data", "sample", "--seed", "0,1")
    code, out, err = cli("run", "--plugin", str(PLUGIN), *words, "--dry-run")
    assert (code, out.count("would be run")) == (0, 2)


@pytest.mark.parametrize("ruin", RUIN, ids=lambda ruin: ruin.__name__)
def test_a_bad_record_is_named_and_the_others_are_shown(root, cli, ruin):
    path = bad_run(root) / "record.json"
    ruin(path)
    assert_the_good_ones_are_shown(cli, str(path.parent))
    code, out, err = cli("show", path.parent.name)
    assert (code, out) == (2, "")
    assert str(path) in err
    assert "Traceback" not in err
    entry = next(
        e for e in json.loads(cli("list", "runs", "--json")[1])["runs"] if e["run_id"] == path.parent.name
    )
    assert entry["state"] == "broken"


def test_a_folder_that_may_not_be_read_is_named_and_the_others_are_shown(root, cli, monkeypatch):
    """Root may read everything: here the system's answer is stood in for."""
    there = bad_run(root)
    opened, looked = os.open, Path.lstat

    def refused(path, *args, **options):
        if Path(os.fspath(path)).parent == there:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args, **options)

    def no_look(path):
        if path.parent == there:
            raise PermissionError(13, "Permission denied", str(path))
        return looked(path)

    monkeypatch.setattr(os, "open", refused)
    monkeypatch.setattr(Path, "lstat", no_look)
    assert_the_good_ones_are_shown(cli, str(there))
    code, _, err = cli("show", there.name)
    assert (code, "permission denied" in err) == (2, True)


@pytest.mark.parametrize(
    "ruin", [nested, pipe, device, loop, folder, large, not_text], ids=lambda r: r.__name__
)
def test_a_bad_spec_of_an_unfinished_run_is_named(root, cli, ruin):
    path = bad_run(root) / "spec.json"
    (path.parent / "record.json").unlink()
    ruin(path)
    assert_the_good_ones_are_shown(cli, str(path.parent))
    assert cli("show", path.parent.name)[0] == 2


@pytest.mark.parametrize(
    "ruin", [nested, pipe, device, loop, folder, large, not_text], ids=lambda r: r.__name__
)
def test_bad_files_beside_a_record(root, cli, ruin):
    there = bad_run(root)
    for name in ("predictions.parquet", "steps.jsonl", "events.jsonl", "tuning.json", "spec.json", "log.txt"):
        ruin(there / name)
    assert cli("list", "runs")[0] == 0
    for form in ("text", "html"):
        code, out, err = cli("report", "--format", form)
        assert code == 0
        assert str(there / "predictions.parquet") in err
        assert "bad" in out
    assert cli("compare", "lora", "full")[0] == 0
    for words in (("compare", "bad", "lora"), ("check", "--baseline", "bad", "--candidate", "lora")):
        code, _, err = cli(*words)
        assert code == 2
        assert str(there) in err


IDS = pa.array(["item-0", "item-1", "item-2", "item-3"])


@pytest.mark.parametrize(
    "columns",
    [
        {"example_id": pa.array([["a"], ["b"], ["c"], ["d"]])},
        {"example_id": pa.array([1, 2, 3, 4])},
        {"example_id": pa.array(["a", "a", "b", "c"])},
        {"example_id": pa.array(["a", None, "b", "c"])},
        {"example_id": None},
        {"subgroup": pa.array(["a", None, "a", "b"])},
        {"subgroup": pa.array([1.0, 2.0, 3.0, 4.0])},
        {"correct": pa.array([True, None, True, True])},
        {"correct": pa.array(["yes", "no", "yes", "yes"])},
        {"correct": pa.array([True, True, True, True])},
        {"correct": None},
    ],
    ids=lambda columns: "-".join(f"{k}-{getattr(v, 'type', 'gone')}" for k, v in columns.items()),
)
def test_odd_predictions(root, cli, columns):
    there = bad_run(root, **columns)
    for form in ("text", "html", "json"):
        code, out, err = cli("report", "--format", form)
        assert code == 0
        assert str(there) in err
        assert "lora" in out
    code, _, err = cli("compare", "bad", "lora")
    assert code == 2
    assert str(there) in err


@pytest.mark.parametrize("rows", [0, 2])
def test_predictions_of_another_length(root, cli, rows):
    there = bad_run(root)
    path = there / "predictions.parquet"
    pq.write_table(pq.read_table(path).slice(0, rows), path)
    code, _, err = cli("report")
    assert (code, str(there) in err) == (0, True)
    assert cli("compare", "bad", "lora")[0] == 2


def test_a_column_twice(root, cli):
    there = bad_run(root)
    path = there / "predictions.parquet"
    table = pq.read_table(path)
    pq.write_table(table.append_column("correct", table["correct"]), path)
    code, _, err = cli("report")
    assert (code, str(there) in err) == (0, True)


@pytest.mark.parametrize(
    "logprobs",
    [
        pa.array([[-1.0, float("nan")]] * 4),
        pa.array([[-1.0, float("inf")]] * 4),
        pa.array([["a", "b"]] * 4),
        pa.array([[-1.0, None]] * 4),
        pa.array([[-1.0, -2.0], None, [-1.0, -2.0], [-1.0, -2.0]]),
        pa.array([[-1.0, -2.0], [], [-1.0, -2.0], [-1.0, -2.0]]),
        pa.array(["a"] * 4),
    ],
    ids=lambda values: str(values.type),
)
def test_odd_likelihoods_cost_the_diagram_only(root, cli, logprobs):
    bad_run(root, logprobs=logprobs)
    code, out, _ = cli("report", "--format", "html")
    assert code == 0
    assert "no reliability diagram for bad" in out
    assert "NaN" not in out
    assert cli("compare", "bad", "lora")[0] == 0


def test_odd_lines_of_steps_cost_these_lines_only(root, cli):
    steps = [{"step": n, "loss": 2.0 - n / 10} for n in range(1, 6)]
    odd = [
        [],
        1,
        "step",
        None,
        {"step": 10**400, "loss": 1.0},
        {"step": "x", "loss": []},
        {"step": 3, "validation_loss": True},
    ]
    there = bad_run(root)
    (there / "steps.jsonl").write_text(
        "\n".join(map(json.dumps, [*steps, *odd])) + '\n{"step": NaN, "loss": NaN}\n{'
    )
    curve = _curve(there / "steps.jsonl", 0, 100)
    assert curve is not None
    assert [step for step, _ in curve.training] == [1, 2, 3, 4, 5]
    assert curve.validation == ()
    assert cli("report", "--format", "html")[0] == 0


def test_a_grid_leaves_out_what_it_cannot_read_and_runs_the_others(root, cli, fake_child):
    stub = (
        "run",
        "--plugin",
        str(PLUGIN),
        "--strategy",
        "stub-tune",
        "--task",
        "stub-task",
        "--data",
        "sample",
    )
    assert cli(*stub, "--seed", "0,1", "--quiet")[0] == 0
    first, second = sorted(root.glob("stub-task-*"))
    nested(first / "record.json")
    (second / "record.json").unlink()
    code, out, err = cli(*stub, "--seed", "0,1")
    assert code == 2
    assert f"error: {first.name} is left out: {first / 'record.json'}" in err
    assert "50.0 [25.0, 75.0]" in out
    assert (second / "record.json").exists()
    code, out, err = cli(*stub, "--seed", "0")
    assert (code, out) == (2, "")
    assert "Traceback" not in err


def test_a_pipe_among_the_files_of_a_run_that_goes_on(root, cli, fake_child):
    stub = (
        "run",
        "--plugin",
        str(PLUGIN),
        "--strategy",
        "stub-tune",
        "--task",
        "stub-task",
        "--data",
        "sample",
    )
    cli(*stub, "--quiet")
    (there,) = root.glob("stub-task-*")
    (there / "record.json").unlink()
    pipe(there / "events.jsonl")
    code, out, err = cli(*stub)
    assert (code, out) == (2, "")
    assert f"{there / 'events.jsonl'} is no file" in err
