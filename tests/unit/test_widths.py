"""Every table at 60, 80 and 120 columns: nothing is cut, and names can be copied."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from stored import write_run

from harness.cli import main
from harness.report.as_text import as_text
from harness.report.build import build_report
from harness.report.options import Options
from harness.store.runs import Store

WIDTHS = (60, 80, 120)
RIGHT = [1, 0] * 60


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Three seeds of two methods, one failed run, one of a long name, and one without training."""
    root = tmp_path / "results"
    for seed in (0, 1, 2):
        write_run(root, "lora", RIGHT, seed=seed)
        write_run(root, "qlora", RIGHT[::-1], seed=seed, settings={"target_modules": ["q_proj", "v_proj"]})
    write_run(root, "full", RIGHT, failed=True)
    write_run(root, "zero-shot", RIGHT, trains=False)
    write_run(root, "a-method-of-somebody-with-a-long-name", RIGHT, model="m/" + "long-model-name-" * 3)
    return root


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    main(list(words))
    return capsys.readouterr().out.splitlines()


COMMANDS = (
    "list strategies", "list strategies -v", "list tasks", "list models", "list runs", "report", "show RUN",
    "compare lora qlora", "check --baseline BASE --candidate RUN",
)  # fmt: skip


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("command", COMMANDS)
def test_tables_fit_and_cut_no_word(
    command: str,
    width: int,
    results: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ids = Store(results).run_ids()
    run, base = (next(i for i in ids if f"-{name}-" in i) for name in ("qlora", "lora"))
    words = shlex.split(command.replace("RUN", run).replace("BASE", base))
    where = [] if words[0] == "list" and words[1] != "runs" else ["--results", str(results)]
    monkeypatch.setenv("COLUMNS", "1000")
    whole = {word for line in shown(capsys, *words, *where) for word in line.split()}
    monkeypatch.setenv("COLUMNS", str(width))
    lines = shown(capsys, *words, *where)
    assert lines
    in_table = [
        line
        for line in lines
        if (re.match(r" [ ─]", line) or re.match(r"-{3,}$", line)) and not re.match(r"  (python -m|-) ", line)
    ]
    for line in in_table:
        # A line may be longer only where it is one name.
        assert len(line) <= width or len(line.split()) <= 2, line
    # Where rows are written one below the other a colon follows each header.
    cut = (
        {word for line in in_table for word in line.split() if not re.fullmatch("[─-]{2,}", word)}
        - whole
        - {"-"}
    )
    assert not {word for word in cut if word.rstrip(":") not in whole}


@pytest.mark.parametrize("width", WIDTHS)
def test_a_report_fits_the_terminal(width: int, results: Path) -> None:
    options = Options(command=lambda records: "python -m harness run", confidences=True)
    report = build_report(Store(results), options)
    lines = [line for line in as_text(report, width).splitlines() if not line.startswith("  python -m")]
    whole = {word for line in as_text(report, 1000).splitlines() for word in line.split()}
    for line in lines:
        assert len(line) <= width or len(line.split()) <= 2, line
        for word in line.split():
            assert word.rstrip(":") in whole or word in whole | {"(continued)"} or not word.strip("-="), line


@pytest.mark.parametrize("width", WIDTHS)
def test_a_runs_name_stands_on_one_line(
    width: int, results: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    lines = shown(capsys, "list", "runs", "--results", str(results))
    for run_id in Store(results).run_ids():
        assert any(run_id in line.split() for line in lines), run_id
