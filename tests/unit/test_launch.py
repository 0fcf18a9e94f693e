"""A run's process seen from outside: every way it can end, and taking up what is unfinished."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from stubs import FAKE_CHILD, PLUGIN, ROOT

import harness.launch.local as local
import harness.launch.process as process
from harness.errors import MissingDependencyError, UsageError
from harness.io.files import write_json_atomic
from harness.launch.local import LaunchOptions, exec_command, run_local
from harness.launch.progress import Display, LiveDisplay, PlainDisplay, duration, figures, make_display
from harness.record import RunRecord
from harness.store.runs import Store


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs")


@pytest.fixture
def launch(store, one, fake_child):
    """Runs the stub spec in a mode of the fake child; gives its record, its folder and the events."""

    def go(mode, **options):
        fake_child(mode)
        events = []
        spec = one()
        record = run_local(spec, store, LaunchOptions(**options), events.append)
        return record, store.folder(spec.run_id), events

    return go


def notices(events):
    return [event["text"] for event in events if event["event"] == "notice"]


# --- ways to end ------------------------------------------------------------------------------


def test_ok(launch, store):
    record, folder, events = launch("ok", log_samples=True)
    assert record.status == "ok"
    assert store.record(record.run_id) == record
    assert [event["event"] for event in events] == ["phase", "step"]
    assert (folder / "log.txt").read_text() == "fake child ok 1\n"


def test_failed_record_is_the_childs_own(launch):
    record, _, _ = launch("failed")
    assert (record.status, record.failure.kind) == ("failed", "non_finite_loss")


@pytest.mark.parametrize(("mode", "kind"), [("refuse2", UsageError), ("refuse3", MissingDependencyError)])
def test_refused_leaves_nothing(launch, store, mode, kind):
    with pytest.raises(kind) as caught:
        launch(mode)
    assert (caught.value.message, caught.value.remedy) == ("cannot do it", "do that")
    assert caught.value.exit_code == int(mode[-1])
    assert list(store.root.iterdir()) == []


def test_refused_keeps_a_checkpoint(launch, store, one):
    checkpoint = store.prepare(one()) / "checkpoints" / "checkpoint-3"
    checkpoint.mkdir(parents=True)
    (checkpoint / "complete").touch()
    with pytest.raises(UsageError):
        launch("refuse2")
    assert checkpoint.exists()


def test_refused_brings_the_earlier_record_back(launch, store):
    before, _, _ = launch("failed")
    with pytest.raises(UsageError):
        launch("refuse2")
    assert store.record(before.run_id) == before


def test_kill_9_is_a_crash(launch, store):
    record, _, _ = launch("kill9")
    assert (record.status, record.failure.kind, record.failure.phase) == ("failed", "crash", "train")
    assert "SIGKILL" in record.failure.message
    assert "fake child kill9" in record.failure.traceback
    assert record.cost.total_seconds > 0
    assert store.state(record.run_id) == "failed"


@pytest.mark.parametrize("mode", ["kill9", "torchrun"])
def test_kill_by_the_system_is_out_of_memory(launch, monkeypatch, mode):
    counts = iter([4, 5])
    monkeypatch.setattr(local, "oom_kills", lambda: next(counts))
    record, _, _ = launch(mode)
    assert record.failure.kind == "out_of_memory"
    assert record.failure.remedy


def test_another_process_killed_for_memory_does_not_blame_a_crash(launch, monkeypatch):
    counts = iter([4, 5])
    monkeypatch.setattr(local, "oom_kills", lambda: next(counts))
    assert launch("exit7")[0].failure.kind == "crash"


@pytest.mark.parametrize(("mode", "expected"), [("exit7", "exit code 7"), ("silent", "exit code 0")])
def test_ending_without_a_record_is_a_crash(launch, mode, expected):
    record, _, _ = launch(mode)
    assert record.failure.kind == "crash"
    assert expected in record.failure.message


def test_a_crash_says_what_python_ended_with(launch):
    failure = launch("import")[0].failure
    assert failure.message == (
        "the process ended with exit code 1 in phase train: ModuleNotFoundError: No module named 'torch'"
    )
    assert failure.remedy == "Install the package of torch into this Python; the same command tries again."


def test_a_crash_in_one_of_several_processes_says_its_cause_and_not_the_starters(launch):
    failure = launch("worker")[0].failure
    assert failure.message == "the process ended with exit code 1 in phase train: acme.OddError: it broke"
    assert failure.remedy


def test_a_killed_process_of_several_is_no_interruption(launch, monkeypatch, store):
    """The first process, which torchrun stops then, takes it for one."""
    counts = iter([4, 5, 5, 5])
    monkeypatch.setattr(local, "oom_kills", lambda: next(counts))
    record, _, _ = launch("worker_killed", processes=2)
    assert (record.status, record.failure.kind) == ("failed", "out_of_memory")
    assert record.failure.remedy
    assert store.record(record.run_id) == record
    again, _, _ = launch("worker_killed", processes=2)
    assert (again.status, again.failure.kind) == ("failed", "crash")
    assert "SIGKILL" in again.failure.message


def test_traceback_is_of_this_try_only(launch):
    launch("exit7")
    record, _, _ = launch("kill9")
    assert "last words" not in record.failure.traceback


def test_timeout(launch):
    record, _, _ = launch("hang", timeout_seconds=3.0)  # a busy machine needs more than one to start it
    assert (record.status, record.failure.kind) == ("failed", "timeout")
    assert record.data is not None, "what the process had measured is kept"


def test_a_child_that_does_not_listen_is_killed(launch, monkeypatch):
    monkeypatch.setattr(process, "GRACE_SECONDS", 0.3)
    monkeypatch.setattr(process, "TERMINATE_SECONDS", 0.3)
    record, _, _ = launch("stubborn", timeout_seconds=1.0)
    assert record.failure.kind == "timeout"


def test_a_display_that_breaks_leaves_no_child(store, one, fake_child):
    fake_child("hang")

    def broken(event):
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        run_local(one(), store, LaunchOptions(), broken)
    with store.lock(one().run_id):  # free: no process of the run is left
        pass


def test_handlers_are_put_back(launch):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    launch("ok")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_runs_outside_the_main_thread(launch):
    found = []
    thread = threading.Thread(target=lambda: found.append(launch("ok")[0].status))
    thread.start()
    thread.join()
    assert found == ["ok"]


@pytest.mark.parametrize("proc", ["/proc", "/no/such/folder"])
def test_descendants_are_killed_too(tmp_path, monkeypatch, proc):
    monkeypatch.setattr("harness.io.tie._PROC", Path(proc))
    """torchrun's workers are in sessions of their own: a signal to the group does not reach them."""
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen(['sleep', '60'], start_new_session=True)\n"
        "print(child.pid, flush=True)\ntime.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        grandchild = int(parent.stdout.readline())
        process.kill_tree(parent.pid)
        parent.wait()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            with open(f"/proc/{grandchild}/stat") as stat:
                if stat.read().rpartition(")")[2].split()[0] == "Z":
                    return  # dead, and not yet collected by init
        except FileNotFoundError:
            return
        time.sleep(0.05)
    os.kill(grandchild, signal.SIGKILL)
    pytest.fail("the grandchild lives")


