"""Run folders: what is reused, what is refused, and what bad disks and rubbish do."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys

import pytest
from stubs import ROOT

from harness.errors import StoreError, UsageError
from harness.io.files import write_json_atomic, write_text_atomic
from harness.plan.reuse import reusable
from harness.record import Cost, Failure, RunRecord
from harness.store.runs import Store, differences, last_checkpoint


def failed(spec, kind="crash"):
    return RunRecord(
        run_id=spec.run_id, status="failed", spec=spec, created="now", cost=Cost(total_seconds=1.0),
        failure=Failure(phase="train", kind=kind, message="m"),
    )  # fmt: skip


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs")


def put(store, record):
    write_json_atomic(store.prepare(record.spec) / "record.json", record)
    return store.folder(record.run_id)


# --- states -----------------------------------------------------------------------------------


def test_states(store, one):
    spec = one()
    assert store.state(spec.run_id) == "absent"
    assert not store.root.exists(), "reading created a folder"
    folder = store.prepare(spec)
    assert store.state(spec.run_id) == "unfinished"
    assert store.spec(spec.run_id) == spec
    write_json_atomic(folder / "record.json", failed(spec))
    assert store.state(spec.run_id) == "failed"
    assert store.record(spec.run_id).failure.kind == "crash"


def test_a_lock_alone_is_no_run(store, one):
    with store.lock(one().run_id):
        assert store.state(one().run_id) == "absent"
    assert store.run_ids() == []


def test_checkpoints_count_only_when_complete(tmp_path):
    assert last_checkpoint(tmp_path) is None
    for step, complete in ((9, True), (10, True), (20, False)):
        folder = tmp_path / "checkpoints" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        if complete:
            (folder / "complete").touch()
    (tmp_path / "checkpoints" / "checkpoint-x").mkdir()
    assert last_checkpoint(tmp_path) == 10


# --- names ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "/etc", "a\0b", ".hidden", "x" * 201, "a b", "-x"]
)
def test_unsafe_names_are_refused(store, name):
    with pytest.raises(StoreError, match="not the name of a run"):
        store.folder(name)


def test_find(store, grid):
    specs = grid("--seed", "0,1")
    for spec in specs:
        store.prepare(spec)
    first, second = (spec.run_id for spec in specs)
    assert store.find(first) == [first]
    assert store.find(first[:-2]) == [first]
    assert store.find(second.rpartition("-")[2][:6]) == [second]
    assert store.find("stub-task") == sorted([first, second])
    assert store.find("nothing") == store.find("") == []


# --- reuse ------------------------------------------------------------------------------------


def test_other_settings_are_never_reused(store, one):
    spec = one()
    folder = store.prepare(spec)
    stored = json.loads((folder / "spec.json").read_text())
    stored["train"]["epochs"] = 9.0
    stored["strategy"]["settings"]["r"] = 64
    (folder / "spec.json").write_text(json.dumps(stored))
    with pytest.raises(StoreError) as caught:
        store.prepare(spec)
    assert "train.epochs: stored 9.0, asked for 2.0" in str(caught.value)
    assert "strategy.settings.r: stored 64, asked for 8" in str(caught.value)
    assert "--force" in caught.value.remedy


def test_where_a_plugin_lies_is_no_difference(one):
    spec = one()
    moved = spec.model_copy(update={"plugins": (spec.plugins[0].model_copy(update={"path": "/else.py"}),)})
    assert differences(spec, moved) == {}
    edited = spec.model_copy(update={"plugins": (spec.plugins[0].model_copy(update={"sha256": "0"}),)})
    assert list(differences(spec, edited)) == ["plugins.0.sha256"]


def test_a_failed_run_is_not_reused(store, one, stub_registry):
    put(store, failed(one()))
    assert reusable(one(), store, stub_registry) is None


# --- broken and foreign content -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"schema_version": 1, "run_id"', "broken or cut off"),
        ("", "broken or cut off"),
        ("[]", "schema version None"),
        ("null", "schema version None"),
        ('{"schema_version": 2}', "schema version 2"),
        ('{"schema_version": 1, "surprise": 1}', "does not fit this medtune"),
    ],
)
def test_a_bad_record_names_its_file_and_the_remedy(store, one, content, expected):
    spec = one()
    path = store.prepare(spec) / "record.json"
    path.write_text(content)
    with pytest.raises(StoreError) as caught:
        store.state(spec.run_id)
    assert expected in str(caught.value)
    assert str(path) in str(caught.value)
    assert "--force" in caught.value.remedy


def test_a_record_of_bytes(store, one):
    path = store.prepare(one()) / "record.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StoreError, match="not text"):
        store.record(one().run_id)


def test_a_record_in_another_runs_folder(store, grid):
    first, second = grid("--seed", "0,1")
    write_json_atomic(store.prepare(first) / "record.json", failed(second))
    with pytest.raises(StoreError, match="is the record of"):
        store.record(first.run_id)


def test_rubbish_is_reported_and_left_alone(store, grid):
    good, cut_off, unfinished = grid("--seed", "0,1,2")
    put(store, failed(good))
    (put(store, failed(cut_off)) / "record.json").write_text("{")
    store.prepare(unfinished)
    (store.root / "notes.txt").write_text("mine")
    (store.root / "folder of mine").mkdir()
    (store.root / "empty").mkdir()
    (store.root / ".hidden").touch()
    records, problems = store.records()
    assert [record.run_id for record in records] == [good.run_id]
    text = "\n".join(problems)
    assert len(problems) == 4
    for name in ("notes.txt", "folder of mine", "empty", cut_off.run_id):
        assert name in text
    assert (store.root / "notes.txt").read_text() == "mine"


# --- disks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("code", "expected"),
    [(errno.ENOSPC, "no space left"), (errno.EACCES, "permission denied"), (errno.EROFS, "read-only")],
)
def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch, function, code, expected):
    path = tmp_path / "record.json"
    write_text_atomic(path, "old")

    def fail(*args):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(StoreError) as caught:
        write_json_atomic(path, {"new": 1})
    assert expected in str(caught.value)
    assert str(path) in str(caught.value)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["record.json"], "a temporary file was left"


def test_nan_is_never_written(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json_atomic(tmp_path / "x.json", {"x": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_a_root_that_is_a_file(tmp_path, one):
    root = tmp_path / "runs"
    root.write_text("mine")
    with pytest.raises(StoreError, match="is a file"):
        Store(root)
    with pytest.raises(StoreError, match="not a folder"):
        Store(root / "below").prepare(one())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission(tmp_path, one):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StoreError, match="permission denied"):
            Store(tmp_path / "runs").prepare(one())
    finally:
        tmp_path.chmod(0o700)


# --- locks ------------------------------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from harness.store.runs import Store
with Store(Path(sys.argv[1])).lock(sys.argv[2]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused(store, one):
    run_id = one().run_id
    command = [sys.executable, "-c", HOLD, str(store.root), run_id]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as holder:
        try:
            assert holder.stdout.readline() == b"held\n"
            with pytest.raises(UsageError) as caught, store.lock(run_id):
                pass
            assert f"pid {holder.pid}" in str(caught.value)
            with pytest.raises(UsageError):
                store.set_aside(run_id)
            assert store.folder(run_id).exists()
        finally:
            holder.kill()
    with store.lock(run_id) as descriptor:  # a killed holder holds nothing
        assert os.pread(descriptor, 100, 0).split()[0] == str(os.getpid()).encode()


def test_a_child_keeps_the_lock(store, one):
    """The lock outlives its parent's hold as long as a child that inherited it lives."""
    run_id = one().run_id
    with store.lock(run_id) as descriptor:
        child = subprocess.Popen(["sleep", "60"], pass_fds=(descriptor,))
    try:
        with pytest.raises(UsageError), store.lock(run_id):
            pass
    finally:
        child.kill()
        child.wait()
    with store.lock(run_id):
        pass


