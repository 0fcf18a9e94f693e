"""`compare` and `check` as a user types them, on real runs of a tiny model."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.ask.filters import Filters
from harness.cli import main, make_parser
from harness.evidence import saved
from harness.evidence.check import Finder
from harness.evidence.saved import SavedGroup

ROOT = Path(__file__).parents[2]


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


def harness(*words: str) -> Done:
    """The command line in this process; a run still has its own."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    return Done(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    few = ["--set", "train.max_steps=4", "--set", "train.limit=32", "--set", "model.dtype=float32"]
    done = harness(
        "run", "--strategy", "lora,zero-shot", "--task", "medqa", "--data", "sample", "--limit", "150",
        "--model", str(tiny_model_dir), "--scoring", "letter", "--results", str(folder), *few,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_real_runs_are_compared(results: Path) -> None:
    done = harness("compare", "lora", "zero-shot", "--results", str(results), "--format", "json")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)["comparisons"]
    assert sum(found["table"].values()) == 150
    assert found["audit"] == []
    assert {row["name"] for row in found["costs"]} >= {"trained share", "host memory peak"}


def test_a_run_passes_against_itself_and_its_file(results: Path, tmp_path: Path) -> None:
    where = ["--results", str(results)]
    assert harness("check", "--baseline", "lora", "--candidate", "lora", *where).returncode == 0
    file = str(tmp_path / "base.json.gz")
    assert harness("check", "--save", file, "--candidate", "lora", *where).returncode == 0
    done = harness("check", "--baseline", file, "--candidate", "lora", *where)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_anchor_is_run_again(results: Path, tmp_path: Path) -> None:
    """A baseline of an older environment: the anchor's new run shows that nothing moved."""
    finder = Finder(results, Filters())
    lora, zero = finder.one("lora"), finder.one("zero-shot")
    file = tmp_path / "old.json"
    saved.save(file, lora, [zero])
    content = saved.read(file)
    older = content.model_copy(
        update={"baseline": _older(content.baseline), "anchors": tuple(map(_older, content.anchors))}
    )
    saved.save(file, older.baseline.side(), [group.side() for group in older.anchors])
    words = ["--baseline", str(file), "--candidate", "zero-shot", "--gates", "quality", "--margin", "30"]
    done = harness("check", *words, "--results", str(results), "--anchor", "lora", "--format", "json")
    assert done.returncode == 0, done.stdout + done.stderr
    gates = {gate["name"]: gate for gate in json.loads(done.stdout)["gates"]}
    assert gates["environment"]["numbers"]["difference"] == 0  # the same seed gives the same answers
    assert gates["environment"]["outcome"] == "pass"
    assert gates["method"]["numbers"]["difference"] == gates["quality"]["numbers"]["difference"]
    assert "anchor medqa-lora" in done.stderr
    again = harness("check", *words, "--results", str(results), "--anchor", "lora", "--format", "json")
    assert again.stdout == done.stdout
    assert "anchor" not in again.stderr


def _older(group: SavedGroup) -> SavedGroup:
    def aged(record: Any) -> Any:
        packages = {**record.environment.packages, "torch": "2.0.0"}
        environment = record.environment.model_copy(update={"packages": packages, "fingerprint": "old"})
        return record.model_copy(update={"environment": environment})

    return group.model_copy(update={"records": tuple(map(aged, group.records))})


def test_the_workflow_in_the_docs_is_valid() -> None:
    import yaml

    text = (ROOT / "docs" / "check.md").read_text(encoding="utf-8")
    block = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert block is not None
    steps = yaml.safe_load(block[1])["jobs"]["check"]["steps"]
    for step in steps:
        line = step.get("run", "").partition(" > ")[0]
        if "-m harness" in line:
            make_parser().parse_args(shlex.split(line.partition("-m harness ")[2]))
