"""The command line as a user meets it: output, exit codes, and what a grid does when a run fails."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from stored import write_predictions
from stubs import PLUGIN, ROOT

from harness.ask.repeat import repeat_command
from harness.ask.study import parse_grid
from harness.cli import main, make_parser
from harness.registry import load_registry

HEAVY = ("torch", "transformers", "pandas", "numpy", "datasets", "peft")


@pytest.fixture
def cli(tmp_path, capsys, fake_child):
    """Runs a command; gives its exit code, stdout and stderr."""

    def call(*words, mode=None):
        if mode:
            fake_child(mode)
        code = main([*words, "--results", str(tmp_path / "runs")])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


STUB = ("run", "--plugin", str(PLUGIN), "--strategy", "stub-tune", "--task", "stub-task", "--data", "sample")


def usage_error(words, capsys):
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    return capsys.readouterr().err


def harness(*words, **options):
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=60, **options
    )


# --- speed and imports ------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["list"], ["list", "runs"]])
def test_nothing_heavy_is_imported(words, tmp_path):
    result = harness("-X", "importtime", "-m", "harness", *words)
    assert result.returncode == 0, result.stderr
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in result.stderr.splitlines()}
    assert not imported & set(HEAVY)
    if "--help" in words:
        assert not imported & {"pydantic", "rich", "yaml"}


def test_help_imports_the_standard_library_alone():
    """Seconds say more of the machine: what a start costs is what it imports."""
    script = "import sys; from harness.cli import main; main(sys.argv[1:])"
    check = "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr)); "
    result = harness("-S", "-c", check + script, "--help", env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert result.returncode == 0, result.stderr
    tops = {name.partition(".")[0] for name in result.stderr.split()}
    assert "argparse" in tops
    assert not tops - sys.stdlib_module_names - {"harness", "__main__"}


def test_help_names_commands_and_exit_codes():
    text = harness("-m", "harness", "--help").stdout
    for word in ("run", "list", "show", "130 interrupted"):
        assert word in text
    assert "exec" not in text


# --- asked wrongly ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["rum"], "did you mean 'run'?"),
        (["run", "--stratgy", "lora"], "did you mean '--strategy'?"),
        (["run", "--strategy=lora", "--modle=x"], "did you mean '--model'?"),
        (["run", "--strategy", "full", "lora"], "commas and no spaces: --strategy full,lora"),
        (["run", "--scoring", "leter"], "did you mean 'letter'?"),
        (["list", "taks"], "did you mean 'tasks'?"),
        (["run", "--processes", "0"], "'0' is not a whole number from 1 to 1024"),
        (["run", "--timeout", "-1"], "not a number of seconds above 0"),
        (["run", "--timeout", "nan"], "not a number of seconds above 0"),
        (["run", "--shots", "x"], "'x' is not a whole number"),
        ([], "required"),
        (["show"], "required"),
    ],
)
def test_typos_get_a_hint(words, expected, capsys):
    assert expected in usage_error(words, capsys)


def test_all_problems_in_plain_text(cli):
    code, out, err = cli(
        "run", "--strategy", "[bold]x[/]", "--task", "y", "--model", "z", "--set", "a.b=1", "--data", "sample"
    )
    assert code == 2
    assert out == ""
    assert err.startswith("error: 4 problems:\n")
    assert "unknown strategy '[bold]x[/]'" in err
    assert "Traceback" not in err


def test_run_without_anything_shows_an_example(cli):
    code, _, err = cli("run")
    assert code == 2
    assert "python -m harness run --strategy lora --task medqa" in err


def test_missing_package(cli):
    code, _, err = cli(*STUB, "--strategy", "stub-needs")
    assert code == 3
    assert "pip install no_such_package_for_medtune" in err


@pytest.mark.skipif(importlib.util.find_spec("liger_kernel") is not None, reason="Liger is installed here")
def test_missing_liger_is_found_before_any_run_starts(cli):
    code, _, err = cli(*STUB, "--set", "train.kernels=liger")
    assert code == 3
    assert "train.kernels=liger needs liger_kernel" in err
    assert "pip install 'medtune[liger]'" in err


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) for name in ("flash_attn", "kernels")),
    reason="flash attention is here",
)
def test_missing_flash_attention_is_found_before_any_run_starts(cli):
    code, _, err = cli(*STUB, "--set", "model.attention=flash_attention_2")
    assert code == 3
    assert "model.attention=flash_attention_2 needs flash_attn" in err
    assert "pip install flash_attn" in err


def test_bad_data_is_found_before_any_run_starts(cli, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    code, _, err = cli(*STUB, "--data", str(data))
    assert code == 2
    assert "test.jsonl: missing" in err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("content", ["raise ValueError('mine')", "x = 1", "def ("])
def test_bad_plugins(cli, tmp_path, content):
    plugin = tmp_path / "plugin.py"
    plugin.write_text(content)
    code, _, err = cli("run", "--plugin", str(plugin), "--strategy", "lora", "--task", "medqa")
    assert code == 2
    assert f"plugin {plugin}" in err


def test_results_that_is_a_file(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["list", "runs", "--results", str(tmp_path / "file")]) == 2
    assert "is a file" in capsys.readouterr().err


# --- runs -------------------------------------------------------------------------------------


def test_one_run_then_answered_from_the_store(cli):
    code, out, err = cli(*STUB)
    assert code == 0
    assert "50.0 [25.0, 75.0]" in out
    assert "[1/1] stub-task-stub-tune" in err
    assert "train: 1/2, loss 1.5000" in err
    code, again, err = cli(*STUB, mode="failed")  # as it would be if it were run again
    assert (code, again) == (0, out)
    assert "already done: stub-task-stub-tune" in err
    assert "(use --force to run again)" in err
    code, _, _ = cli(*STUB, "--force")
    assert code == 1


def test_what_a_finished_run_left_behind_goes_when_it_is_asked_for_again(cli, tmp_path):
    """Its launcher and its process may both have been killed right after the record was written."""
    cli(*STUB)
    (folder,) = (tmp_path / "runs").iterdir()
    checkpoint = folder / "checkpoints" / "checkpoint-4"
    checkpoint.mkdir(parents=True)
    (checkpoint / "complete").touch()
    (folder / "record.previous.json").write_text("{}")
    assert cli(*STUB, "--dry-run")[0] == 0
    assert checkpoint.exists()
    assert cli(*STUB)[0] == 0
    assert not (folder / "checkpoints").exists()
    assert not (folder / "record.previous.json").exists()


def test_texts_of_a_run_that_is_done_are_not_stored_and_it_says_what_stores_them(cli, tmp_path):
    cli(*STUB)
    (folder,) = (tmp_path / "runs").iterdir()
    write_predictions(folder, [1, 0])
    code, _, err = cli(*STUB, "--log-samples")
    assert code == 0
    assert f"--log-samples stores no texts of runs that are already done: {folder.name} (--force runs" in err
    assert "--log-samples" not in cli(*STUB)[2]
    table = pq.read_table(folder / "predictions.parquet")
    pq.write_table(table.append_column("prompt", pa.array(["a", "b"])), folder / "predictions.parquet")
    assert "--log-samples" not in cli(*STUB, "--log-samples")[2]
    assert "--log-samples" not in cli(*STUB, "--log-samples", "--force")[2]


def test_json_is_a_record_or_a_list(cli):
    code, out, err = cli(*STUB, "--json", "--set", "model.dtype=float32")  # which leaves nothing to be told
    assert code == 0
    assert json.loads(out)["scores"]["accuracy"]["value"] == 0.5
    assert err == ""
    _, out, _ = cli(*STUB, "--seed", "0,1", "--json", "--quiet")
    assert [record["spec"]["seed"] for record in json.loads(out)] == [0, 1]


def test_quiet_leaves_only_the_table(cli):
    _, out, err = cli(*STUB, "--quiet", "--data", "auto")
    assert "50.0" in out
    assert err == ""


def test_a_failed_run_is_a_row_and_the_grid_goes_on(cli):
    code, out, err = cli(*STUB, "--seed", "0,1,2", mode="fail_seed_1")
    assert code == 1
    assert out.count("50.0 [25.0, 75.0]") == 2
    assert "non_finite_loss" in out
    assert "loss is nan at step [7]" in err
    assert "failed: stub-task" in err
    assert "log.txt" in err


@pytest.mark.parametrize(("mode", "code"), [("refuse2", 2), ("refuse3", 3)])
def test_refused_runs(cli, mode, code):
    found, out, err = cli(*STUB, mode=mode)
    assert (found, out) == (code, "")
    assert err.endswith("error: cannot do it\ndo that\n")
    found, out, err = cli(*STUB, "--seed", "0,1", mode=mode)
    assert (found, out) == (code, "")
    assert err.count("cannot do it\ndo that") == 2


def test_sample_notice_is_loud(cli):
    _, _, err = cli(*STUB, "--data", "auto")
    assert "NOT THE REAL Stub" in err
    assert "!!!!" in err


def test_changed_data_is_not_answered_from_the_store(cli, tmp_path, monkeypatch):
    data = tmp_path / "data"
    data.mkdir()
    (data / "test.jsonl").write_text("one")
    digest = hashlib.sha256(b"one").hexdigest()
    monkeypatch.setenv("FAKE_FILES", json.dumps({"test.jsonl": digest}))
    words = (*STUB, "--data", str(data))
    assert cli(*words)[0] == 0
    assert cli(*words)[0] == 0
    (data / "test.jsonl").write_text("two")
    code, _, err = cli(*words)
    assert code == 2
    assert "data has changed since" in err
    assert "test.jsonl" in err
    assert "--force" in err
    monkeypatch.setenv("FAKE_FILES", json.dumps({"test.jsonl": hashlib.sha256(b"two").hexdigest()}))
    assert cli(*words, "--force")[0] == 0
    (data / "test.jsonl").unlink()
    assert cli(*words)[0] == 2


def test_broken_record_stops_with_its_name(cli, tmp_path):
    cli(*STUB)
    (path,) = (tmp_path / "runs").glob("*/record.json")
    path.write_text('{"schema_version": 1, ')
    code, _, err = cli(*STUB)
    assert code == 2
    assert str(path) in err
    assert cli(*STUB, "--force")[0] == 0


def test_no_space_left(cli, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    code, _, err = cli(*STUB)
    assert code == 2
    assert "no space left on the device" in err


def test_dry_run_runs_nothing(cli, tmp_path):
    code, out, _ = cli(*STUB, "--seed", "0,1", "--set", "strategy.r=4", "--dry-run")
    assert code == 0
    assert out.count("would be run") == 2
    assert "strategy.settings.r" in out
    assert not (tmp_path / "runs").exists()
    cli(*STUB)
    _, out, _ = cli(*STUB, "--seed", "0,1", "--dry-run", "--json")
    plan = json.loads(out)
    assert [run["state"] for run in plan] == ["ok", "absent"]
    assert plan[1]["differences"]["seed"] == 1
    assert plan[1]["run_id"].startswith("stub-task-stub-tune-smollm2-135m-s1-")


# --- list and show ----------------------------------------------------------------------------


def test_list(cli):
    _, out, _ = cli("list", "--plugin", str(PLUGIN))
    for name in ("stub-tune", "stub-task", "smollm2-135m", "HuggingFaceTB/SmolLM2-135M-Instruct"):
        assert name in out
    _, out, _ = cli("list", "strategies", "-v", "--plugin", str(PLUGIN))
    assert "--set strategy.r=8  rank" in out
    _, out, _ = cli("list", "--json", "--plugin", str(PLUGIN))
    listed = json.loads(out)
    assert set(listed) == {"strategies", "tasks", "models"}
    (tune,) = (entry for entry in listed["strategies"] if entry["name"] == "stub-tune")
    assert tune["settings"][0] == {"name": "r", "type": "int", "default": 8, "description": "rank"}


def test_list_runs_names_rubbish(cli, tmp_path):
    assert cli("list", "runs") == (0, "no runs yet\n", "")
    cli(*STUB)
    (tmp_path / "runs" / "notes.txt").touch()
    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "record.json").write_text("{")
    code, out, err = cli("list", "runs")
    assert code == 0
    assert "50.0 [25.0, 75.0]" in out
    assert "notes.txt: not a run" in err
    assert "broken" in out
    _, out, _ = cli("list", "runs", "--json")
    assert [run["state"] for run in json.loads(out)["runs"]] == ["broken", "ok"]


def test_show(cli, tmp_path):
    cli(*STUB)
    (run_id,) = (path.name for path in (tmp_path / "runs").iterdir())
    code, out, _ = cli("show", run_id.rpartition("-")[2][:6])
    assert code == 0
    for expected in (
        run_id,
        "50.0 [25.0, 75.0]",
        "strategy.r",
        "To repeat it:",
        "host memory peak GiB",
        "log.txt",
    ):
        assert expected in out or expected == "log.txt"
    code, out, _ = cli("show", run_id, "--json")
    assert json.loads(out)["run_id"] == run_id


def test_show_failed_unfinished_missing_and_ambiguous(cli, tmp_path):
    cli(*STUB, "--seed", "0,1", mode="failed")
    code, _, err = cli("show", "stub-task")
    assert code == 2
    assert "is the start of 2 runs" in err
    code, out, _ = cli("show", "stub-task-stub-tune-smollm2-135m-s0")
    assert "loss is nan at step [7]" in out
    (path,) = (tmp_path / "runs").glob("*s0*/record.json")
    path.unlink()
    code, out, _ = cli("show", path.parent.name)
    assert (code, "unfinished (no checkpoint)" in out) == (0, True)
    _, out, _ = cli("show", path.parent.name, "--json")
    assert json.loads(out)["status"] == "unfinished"
    code, _, err = cli("show", "stub-tsk-stub-tune-smollm2-135m-s1")
    assert code == 2
    assert "did you mean" in err
    assert cli("show", "../..")[0] == 2


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--strategy", "stub-few", "--shots", "2", "--limit", "3"],
        ["--strategy", "stub-zero", "--scoring", "letter", "--set", "engine.evaluation_batch_tokens=999"],
        [
            "--strategy",
            "stub-deep",
            "--set",
            "engine.zero_stage=3",
            "--set",
            "engine.offload=cpu",
            "--seed",
            "7",
        ],
        ["--set", "strategy.config={a: '1', b: [x, 1e-9, null]}", "--set", "strategy.scale=1e-7"],
        ["--set", "train.learning_rate=3e-5", "--set", "train.max_steps=5", "--set", "model.dtype=float32"],
        [
            "--set",
            "model.revision='123'",
            "--model",
            "some/model",
            "--set",
            "train.gradient_checkpointing=true",
        ],
        ["--data", "/tmp", "--model", "random:smollm2-360m"],
    ],
)
@pytest.mark.parametrize("plugin_known", [True, False])
def test_the_command_repeats_the_run(one, stub_registry, words, plugin_known):
    spec = one(*words)
    strategy = stub_registry.strategies[spec.strategy.name] if plugin_known else None
    command = shlex.split(repeat_command(spec, strategy))
    assert command[:4] == ["python", "-m", "harness", "run"]
    (again,) = parse_grid(make_parser().parse_args(command[3:]))
    assert again == spec
    assert again.run_id == spec.run_id


def test_the_command_repeats_every_real_strategy():
    registry = load_registry()
    for name in sorted(set(registry.strategies) - {"peft"}):
        args = make_parser().parse_args(["run", "--strategy", name, "--task", "medqa", "--data", "sample"])
        (spec,) = parse_grid(args, registry)
        command = shlex.split(repeat_command(spec, registry.strategies[name]))
        assert parse_grid(make_parser().parse_args(command[3:]), registry) == [spec]


# --- pipes and terminals ----------------------------------------------------------------------


def test_a_reader_that_goes_away_is_no_crash():
    with subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(0.0)"], stdin=subprocess.PIPE
    ) as reader:
        reader.wait()
        result = subprocess.run(
            [sys.executable, "-m", "harness", "list"], cwd=ROOT, stdout=reader.stdin, stderr=subprocess.PIPE,
            text=True, check=False,
        )  # fmt: skip
    assert result.returncode == 141
    assert result.stderr == ""


def test_output_without_unicode():
    result = harness(
        "-m", "harness", "list", env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    )
    assert result.returncode == 0, result.stderr


def test_bugs_keep_their_traceback(monkeypatch):
    def bug(args):
        raise RuntimeError("a bug")

    monkeypatch.setattr("harness.commands.show.show", bug)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["show", "x"])


def test_exec_hands_over_to_the_runtime(monkeypatch, tmp_path):
    import types

    called = []
    stand_in = types.ModuleType("harness.runtime.execute")
    stand_in.main = lambda folder: called.append(folder) or 7
    monkeypatch.setitem(sys.modules, "harness.runtime.execute", stand_in)
    assert main(["exec", str(tmp_path)]) == 7
    assert called == [tmp_path]


def test_a_failure_is_told_once_in_one_line_and_says_where_the_rest_is(cli):
    code, out, err = cli(*STUB, mode="library")
    assert code == 1
    said = (out + err).splitlines()
    told = [line for line in said if "Error building extension 'op'" in line]
    assert len(told) == 1
    assert told[0].startswith("failed: ")
    assert said.count("Do this.") == 1
    assert not any("c++ -o" in line for line in said)
    (log,) = (line.removeprefix("Log: ") for line in said if line.startswith("Log: "))
    assert Path(log).is_file()
    _, shown, _ = cli("show", Path(log).parent.name)
    assert shown.count("Error building extension 'op'") == 1
    assert "c++ -o" not in shown
    assert log in shown


# --- another precision ------------------------------------------------------------------------


def test_a_run_stored_in_another_precision_is_told_and_not_taken(cli):
    cli(*STUB, "--set", "model.dtype=bfloat16")
    _, _, err = cli(*STUB, "--set", "strategy.r=9")
    assert "is the same in" not in err
    _, _, err = cli(*STUB)
    assert "note: stub-task-stub-tune-smollm2-135m-s0-" in err
    assert "is the same in bfloat16 (--set model.dtype=bfloat16 asks for it)" in err
    assert "already done" not in err
    _, _, err = cli(*STUB, "--set", "model.dtype=bfloat16")
    assert "already done" in err
