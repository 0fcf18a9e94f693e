"""Fixtures for the tests around a run's process: a stub plugin and a child that only pretends."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import pytest
from stubs import FAKE_CHILD, PLUGIN, ROOT, parse

import harness.launch.local as local
from harness.ask.study import parse_grid
from harness.registry import Registry, load_registry
from harness.spec import RunSpec


@pytest.fixture
def stub_registry() -> Registry:
    return load_registry([PLUGIN])


@pytest.fixture
def grid(stub_registry: Registry) -> Callable[..., list[RunSpec]]:
    return lambda *words, notify=None: parse_grid(parse(*words), stub_registry, notify)


@pytest.fixture
def one(grid: Callable[..., list[RunSpec]]) -> Callable[..., RunSpec]:
    def only(*words: str) -> RunSpec:
        (spec,) = grid(*words)
        return spec

    return only


@pytest.fixture
def fake_child(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes every run be executed by fake_child.py in the mode given."""
    inherited = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), inherited])))

    def use(mode: str) -> None:
        monkeypatch.setattr(
            local,
            "exec_command",
            lambda folder, processes: [sys.executable, str(FAKE_CHILD), mode, str(folder)],
        )

    use("ok")
    return use
