"""What was cut, tied or there twice is said beside the numbers: in tables of every format and in `show`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from stored import command, write_run

from harness.record import RunRecord
from harness.store.inputs import of_record


def with_inputs(root: Path, run: str, **inputs: Any) -> None:
    path = root / run / "record.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"inputs": inputs or None}))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    cut = write_run(tmp_path, "few-shot", [1, 0] * 8, trains=False, shots=16)
    with_inputs(tmp_path, cut, truncated_items=5, truncated_item_tokens=70, shots_min=4, shots_mean=5.25)
    tied = write_run(tmp_path, "lora", [1, 1, 0, 0] * 4)
    with_inputs(tmp_path, tied, tied_items=9, repeated_gold_items=1, truncated_rows=3, truncated_row_tokens=8)
    older = write_run(tmp_path, "zero-shot", [0, 1] * 8, trains=False)
    with_inputs(tmp_path, older)
    return tmp_path


SAID = (
    "5 of 16 prompts do not fit the context and lost 70 tokens; of 16 worked examples they saw 5.2 on average, 4 at least",
    "all choices of 9 of 16 items score exactly the same",
    "1 of 16 items have the right answer's text more than once",
    "3 of 600 training examples do not fit train.max_length: their prompts lost 8 tokens",
)


@pytest.mark.parametrize("form", ["text", "markdown", "html", "latex", "json"])
def test_tables_say_it(form: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = command("report", root, capsys)("--format", form)
    assert code == 0
    text = " ".join(out.replace("&#x27;", "'").split())
    for sentence in SAID:
        assert sentence.replace("train.max_length", "train.max")[:30] in text.replace("\\_", "_")


def test_show_says_it(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run,) = (path.name for path in root.iterdir() if "few-shot" in path.name)
    _, out, _ = command("show", root, capsys)(run)
    assert SAID[0] in " ".join(out.split())


def test_nothing_is_said_of_a_run_that_was_shown_all(root: Path) -> None:
    (path,) = root.glob("*zero-shot*/record.json")
    assert of_record(RunRecord.model_validate_json(path.read_text())) == []