# --- taking up --------------------------------------------------------------------------------


@pytest.fixture
def unfinished(store, one):
    folder = store.prepare(one())
    for step, complete in ((20, True), (40, True), (60, False)):
        checkpoint = folder / "checkpoints" / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True)
        if complete:
            (checkpoint / "complete").touch()
    (folder / "events.jsonl").write_text('{"event": "phase", "name": "old"}\n')
    return folder


def test_resume_says_from_where(launch, unfinished):
    _, folder, events = launch("failed")
    (notice,) = notices(events)
    assert "found an unfinished run of stub-task" in notice
    assert "(last checkpoint at step 40): going on from there" in notice
    assert (folder / "checkpoints" / "checkpoint-40").exists()
    assert not any(event.get("name") == "old" for event in events), "an earlier try's events were shown"


def test_no_resume_deletes_checkpoints(launch, unfinished):
    _, folder, events = launch("failed", resume=False)
    assert "starting anew" in notices(events)[0]
    assert not (folder / "checkpoints").exists()


def test_a_failed_record_does_not_outlive_a_killed_try(launch, store):
    failed, folder, _ = launch("failed")
    record, _, events = launch("kill9")
    assert "found a failed run" in notices(events)[0]
    assert "non_finite_loss in train" in notices(events)[0]
    assert record.failure.kind == "crash", "the record of the first try was taken for the second's"
    assert RunRecord.model_validate_json((folder / "record.previous.json").read_text()) == failed
    assert launch("ok")[0].status == "ok"
    assert not (folder / "record.previous.json").exists()


def test_what_a_run_was_killed_before_deleting_is_deleted(launch, unfinished):
    """Its record is written first: killed right after, it can delete nothing itself."""
    _, folder, _ = launch("ok")
    assert sorted(path.name for path in folder.iterdir()) == [
        "events.jsonl", "lock", "log.txt", "record.json", "spec.json",
    ]  # fmt: skip