# --- replacing --------------------------------------------------------------------------------


def test_set_aside_put_back_and_drop(store, one):
    spec = one()
    assert store.set_aside(spec.run_id) is None
    put(store, failed(spec))
    aside = store.set_aside(spec.run_id)
    assert store.state(spec.run_id) == "absent"
    assert store.records() == ([], [])
    store.put_back(spec.run_id, aside)
    assert store.state(spec.run_id) == "failed"
    aside = store.set_aside(spec.run_id)
    other = aside.with_name("other-run-20260101T000000.000000Z")
    other.mkdir()
    store.drop_replaced(spec.run_id)
    assert not aside.exists()
    assert other.exists(), "another run's result was deleted"


@pytest.mark.parametrize("kind", ["link", "link to nothing", "hard link", "pipe", "folder"])
def test_a_lock_that_is_no_file_of_its_own_is_refused(store, one, tmp_path, kind):
    """Who holds a lock is written into it: through a link that would be into another file."""
    folder = store.prepare(one())
    victim, lock = tmp_path / "victim", folder / "lock"
    if kind != "link to nothing":
        victim.write_text("precious")
    if kind.startswith("link"):
        lock.symlink_to(victim)
    elif kind == "hard link":
        lock.hardlink_to(victim)
    elif kind == "pipe":
        os.mkfifo(lock)
    else:
        lock.mkdir()
    with pytest.raises(StoreError, match="no lock") as caught, store.lock(one().run_id):
        pass
    assert caught.value.remedy == f"Remove {lock}."
    assert victim.exists() == (kind != "link to nothing")
    assert not victim.exists() or victim.read_text() == "precious"


@pytest.mark.parametrize(
    ("noted", "told"),
    [
        (b"9" * 150, "another process"),
        (b"9" * 5000, "another process"),
        (b"\xff\x00 1e9 -1", "another process"),
        ("٣٣".encode(), "another process"),
        (b"123 456 on:elsewhere\n", "another process (pid 123 on elsewhere)"),
        (b"123 on:x\x1b[31m", "another process (pid 123 on x\\x1b[31m)"),
    ],
)
def test_whatever_a_held_lock_says_is_one_line(store, one, noted, told):
    run_id = one().run_id
    with store.lock(run_id) as descriptor:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, noted, 0)
        with pytest.raises(UsageError) as caught, store.lock(run_id):
            pass
    assert caught.value.message == f"run {run_id} is being run by {told}"


def test_a_process_id_of_a_dead_holder_names_no_one(store, one):
    """The lock is free as soon as its last holder ends: what it says of others is not asked."""
    run_id = one().run_id
    with store.lock(run_id) as descriptor:
        os.pwrite(descriptor, b"1 2 3 4 5 6 7 8 9\n", 0)
    with store.lock(run_id) as descriptor:
        assert os.pread(descriptor, 100, 0).split()[0] == str(os.getpid()).encode()
