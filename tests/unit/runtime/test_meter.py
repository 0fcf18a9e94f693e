"""Time and memory of phases: each its own, and nothing that was not measured."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from harness.errors import EXIT_USAGE, UsageError
from harness.runtime import meter as module
from harness.runtime.meter import Meter, host_memory_bytes, memory_now

CPU = torch.device("cpu")
MEGABYTE = 2**20


def allocate(megabytes: int) -> None:
    np.ones(megabytes * MEGABYTE, dtype=np.uint8)


def test_a_phases_peak_is_its_own() -> None:
    meter = Meter(CPU)
    with meter.phase("load"):
        pass
    with meter.phase("train"):
        allocate(200)
    with meter.phase("evaluate"):
        allocate(20)
    before, high, after = (phase.host_memory_peak_bytes for phase in meter.phases)
    if before is None:
        pytest.skip("this kernel cannot reset the high-water mark")
    assert high is not None
    assert after is not None
    assert high - before > 190 * MEGABYTE
    assert after - before < 60 * MEGABYTE
    assert meter.peaks()["host_memory_peak_bytes"] == high
    assert [phase.name for phase in meter.phases] == ["load", "train", "evaluate"]


def test_without_a_gpu_its_figures_are_none() -> None:
    meter = Meter(CPU)
    with meter.phase("train"):
        allocate(1)
    for measured in (meter.phases[0].model_dump(), meter.peaks()):
        for name in ("allocated", "reserved", "device"):
            assert measured[f"gpu_memory_{name}_peak_bytes"] is None
    assert meter.energy.joules() is None
    assert memory_now(CPU)[1] == "host"


def test_where_the_peak_cannot_be_reset_a_phase_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CLEAR_REFS", Path("/no/such/file"))
    meter = Meter(CPU)
    with meter.phase("train"):
        allocate(1)
    assert meter.phases[0].host_memory_peak_bytes is None
    peak = meter.peaks()["host_memory_peak_bytes"]
    assert peak is not None
    assert peak > 50 * MEGABYTE


def test_where_nothing_tells_there_is_no_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_STATUS", Path("/no/such/file"))
    assert module.host_peak_bytes() is None
    assert (host_memory_bytes() or 0) > MEGABYTE  # psutil tells


def test_seconds_are_of_the_phase_and_the_first_takes_in_the_start() -> None:
    before = time.perf_counter()
    meter = Meter(CPU, started_seconds_ago=5.0)
    with meter.phase("load"):
        time.sleep(0.02)
    between = time.perf_counter()
    with meter.phase("train"):
        time.sleep(0.05)
    after = time.perf_counter()
    first, second = (phase.seconds for phase in meter.phases)
    assert 5.02 <= first <= 5.0 + between - before
    assert 0.05 <= second <= after - between
    assert meter.seconds("train") == second
    assert meter.seconds("save") is None
    assert meter.total_seconds() >= first + second


def test_a_phase_that_fails_is_measured_and_named() -> None:
    meter = Meter(CPU)
    with pytest.raises(ZeroDivisionError), meter.phase("train"):
        _ = 1 / 0
    assert meter.current == "train"
    assert [phase.name for phase in meter.phases] == ["train"]


def test_processes_are_combined(monkeypatch: pytest.MonkeyPatch) -> None:
    """The highest GPU's peak, and the sum of host memory."""
    meter = Meter(CPU)
    with meter.phase("train"):
        pass
    own = meter.phases[0].model_copy(
        update={"gpu_memory_allocated_peak_bytes": 100, "host_memory_peak_bytes": 10}
    )
    meter.phases[0] = own
    others = [
        own.model_dump(),
        {**own.model_dump(), "gpu_memory_allocated_peak_bytes": 300, "host_memory_peak_bytes": 5},
    ]

    def gather(into: list[Any], mine: Any) -> None:
        assert mine == {
            name: value for name, value in own.model_dump().items() if name.endswith("_peak_bytes")
        }
        into[:] = others

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    meter.combine_processes("train")
    assert meter.phases[0].gpu_memory_allocated_peak_bytes == 300
    assert meter.phases[0].gpu_memory_device_peak_bytes is None
    assert meter.phases[0].host_memory_peak_bytes == 15


def test_age_and_memory_where_there_is_no_proc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from harness.runtime import device, meter

    with_proc = device.process_age_seconds()
    monkeypatch.setattr(device, "_STAT", tmp_path / "none")
    monkeypatch.setattr(meter, "_STATUS", tmp_path / "none")
    monkeypatch.setattr(meter, "_CLEAR_REFS", tmp_path / "none" / "none")
    assert device.process_age_seconds() == pytest.approx(with_proc, abs=5)
    assert (meter.host_memory_bytes() or 0) > 2**20
    measured = meter.Meter(torch.device("cpu"))
    with measured.phase("load"):
        pass
    assert measured.phases[0].host_memory_peak_bytes is None
    assert (measured.peaks()["host_memory_peak_bytes"] or 0) > 2**20
    (limit,) = measured.limits()
    assert "only the whole run's is known" in limit


def test_what_is_measured_in_full_has_no_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.runtime import meter

    monkeypatch.setattr(meter, "_reset_host_peak", lambda: True)
    assert Meter(CPU).limits() == []


def test_a_run_says_once_that_phases_host_peaks_are_not_known(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A run that is refused at once: what is said of the machine comes first, to the user and the record."""
    from harness.runtime import execute, meter
    from harness.spec import ModelSpec, RunSpec, StrategySpec, TaskSpec

    told: list[Any] = []

    def refused(run: Any) -> None:
        told.append(list(run.events.notices))
        raise UsageError("refused")

    monkeypatch.setattr(meter, "_CLEAR_REFS", tmp_path / "none" / "none")
    monkeypatch.setattr(execute.Run, "go", refused)
    spec = RunSpec(
        model=ModelSpec(name="m"), strategy=StrategySpec(name="zero-shot"), task=TaskSpec(name="medqa")
    )
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    assert execute.main(tmp_path) == EXIT_USAGE
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    (notice,) = (event["text"] for event in events if event["event"] == "notice")
    assert "peaks of host memory are not measured phase by phase" in notice
    assert told == [[notice]]


def test_the_driver_where_there_is_no_proc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By NVML (WSL), or not at all."""
    from harness.runtime import device

    class Error(Exception):
        pass

    def absent() -> None:
        raise Error

    monkeypatch.setattr(device, "_DRIVER", tmp_path / "none")
    nvml = SimpleNamespace(nvmlInit=lambda: None, nvmlSystemGetDriverVersion=lambda: "570.1", NVMLError=Error)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert device._driver() == "570.1"
    nvml.nvmlInit = absent
    assert device._driver() is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert device._driver() is None
