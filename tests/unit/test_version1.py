"""Runs as an earlier medtune stored them: read as before, with the same figures, found under their old names.

fixtures/version1/runs was made by the last medtune before settings at their defaults left the names of runs (a tiny
random model on the built-in sample, its folder's name replaced), report.csv and report.json by its `report`.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.ask.identity import described_anew, strategy_spec
from harness.cli import main
from harness.evidence.outcomes import groups
from harness.registry import load_registry
from harness.spec import RunSpec
from harness.store.runs import Store, differences

FIXTURE = Path(__file__).parents[1] / "fixtures" / "version1"
RENAMED = {
    "gpu_memory_bytes": "gpu_memory_reserved_peak_bytes",
    "host_memory_bytes": "host_memory_peak_bytes",
}
OTHERWISE = {"results", "created", "version", "command"}
"""What depends on where and when a report is made; `command` names the results folder."""


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FIXTURE / "runs", tmp_path / "runs"))


def report(runs: Path, name: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["report", "--results", str(runs), "--format", name]) == 0
    return capsys.readouterr().out


def differing(old: Any, new: Any, where: str = "") -> list[str]:
    """Where `new` lacks something of `old`, or has it otherwise."""
    if isinstance(old, dict):
        names = {key: RENAMED.get(key, key) for key in old if key not in OTHERWISE}
        if lacking := [key for key, name in names.items() if name not in new]:
            return [f"{where}: no {', '.join(lacking)}"]
        return [
            line for key, name in names.items() for line in differing(old[key], new[name], f"{where}.{key}")
        ]
    if isinstance(old, list):
        if len(old) != len(new):
            return [f"{where}: {len(old)} and {len(new)}"]
        return [
            line
            for i, pair in enumerate(zip(old, new, strict=True))
            for line in differing(*pair, f"{where}[{i}]")
        ]
    return [] if old == new else [f"{where}: {old!r} and {new!r}"]


def test_every_figure_of_the_json_report_is_as_it_was(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = json.loads((FIXTURE / "report.json").read_text(encoding="utf-8"))
    assert len(old["tables"]) == 1
    assert differing(old, json.loads(report(runs, "json", capsys))) == []


def test_every_figure_of_the_csv_report_is_as_it_was(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = (
        list(csv.DictReader(io.StringIO(text)))
        for text in ((FIXTURE / "report.csv").read_text(encoding="utf-8"), report(runs, "csv", capsys))
    )
    assert len(old) > 5
    assert differing(old, new) == []


def specs() -> list[RunSpec]:
    return [
        RunSpec.model_validate_json(path.read_text(encoding="utf-8"))
        for path in sorted((FIXTURE / "runs").glob("*/spec.json"))
    ]


@pytest.mark.parametrize("spec", specs(), ids=lambda spec: spec.run_id)
def test_an_old_spec_keeps_its_name_and_is_found_for_the_new_one(spec: RunSpec, runs: Path) -> None:
    assert (runs / spec.run_id / "record.json").is_file()
    strategy = load_registry(with_installed=False).strategy(spec.strategy.name)()
    asked = spec.model_copy(update={"strategy": strategy_spec(strategy, spec.model.dtype)})
    assert described_anew(spec) == asked
    assert differences(spec, asked) == {}
    (stored,) = Store(runs).as_stored([asked])
    assert stored.run_id == spec.run_id


def test_seeds_of_either_age_are_one_group(runs: Path) -> None:
    store = Store(runs)
    records, _ = store.records()
    anew = [
        record.model_copy(update={"spec": described_anew(record.spec)}) if record.spec.seed == 1 else record
        for record in records
    ]
    assert [(own.label, own.seeds) for own in groups(anew)] == [
        (own.label, own.seeds) for own in groups(records)
    ]
    assert (0, 1) in [own.seeds for own in groups(anew)]


def test_a_run_of_another_value_is_not_taken_for_it(runs: Path) -> None:
    spec = next(spec for spec in specs() if spec.strategy.name == "lora")
    other = strategy_spec(load_registry(with_installed=False).strategy("lora")(r=4), spec.model.dtype)
    asked = spec.model_copy(update={"strategy": other})
    assert Store(runs).as_stored([asked]) == [asked]
    assert "strategy.settings.r" in differences(spec, asked)