def test_a_stray_folder_among_the_checkpoints(launch, unfinished):
    stray = unfinished / "checkpoints" / "checkpoint-x"
    stray.mkdir()
    (stray / "complete").touch()
    _, _, events = launch("failed")
    assert "(last checkpoint at step 40)" in notices(events)[0]


def test_a_run_that_another_process_just_finished_is_not_run_again(launch, store):
    first, folder, _ = launch("ok")
    log = (folder / "log.txt").read_text()
    assert launch("failed")[0] == first
    assert (folder / "log.txt").read_text() == log


# --- force ------------------------------------------------------------------------------------


def kept(store):
    replaced = store.root / ".replaced"
    return [path.name for path in replaced.iterdir()] if replaced.exists() else []


def test_force_deletes_the_old_result_once_the_new_one_is_ok(launch, store):
    launch("failed")
    record, _, _ = launch("ok", force=True)
    assert record.status == "ok"
    assert kept(store) == []


def test_force_keeps_the_old_result_when_the_new_run_fails(launch, store):
    old, _, _ = launch("ok")
    record, _, events = launch("failed", force=True)
    assert record.status == "failed"
    (name,) = kept(store)
    assert "is kept in" in notices(events)[-1]
    stored = RunRecord.model_validate_json((store.root / ".replaced" / name / "record.json").read_text())
    assert stored == old
    launch("ok")
    assert kept(store) == [], "dropped once a run of this name ended well"


def test_force_puts_the_old_result_back_when_refused(launch, store):
    old, _, _ = launch("ok")
    with pytest.raises(UsageError):
        launch("refuse2", force=True)
    assert store.record(old.run_id) == old


def test_force_replaces_a_broken_record(launch, store):
    old, folder, _ = launch("ok")
    (folder / "record.json").write_text("{")
    assert launch("ok", force=True)[0] == old


# --- the command ------------------------------------------------------------------------------


def test_exec_command(tmp_path):
    assert exec_command(tmp_path, 1) == [sys.executable, "-m", "harness", "exec", str(tmp_path)]
    several = exec_command(tmp_path, 3)
    assert several == [sys.executable, "-m", "harness", "exec", "--processes", "3", str(tmp_path)]


# --- Ctrl-C -----------------------------------------------------------------------------------

DRIVER = """
import sys
import harness.launch.local as local
import harness.launch.process as process
from harness.cli import main
process.GRACE_SECONDS = GRACE
mode, *argv = sys.argv[1:]
local.exec_command = lambda folder, processes: [sys.executable, FAKE_CHILD, mode, str(folder)]
sys.exit(main(argv))
"""


def start_driver(tmp_path, mode, grace=process.GRACE_SECONDS):
    command = [
        sys.executable, "-c", f"FAKE_CHILD, GRACE = {str(FAKE_CHILD)!r}, {grace}\n{DRIVER}", mode,
        "run", "--plugin", str(PLUGIN), "--strategy", "stub-tune", "--task", "stub-task", "--data", "sample",
        "--seed", "0,1", "--results", str(tmp_path / "runs"),
    ]  # fmt: skip
    driver = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 20
    while not list(tmp_path.glob("runs/*/ready")):
        assert driver.poll() is None, driver.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return driver


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c(tmp_path, number):
    driver = start_driver(tmp_path, "hang")
    driver.send_signal(number)
    output, errors = driver.communicate(timeout=20)
    assert driver.returncode == 130, errors
    assert "interrupted; 1 more not started" in errors
    assert "Traceback" not in errors
    store = Store(tmp_path / "runs")
    ((record,), problems) = store.records()
    assert (record.status, record.failure.message) == ("interrupted", "interrupted")
    assert record.spec.seed == 0
    assert problems == []
    assert "interrupted" in output


def test_ctrl_c_on_a_run_that_ends_anyway_stops_the_grid(tmp_path):
    driver = start_driver(tmp_path, "late")
    driver.send_signal(signal.SIGINT)
    output, errors = driver.communicate(timeout=20)
    assert driver.returncode == 130, errors
    assert "interrupted; 1 more not started" in errors
    assert "50.0 [25.0, 75.0]" in output
    store = Store(tmp_path / "runs")
    assert [store.state(run_id) for run_id in store.run_ids()] == ["ok"]


