"""What a record says of the code and the machine."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness import provenance
from harness.evidence.audit import same_device
from harness.provenance import available_cores, fingerprint, git_state


def git(folder: Path, *words: str) -> str:
    settings = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-C", str(folder))
    done = subprocess.run(["git", *settings, *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "file").write_text("one")
    git(folder, "add", "file")
    git(folder, "commit", "-qm", "first")
    return folder.resolve()


def test_the_commit_is_of_the_checkout_that_the_code_lies_in(checkout: Path) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    assert git_state(checkout) == commit
    (checkout / "file").write_text("other")
    assert git_state(checkout) == f"{commit}-dirty"


def test_a_copy_installed_inside_another_repository_has_no_commit(checkout: Path) -> None:
    packages = checkout / ".venv" / "site-packages"
    packages.mkdir(parents=True)
    assert git_state(packages) is None


def test_a_repository_named_by_the_environment_is_not_ours(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a hook of the user's git."""
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "-q")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    monkeypatch.chdir(other)
    state = git_state(checkout)
    monkeypatch.delenv("GIT_DIR")
    monkeypatch.delenv("GIT_WORK_TREE")
    assert state == git(checkout, "rev-parse", "HEAD")


def test_asking_git_never_writes_the_index(checkout: Path) -> None:
    """A stale time in the index makes `git status` refresh it, under its lock."""
    index = checkout / ".git" / "index"
    os.utime(checkout / "file", (1, 1))
    before = index.read_bytes()
    assert git_state(checkout) is not None
    assert index.read_bytes() == before


def test_cores_where_the_system_has_no_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert available_cores() == 6


def test_cores_and_threads_are_in_the_fingerprint() -> None:
    same = {"torch": "2"}, "3.11", "cpu"
    assert fingerprint(*same, 8, 8) == fingerprint(*same, 8, 8)
    assert len({fingerprint(*same, 8, 8), fingerprint(*same, 4, 8), fingerprint(*same, 8, 4)}) == 3
    assert Path(__file__).resolve().parents[2] == provenance.ROOT


def test_costs_are_of_one_device_only_where_cores_and_threads_agree() -> None:
    def made_with(**more: int | None) -> Any:
        values = {"device_name": "cpu", "processes": 1, "parallel_runs": 1, "warm": False}
        return SimpleNamespace(environment=SimpleNamespace(**values, **{"cores": 8, "threads": 8, **more}))

    old = {"cores": None, "threads": None}
    assert same_device(made_with(), made_with())
    assert not same_device(made_with(), made_with(cores=4))
    assert not same_device(made_with(), made_with(threads=4))
    assert same_device(made_with(**old), made_with(**old))
    assert not same_device(made_with(), made_with(**old))
