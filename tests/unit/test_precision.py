"""What `model.dtype=auto` means, on devices that this machine is not: chosen, told, stored and repeated."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from stored import write_run
from stubs import ROOT

import harness.ask.precision as module
from harness.ask.identity import described_anew
from harness.ask.precision import Device, Precision, cpu_flags, this_device, x86_bfloat16
from harness.ask.repeat import repeat_command
from harness.ask.study import parse_grid
from harness.cli import main, make_parser
from harness.commands.run import departures
from harness.errors import UsageError
from harness.registry import load_registry
from harness.spec import RunSpec
from harness.store.runs import Store

NEW_CPU = Device("cpu", "this CPU", bfloat16=True)
OLD_CPU = Device("cpu", "this CPU", bfloat16=False)
A100 = Device("cuda", "NVIDIA A100", bfloat16=True)
T4 = Device("cuda", "Tesla T4", bfloat16=False)
MAIN = ["run", "--strategy", "zero-shot,qlora", "--task", "medqa", "--data", "sample"]


def specs_on(device: Device, *words: str, told: list[str] | None = None) -> list[RunSpec]:
    args = make_parser().parse_args([*(MAIN if not words or words[0] != "run" else []), *words])
    return parse_grid(args, load_registry(), None if told is None else told.append, Precision(lambda: device))


def dtypes(specs: list[RunSpec]) -> set[str]:
    return {spec.model.dtype for spec in specs}


@pytest.mark.parametrize(
    ("device", "dtype"), [(NEW_CPU, "bfloat16"), (OLD_CPU, "float32"), (A100, "bfloat16"), (T4, "float16")]
)
def test_auto_is_the_default_and_follows_the_device(device: Device, dtype: str) -> None:
    told: list[str] = []
    specs = specs_on(device, told=told)
    assert dtypes(specs) == {dtype}
    assert specs_on(device, "--set", "model.dtype=auto") == specs
    assert specs[1].strategy.settings["compute_dtype"] == dtype
    assert all(departures(spec)["model.dtype"] == dtype for spec in specs)
    reasons = [line for line in told if line.startswith(f"model.dtype={dtype}: ")]
    assert len(reasons) == (0 if dtype == "bfloat16" else 1)
    if device is T4:
        assert "Tesla T4 has no bfloat16" in reasons[0]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_what_is_asked_for_is_taken_and_no_device_asked(dtype: str) -> None:
    def ask() -> Device:
        raise AssertionError("the device was asked")

    args = make_parser().parse_args([*MAIN, "--set", f"model.dtype={dtype}"])
    told: list[str] = []
    specs = parse_grid(args, load_registry(), told.append, Precision(ask))
    assert dtypes(specs) == {dtype}
    assert specs[1].strategy.settings["compute_dtype"] == dtype
    assert told == []


def test_a_compute_dtype_of_its_own_stays() -> None:
    specs = specs_on(OLD_CPU, "--set", "strategy.compute_dtype=bfloat16")
    assert specs[1].strategy.settings["compute_dtype"] == "bfloat16"


def test_runs_stored_when_bfloat16_was_the_default_keep_their_names() -> None:
    stored = [
        spec.model_copy(update={"strategy": spec.strategy.model_copy(update={"at_default": None})})
        for spec in specs_on(NEW_CPU)
    ]  # as they were described then
    assert [spec.run_id.rpartition("-")[2] for spec in stored] == ["f00a8077", "1dffe26c"]
    assert [described_anew(spec) for spec in stored] == specs_on(NEW_CPU)


def test_another_precision_is_another_run() -> None:
    names = {spec.run_id for device in (NEW_CPU, OLD_CPU, T4) for spec in specs_on(device)}
    assert len(names) == 6
    asked = specs_on(NEW_CPU, "--set", "model.dtype=float32")
    assert [spec.run_id for spec in asked] == [spec.run_id for spec in specs_on(OLD_CPU)]


def test_a_stored_spec_never_says_auto() -> None:
    with pytest.raises(ValueError, match="auto"):
        RunSpec.model_validate({"model": {"dtype": "auto"}, "strategy": {"name": "x"}, "task": {"name": "y"}})


def test_the_command_repeats_the_precision_on_any_machine() -> None:
    registry = load_registry()
    for stored in [*specs_on(NEW_CPU), *specs_on(OLD_CPU), *specs_on(T4)]:
        command = repeat_command(stored, registry.strategies[stored.strategy.name])
        for device in (NEW_CPU, OLD_CPU, T4):
            (again,) = specs_on(device, *shlex.split(command)[3:])
            assert again == stored


def test_float16_is_not_trained_in_by_deepspeed() -> None:
    full = ["run", "--strategy", "full", "--task", "medqa", "--data", "sample"]
    told: list[str] = []
    assert dtypes(specs_on(T4, *full, told=told)) == {"float32"}
    assert any("Tesla T4 has no bfloat16, and the deepspeed engine" in line for line in told)
    assert dtypes(specs_on(T4, *full, "--engine", "plain")) == {"float16"}
    with pytest.raises(UsageError, match="--engine plain"):
        specs_on(T4, *full, "--set", "model.dtype=float16")


def test_looking_at_stored_runs_asks_no_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    correct = [int(i % 3 > 0) for i in range(60)]
    runs = [write_run(tmp_path, name, correct) for name in ("lora", "full")]
    before = {
        run: (tmp_path / run / "spec.json").read_bytes()
        for run in runs
        if (tmp_path / run / "spec.json").exists()
    }

    def ask() -> Device:
        raise AssertionError("the device was asked")

    monkeypatch.setattr(module, "this_device", ask)
    for words in (["list", "runs"], ["show", runs[0]], ["report"], ["compare", *runs]):
        assert main([*words, "--results", str(tmp_path)]) == 0
        shown = capsys.readouterr().out
        assert "float32" not in shown, words
    assert all((tmp_path / run / "spec.json").read_bytes() == text for run, text in before.items())
    assert {Store(tmp_path).record(run).spec.model.dtype for run in runs} == {"bfloat16"}


def test_show_report_and_audit_say_the_precision(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    correct = [int(i % 3 > 0) for i in range(60)]
    runs = [
        write_run(tmp_path, "lora", correct, dtype="float32"),
        write_run(tmp_path, "full", correct, dtype="bfloat16"),
    ]
    said = []
    for words in (["show", runs[0]], ["report"], ["compare", *runs]):
        assert main([*words, "--results", str(tmp_path)]) == 0
        said.append(capsys.readouterr().out)
    show, report, compare = said
    assert "model.dtype" in show
    assert '"float32"' in show
    assert "Computed in different precisions" in " ".join(report.split())
    for text in (report, compare):
        assert "precision" in text
        assert "float32" in text
        assert "bfloat16" in text


@pytest.mark.parametrize(
    ("flags", "environment", "multiplies"),
    [
        ("fpu avx2 avx512f avx512_bf16", {}, True),
        ("fpu avx2 amx_bf16", {}, True),
        ("fpu avx2 avx512f avx512bw avx512_vnni", {}, False),  # PyTorch says yes: oneDNN emulates it
        ("fpu avx2", {}, False),
        ("avx512_bf16", {"ONEDNN_MAX_CPU_ISA": "AVX2"}, False),
        ("avx512_bf16", {"ONEDNN_MAX_CPU_ISA": "avx512_core"}, False),
        ("avx512_bf16", {"DNNL_MAX_CPU_ISA": "AVX512_CORE_VNNI"}, False),
        ("avx512_bf16", {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16", "DNNL_MAX_CPU_ISA": "AVX2"}, True),
        ("avx512_bf16", {"ONEDNN_MAX_CPU_ISA": "", "DNNL_MAX_CPU_ISA": "AVX2"}, False),
        ("avx512_bf16", {"ONEDNN_MAX_CPU_ISA": "ALL"}, True),
        ("avx512_bf16", {"ATEN_CPU_CAPABILITY": "avx2"}, True),  # not what multiplies bfloat16
    ],
)
def test_flags_and_limits_of_a_cpu(flags: str, environment: dict[str, str], multiplies: bool) -> None:
    assert x86_bfloat16(flags.split(), environment) is multiplies


def test_flags_are_read_from_the_first_processor(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(
        "processor\t: 0\nvmx flags\t: x\nflags\t\t: fpu avx512_bf16\nprocessor\t: 1\nflags\t\t: fpu\n"
    )
    assert cpu_flags(file) == {"fpu", "avx512_bf16"}
    assert cpu_flags(tmp_path / "none") == frozenset()


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64" or bool(module.visible_gpus()),
    reason="flags are read on Linux and x86 without a GPU",
)
@pytest.mark.parametrize(
    "limits", [{}, {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}], ids=["all", "AVX2"]
)
def test_the_flags_agree_with_pytorch(limits: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in limits.items():
        monkeypatch.setenv(name, value)
    by_flags = this_device()
    assert by_flags == module._ask_torch()
    script = "import torch; print(torch.ops.mkldnn._is_mkldnn_bf16_supported())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    pytorch = done.stdout.strip() == "True"
    assert pytorch or not by_flags.bfloat16
    if limits:
        assert not pytorch


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["-c", "import sys; sys.exit('no module named torch')"], "no module named torch"),
        (["-c", "print('not JSON')"], "Expecting value"),
        (["-c", ""], "index out of range"),
    ],
)
def test_a_pytorch_that_does_not_answer_is_an_error(
    command: list[str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = subprocess.run
    monkeypatch.setattr(
        module.subprocess, "run", lambda words, **options: run([sys.executable, *command], **options)
    )
    with pytest.raises(UsageError, match=told) as caught:
        module._ask_torch()
    assert "model.dtype=float32" in caught.value.remedy


def test_planning_on_a_cpu_imports_no_pytorch() -> None:
    script = (
        "import sys; from harness.cli import main; "
        "main(['run', '--strategy', 'qlora', '--task', 'medqa', '--data', 'sample', '--dry-run', '--results', '/nonexistent']); "
        "sys.exit('torch' in sys.modules)"
    )
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "model.dtype" in done.stdout
