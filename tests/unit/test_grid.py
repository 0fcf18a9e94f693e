"""Grids: side by side, in order, stopped, resumed, planned."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from stubs import HERE, PLUGIN, ROOT, parse

import harness.launch.devices as devices
import harness.launch.local as local
from harness.ask.study import parse_grid
from harness.cli import main
from harness.errors import UsageError
from harness.io.gpus import visible_gpus
from harness.launch.board import LiveBoard
from harness.launch.devices import places
from harness.launch.grid import run_all
from harness.launch.local import LaunchOptions
from harness.plan.forecast import Forecaster
from harness.provenance import cpu_name
from harness.record import RunRecord
from harness.store.runs import Store

CHILD = HERE / "grid_child.py"
STUB = ("run", "--plugin", str(PLUGIN), "--strategy", "stub-tune", "--task", "stub-task", "--data", "sample")


@pytest.fixture
def grid_child(monkeypatch):
    """Makes every run be executed by grid_child.py under the orders given."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(local, "exec_command", lambda folder, n: [sys.executable, str(CHILD), str(folder)])
    return lambda **orders: monkeypatch.setenv("GRID_CHILD", json.dumps(orders))


@pytest.fixture
def cli(tmp_path, capsys, grid_child):
    def call(*words, **orders):
        grid_child(**orders)
        code = main([*STUB, "--results", str(tmp_path / "runs"), *words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def seen(tmp_path, pattern="*"):
    files = sorted((tmp_path / "runs").glob(f"{pattern}/seen.json"))
    return [json.loads(file.read_text()) for file in files]


def overlap(spans):
    """The most that ran at one moment."""
    points = sorted([(s["start"], 1) for s in spans] + [(s["end"], -1) for s in spans])
    now = most = 0
    for _, change in points:
        now += change
        most = max(most, now)
    return most


# --- scheduling -------------------------------------------------------------------------------


def test_one_at_a_time_and_in_order(cli, tmp_path):
    code, out, _ = cli("--seed", "3,1,2")
    assert code == 0
    spans = {path.parent.name: json.loads(path.read_text()) for path in tmp_path.glob("runs/*/seen.json")}
    assert overlap(spans.values()) == 1
    order = sorted(spans, key=lambda run_id: spans[run_id]["start"])
    assert [f"-s{seed}-" in run_id for seed, run_id in zip((3, 1, 2), order, strict=True)] == [True] * 3
    assert out.count("\n") > 3


def test_side_by_side_divides_the_cores_and_says_so(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    code, _, err = cli("--seed", "0,1,2,3,4", "--parallel", "3", sleep=0.7)
    assert code == 0
    spans = seen(tmp_path)
    assert len(spans) == 5
    assert 2 <= overlap(spans) <= 3
    assert {s["OMP_NUM_THREADS"] for s in spans} == {"2"}
    assert {s["HARNESS_PARALLEL_RUNS"] for s in spans} == {"3"}
    assert "3 runs side by side on 8 CPU cores: 2 threads a process" in err
    assert "not comparable" in err
    assert "[5/5]" in err


def test_alone_has_all_threads(cli, tmp_path):
    cli("--seed", "0,1")
    assert {s["OMP_NUM_THREADS"] for s in seen(tmp_path)} == {None}
    assert {s["HARNESS_PARALLEL_RUNS"] for s in seen(tmp_path)} == {None}


def test_each_run_has_a_gpu_of_its_own(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5,GPU-abc")
    code, _, err = cli("--seed", "0,1,2,3,4,5", "--parallel", "3", sleep=0.4)
    assert code == 0
    spans = seen(tmp_path)
    used = {s["CUDA_VISIBLE_DEVICES"] for s in spans}
    assert used == {"2", "5", "GPU-abc"}
    for gpu in used:
        assert overlap([s for s in spans if s["CUDA_VISIBLE_DEVICES"] == gpu]) == 1
    assert "not comparable" not in err


def test_places_of_several_processes(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4")
    found, notice = places(2, 2)
    assert [place["CUDA_VISIBLE_DEVICES"] for place in found] == ["0,1", "2,3"]
    assert notice == ""
    assert places(1, 4) == ([{}], "")
    with pytest.raises(UsageError, match="needs 6 GPUs, 5 are visible") as caught:
        places(3, 2)
    assert "--parallel 2" in caught.value.remedy
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,-1,4")
    assert visible_gpus() == ["3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert places(2, 1)[0][0]["OMP_NUM_THREADS"] == "1", "a lower number of the user's own is kept"


def test_gpus_are_counted_by_nvidia_smi(monkeypatch, tmp_path):
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'GPU 0: X (UUID: a)'\necho '  MIG 1g'\necho 'GPU 1: X (UUID: b)'\n")
    smi.chmod(0o755)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(devices.shutil, "which", lambda name: str(smi))
    assert visible_gpus() == ["0", "1"]


def test_too_few_gpus_start_nothing(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    code, _, err = cli("--seed", "0,1", "--parallel", "2")
    assert code == 2
    assert "needs 2 GPUs, 1 is visible (0)" in err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("parallel", ["1", "2"])
def test_a_failed_run_is_a_row_and_only_it_is_run_again(cli, tmp_path, parallel):
    words = ("--seed", "0,1,2", "--parallel", parallel)
    code, out, err = cli(*words, crash_seed=1)
    assert code == 1
    assert "crash" in out
    assert "failed: stub-task-stub-tune-smollm2-135m-s1" in err
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/seen.json")}
    code, out, err = cli(*words)
    assert code == 0
    assert "3 runs: 2 done, 1 to do" in err
    changed = [path.parent.name for path, when in before.items() if path.stat().st_mtime_ns != when]
    assert len(changed) == 1
    assert "-s1-" in changed[0]
    code, again, err = cli(*words)
    assert (code, again) == (0, out)
    assert "nothing to run" in err


def test_a_run_held_by_another_process_is_told_and_the_rest_goes_on(cli, tmp_path, grid_child):
    grid_child()
    store = Store(tmp_path / "runs")
    specs = parse_grid(parse("--seed", "0,1"))
    with store.lock(specs[0].run_id):
        code, out, err = cli("--seed", "0,1", "--parallel", "2")
    assert code == 2
    assert "is being run by another process" in err
    assert store.state(specs[1].run_id) == "ok"
    assert out.count("stub-tune") == 1


def test_quiet_and_json_say_nothing(cli):
    assert cli("--seed", "0,1", "--parallel", "2", "--quiet")[2] == ""
    _, out, err = cli("--seed", "0,1,2", "--json", "--set", "model.dtype=float32")
    assert [record["spec"]["seed"] for record in json.loads(out)] == [0, 1, 2]
    assert err == ""


def test_a_board_that_breaks_stops_all(tmp_path, grid_child, stub_registry):
    grid_child(sleep=3600)
    specs = parse_grid(parse("--seed", "0,1,2"), stub_registry)
    store = Store(tmp_path / "runs")

    class Broken(LiveBoard):
        def follow(self, spec):
            if spec.seed == 1:
                raise BrokenPipeError
            return super().follow(spec)

    with pytest.raises(BrokenPipeError):
        run_all(specs, store, LaunchOptions(), [{}, {}], Broken(specs, store.root, io.StringIO()))
    for spec in specs:
        with store.lock(spec.run_id):  # free: nothing is left running
            pass


# --- Ctrl-C -----------------------------------------------------------------------------------

DRIVER = """
import sys
import harness.launch.local as local
from harness.cli import main
local.exec_command = lambda folder, n: [sys.executable, CHILD, str(folder)]
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("tune", [(), ("--tune", "2")])
def test_ctrl_c_stops_all_and_the_same_command_goes_on(cli, tmp_path, tune):
    words = [*STUB, "--seed", "0,1,2", "--parallel", "2", "--results", str(tmp_path / "runs"), *tune]
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "",
        "GRID_CHILD": json.dumps({"sleep": 60}),
    }  # fmt: skip
    driver = subprocess.Popen(
        [sys.executable, "-c", f"CHILD = {str(CHILD)!r}\n{DRIVER}", *words],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("runs/**/ready"))) < 2:
        assert driver.poll() is None, driver.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    driver.send_signal(signal.SIGINT)
    _, err = driver.communicate(timeout=30)
    assert driver.returncode == 130, err
    assert f"interrupted; {3 if tune else 1} more not started" in err
    assert "Traceback" not in err
    store = Store(tmp_path / "runs" / ".tune" if tune else tmp_path / "runs")
    states = [store.state(run_id) for run_id in store.run_ids()]
    assert states == ["interrupted", "interrupted"]
    code, _, err = cli("--seed", "0,1,2", "--parallel", "2", *tune)
    assert code == 0, err


# --- plan and forecast ------------------------------------------------------------------------


def test_the_plan_counts_and_forecasts(cli, monkeypatch):
    monkeypatch.setattr("harness.plan.grid.device_name", lambda: "cpu")
    short = ("--set", "train.max_steps=10")
    _, _, err = cli("--seed", "0,1", *short)
    assert "time unknown" in err
    _, _, err = cli("--seed", "0,1,2", *short)
    assert "3 runs: 2 done, 1 to do; about 30 s" in err
    # twice the steps: 20 s of training more
    _, out, _ = cli("--seed", "0,1", "--set", "train.max_steps=20", "--dry-run", "--json")
    assert [item["forecast_seconds"] for item in json.loads(out)] == [50.0, 50.0]
    _, out, _ = cli("--seed", "0,1", "--task", "stub-other", "--dry-run")
    assert "time unknown" in out
    assert out.count("would be run") == 2


def test_a_forecast_is_of_runs_made_as_the_next_one_will_be(cli, tmp_path, one):
    device = cpu_name()
    cli("--set", "train.max_steps=10", device=device)
    records, _ = Store(tmp_path / "runs").records()
    spec = one("--set", "train.max_steps=10")
    cores = len(os.sched_getaffinity(0))
    assert Forecaster(records, device, cores=cores).seconds(spec) == 30
    assert Forecaster(records, device, cores=cores + 1).seconds(spec) is None
    assert Forecaster(records, device, processes=2).seconds(spec) is None
    assert Forecaster(records, device, parallel=2).seconds(spec) is None
    other = ("--seed", "1,2", "--set", "train.max_steps=10")
    _, out, _ = cli(*other, "--parallel", "2", "--dry-run")
    assert "time unknown" in out
    cli("--seed", "3", "--set", "train.max_steps=10", "--parallel", "2", device=device)
    _, out, _ = cli(*other, "--parallel", "2", "--dry-run")
    assert "about 30 s, 2 side by side" in out


def test_a_forecast_is_of_one_kind_of_device_and_one_kind_of_run(cli, tmp_path, one):
    cli("--set", "train.max_steps=10")
    records, _ = Store(tmp_path / "runs").records()
    spec = one("--set", "train.max_steps=10", "--limit", "4")
    assert Forecaster(records, "cpu").seconds(spec) == 20 + 2 + 6
    assert Forecaster(records, None).seconds(spec) == 28
    assert Forecaster(records, "NVIDIA H200").seconds(spec) is None
    assert Forecaster(records, "cpu").seconds(one("--model", "smollm2-360m")) is None
    # 2 epochs of 160 examples in batches of 16 are 20 steps; half the batch costs half a step
    assert Forecaster(records, "cpu").seconds(one("--set", "train.epochs=2")) == 40 + 4 + 6
    halved = one("--set", "train.epochs=2", "--set", "train.batch_size=8")
    assert Forecaster(records, "cpu").seconds(halved) == 40 + 4 + 6
    for setting in ("train.packing=off", "train.max_length=64", "train.micro_batch_tokens=64", "model.max_length=64",
                    "model.attention=eager", "strategy.r=4", "engine.evaluation_batch_tokens=64"):  # fmt: skip
        unlike = one("--set", "train.max_steps=10", "--set", setting)
        assert Forecaster(records, "cpu").seconds(unlike) is None, setting
    limited = one("--set", "train.epochs=2", "--set", "train.limit=16")
    assert Forecaster(records, "cpu").seconds(limited) == 4 + 4 + 6


def test_dry_run_of_a_forced_grid(cli):
    cli("--seed", "0,1")
    _, out, _ = cli("--seed", "0,1", "--force", "--dry-run")
    assert out.count("would be run again (found: ok)") == 2
    assert "0 done, 2 to do" in out


# --- the live table ---------------------------------------------------------------------------


def test_the_live_table(grid, tmp_path):
    from rich.console import Console

    specs = grid("--seed", "0,1,2")
    stream = io.StringIO()
    board = LiveBoard(specs, tmp_path, stream)

    def shown():
        console = Console(width=100, file=io.StringIO())
        console.print(board.table())
        return console.file.getvalue()

    with board:
        with board.follow(specs[0]) as display:
            display({"event": "phase", "name": "train"})
            display({"event": "step", "step": 3, "of": 9, "loss": 1.25, "seconds_left": 65})
            text = shown()
            assert "3/9" in text
            assert "1.2500" in text
            assert "1:05 min" in text
            assert "1 running, 2 waiting" in text
            display({"event": "notice", "text": "look [here]"})
        board.ended(specs[0], None, UsageError("no"))
        assert "refused" in shown()
        assert "1 of 3 done, 1 failed" in shown()
    assert "look [here]" in stream.getvalue()
    assert "error: stub-task" in stream.getvalue()


def test_a_long_grid_shows_what_matters(grid, tmp_path):
    specs = grid("--seed", ",".join(map(str, range(200))))
    board = LiveBoard(specs, tmp_path, io.StringIO())
    with board.follow(specs[150]):
        pass
    table = board.table()
    assert table.row_count < 60
    assert any("s150" in str(cell) for cell in table.columns[0].cells)


def test_records_are_whole(cli, tmp_path):
    cli("--seed", "0,1,2,3", "--parallel", "4")
    for path in tmp_path.glob("runs/*/record.json"):
        RunRecord.model_validate_json(path.read_text())