def test_stopping_a_background_run(tmp_path):
    """A shell without job control starts `command &` with Ctrl-C ignored; kill PID must still end it well."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        driver = start_driver(tmp_path, "hang")
    finally:
        signal.signal(signal.SIGINT, before)
    driver.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert driver.poll() is None, "ignored on purpose, and not"
    driver.send_signal(signal.SIGTERM)
    _, errors = driver.communicate(timeout=10)
    assert driver.returncode == 130, errors
    ((record,), _) = Store(tmp_path / "runs").records()
    assert record.failure.message == "interrupted", "the run did not get to write its own record"


def test_a_second_ctrl_c_kills_at_once(tmp_path):
    driver = start_driver(tmp_path, "stubborn", grace=3600)
    driver.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert driver.poll() is None
    driver.send_signal(signal.SIGINT)
    _, errors = driver.communicate(timeout=300)  # and not after the grace that the first one gives
    assert driver.returncode == 130, errors
    ((record,), _) = Store(tmp_path / "runs").records()
    assert (record.status, record.failure.kind) == ("interrupted", "interrupted")


def test_a_killed_parent_leaves_an_unfinished_locked_run(tmp_path):
    driver = start_driver(tmp_path, "hang")
    driver.kill()
    driver.communicate()
    store = Store(tmp_path / "runs")
    (run_id,) = store.run_ids()
    assert store.state(run_id) == "unfinished"
    with pytest.raises(UsageError) as caught, store.lock(run_id):
        pass
    child = int(str(caught.value).partition("pid ")[2].partition(")")[0])
    assert child != driver.pid, "the dead parent was named as the holder"
    os.kill(child, signal.SIGKILL)


# --- events and displays ----------------------------------------------------------------------


def test_half_written_and_foreign_lines(tmp_path):
    path = tmp_path / "events.jsonl"
    follower = process.Follower(path)
    assert follower.read() == []
    with path.open("ab") as file:
        file.write(b'{"event": "phase", "na')
        file.flush()
        assert follower.read() == []
        file.write(b'me": "train"}\nrubbish\n[1]\n\xff\n{"event": "notice", "text": "\xc3\xa9"}\n{"ev')
        file.flush()
    assert [event["event"] for event in follower.read()] == ["phase", "notice"]
    assert follower.read() == []


STEP = {
    "event": "step", "step": 3, "of": 9, "loss": 1.23456, "tokens_per_second": 1234.5,
    "memory_bytes": 3 * 2**30, "memory_kind": "host", "seconds_left": 125,
}  # fmt: skip


def test_figures_carry_units_and_name_host_memory():
    assert figures(STEP) == ["loss 1.2346", "1,234 tokens/s", "host 3.00 GiB", "2:05 min left"]
    assert figures({**STEP, "memory_kind": "gpu"})[2] == "GPU 3.00 GiB"
    assert figures({"event": "step", "loss": None}) == []
    assert [duration(s) for s in (0, 59.6, 3600, 7269)] == ["0 s", "1:00 min", "1:00:00 h", "2:01:09 h"]


def test_plain_lines_are_few():
    stream = io.StringIO()
    with PlainDisplay("[1/1] run", stream) as display:
        display({"event": "phase", "name": "train"})
        for step in range(1, 1001):
            display({**STEP, "step": step, "of": 1000})
        display({"event": "notice", "text": "look [here]"})
        display({"event": "unknown"})
    lines = stream.getvalue().splitlines()
    assert lines[0] == "[1/1] run"
    assert "note: look [here]" in lines
    assert 10 <= sum("train: " in line for line in lines) <= 12
    assert lines[-2].startswith("  train: 1000/1000, loss 1.2346")


def test_plain_lines_without_a_length():
    stream = io.StringIO()
    with PlainDisplay("t", stream) as display:
        display({"event": "progress", "phase": "evaluate", "done": 3})
        display({"event": "step"})
    assert stream.getvalue() == "t\n"


def test_live_display_takes_every_event():
    stream = io.StringIO()
    with LiveDisplay("[1/1] run", stream) as display:
        for event in (
            {"event": "phase", "name": "[red]"},
            STEP,
            {**STEP, "of": 0},
            {"event": "notice", "text": "[x]"},
        ):
            display(event)
    assert "note: [x]" in stream.getvalue()


def test_quiet_shows_nothing_and_json_only_notices():
    for quiet, expected in ((True, ""), (False, "note: n\n")):
        stream = io.StringIO()
        with make_display("t", quiet=quiet, as_json=True, stream=stream) as display:
            display({"event": "phase", "name": "train"})
            display(STEP)
            display({"event": "notice", "text": "n"})
        assert stream.getvalue() == expected
        assert type(display) is Display


def test_events_of_a_run_are_json(launch):
    _, folder, _ = launch("ok")
    assert all(json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines())
    write_json_atomic(folder / "x.json", {"a": 1})
