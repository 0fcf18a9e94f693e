"""Bad input: each case names the file and the line, says what was expected, and what to do."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.contracts import DataSource
from harness.errors import EXIT_USAGE, DataError
from tasks.medqa import MedQA
from tasks.pubmedqa import PubMedQA

Edit = Callable[[dict[str, Any]], object]


def medqa_row(number: int = 0) -> dict[str, Any]:
    options = {letter: f"option {letter} of {number}" for letter in "ABCD"}
    return {"question": f"Question {number}?", "answer": options["B"], "options": options, "answer_idx": "B"}


def hf_row(number: int = 0) -> dict[str, Any]:
    return {"sent1": f"Question {number}?", **{f"ending{k}": f"option {k}" for k in range(4)}, "label": 2}


def write(folder: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def medqa(tmp_path: Path) -> Path:
    for start, split in enumerate(("train", "validation", "test")):
        write(tmp_path, f"{split}.jsonl", [medqa_row(10 * start + n) for n in range(3)])
    return tmp_path


def refused(folder: Path, task: type[MedQA] | type[PubMedQA] = MedQA) -> DataError:
    with pytest.raises(DataError) as caught:
        task().load(DataSource("dir", folder))
    assert caught.value.exit_code == EXIT_USAGE
    assert caught.value.remedy
    return caught.value


def rename(old: str, new: str) -> Edit:
    return lambda row: row.update({new: row.pop(old)})


def option(letter: str, value: object) -> Edit:
    return lambda row: row["options"].update({letter: value})


BAD_ROWS: dict[str, tuple[Edit, str, str]] = {
    "missing column": (
        lambda row: row.pop("question"),
        "column 'question' is missing (there: answer, answer_idx, options)",
        "every row needs 'question'",
    ),
    "misspelt column": (rename("question", "qestion"), "did you mean 'qestion'?", "Rename or add"),
    "missing label": (lambda row: row.pop("answer_idx"), "column 'answer_idx' is missing", "Rename or add"),
    "question of a wrong type": (
        lambda row: row.update(question=7), "'question' is a number, expected text", "double quotes",
    ),
    "question null": (lambda row: row.update(question=None), "'question' is null", "double quotes"),
    "question empty": (lambda row: row.update(question=" "), "'question' is empty", "delete this row"),
    "question with half a character": (
        lambda row: row.update(question="\ud83d?"), "half of a \\u escape pair", "ensure_ascii=False",
    ),
    "options of a wrong type": (
        lambda row: row.update(options=["a", "b", "c", "d"]), "'options' is a list, expected an object", '{"A":',
    ),
    "an option missing": (
        lambda row: row["options"].pop("D"), "'options' holds A, B, C, expected exactly A, B, C, D", '{"A":',
    ),
    "an option too many": (option("E", "five"), "'options' holds A, B, C, D, E", '{"A":'),
    "an option empty": (option("C", ""), "option C is empty", "delete this row"),
    "an option of a wrong type": (option("C", 4.5), "option C is a number, expected text", "double quotes"),
    "label out of range": (
        lambda row: row.update(answer_idx="E"), "'answer_idx' is 'E', expected one of A, B, C, D", "Correct",
    ),
    "label in lower case": (lambda row: row.update(answer_idx="b"), "did you mean 'B'?", "upper and lower case"),
    "label of a wrong type": (lambda row: row.update(answer_idx=1), "'answer_idx' is a number", "double quotes"),
    "answer is another option": (
        lambda row: row.update(answer_idx="C"), "but option C ('answer_idx') is", "must name the same option",
    ),
    "step of a wrong type": (lambda row: row.update(meta_info=1), "'meta_info' is a number", "double quotes"),
    "id of a wrong type": (lambda row: row.update(id=[1]), "'id' is a list, expected text", "double quotes"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_row(medqa: Path, case: str) -> None:
    edit, problem, remedy = BAD_ROWS[case]
    rows = [medqa_row(n) for n in range(3)]
    edit(rows[1])
    path = write(medqa, "train.jsonl", rows)
    error = refused(medqa)
    assert error.message.startswith(f"{path}, line 2: ")
    assert problem in error.message
    assert remedy in error.remedy


@pytest.mark.parametrize(
    ("label", "problem"),
    [
        (4, "'label' is 4, expected a whole number from 0 to 3"),
        (-1, "'label' is -1, expected"),
        (True, "'label' is true/false, expected"),
        (1.0, "'label' is a number, expected"),
        ("2", "'label' is text, expected"),
        (None, "'label' is null, expected"),
    ],
)
def test_a_bad_numeric_label(medqa: Path, label: object, problem: str) -> None:
    path = write(medqa, "test.jsonl", [hf_row(), {**hf_row(1), "label": label}])
    error = refused(medqa)
    assert f"{path}, line 2: {problem}" in error.message
    assert "counted from 0" in error.remedy


BAD_TEXTS: dict[str, tuple[str, str, str]] = {
    "broken line": (
        '{good}\n{{"question": oops}}\n{good}\n',
        "line 2, column 14: broken JSON",
        "Mend this line",
    ),
    "half-written last line": (
        '{good}\n{good}\n{{"question": "What',
        "line 3, column 14: the last line is half-written",
        "cut short",
    ),
    "not an object": (
        "{good}\n[1, 2]\n",
        "line 2: the line is a list, expected a JSON object",
        "a line of its own",
    ),
    "empty": ("", "the file is empty, expected one JSON object a line", "at least one row"),
    "only blank lines": ("\n \n\n", "the file is empty", "at least one row"),
}


@pytest.mark.parametrize("case", BAD_TEXTS)
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_bad_file(medqa: Path, split: str, case: str) -> None:
    text, problem, remedy = BAD_TEXTS[case]
    good = json.dumps(medqa_row(50))
    path = medqa / f"{split}.jsonl"
    path.write_text(text.replace("{good}", "{0}").format(good))
    error = refused(medqa)
    assert error.message.startswith(str(path))
    assert problem in error.message
    assert remedy in error.remedy


def test_not_utf8(medqa: Path) -> None:
    path = medqa / "train.jsonl"
    path.write_bytes(json.dumps(medqa_row()).encode() + b'\n{"question": "caf\xe9"}\n')
    error = refused(medqa)
    assert error.message == f"{path}, line 2: not UTF-8 text (byte 0xe9); it looks like Windows-1252"
    assert "iconv" in error.remedy


def test_missing_file_lists_what_is_there(medqa: Path) -> None:
    (medqa / "test.jsonl").rename(medqa / "tets.jsonl")
    error = refused(medqa)
    assert error.message.startswith(f"{medqa / 'test.jsonl'}: no such file (the folder holds: ")
    assert "did you mean 'tets.jsonl'?" in error.message
    assert "Expected train.jsonl, test.jsonl" in error.remedy


def test_missing_folder(tmp_path: Path) -> None:
    error = refused(tmp_path / "nowhere")
    assert error.message == f"{tmp_path / 'nowhere'}: no such folder"
    assert str(tmp_path / "nowhere" / "medqa") in error.remedy


def test_a_file_where_a_folder_is_expected(medqa: Path) -> None:
    assert "is a file, expected a folder" in refused(medqa / "train.jsonl").message


def test_a_folder_where_a_file_is_expected(medqa: Path) -> None:
    (medqa / "test.jsonl").unlink()
    (medqa / "test.jsonl").mkdir()
    assert refused(medqa).message == f"{medqa / 'test.jsonl'}: is a folder, expected a file"


@pytest.mark.parametrize(
    "owner", [(os, "open"), (Path, "exists"), (Path, "iterdir")], ids=lambda owner: owner[1]
)
def test_no_permission(medqa: Path, monkeypatch: pytest.MonkeyPatch, owner: tuple[Any, str]) -> None:
    def forbidden(path: Path, *_: object) -> bytes:  # chmod would not stop a test run by root
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(*owner, forbidden)
    error = refused(medqa)
    assert str(medqa) in error.message
    assert "no permission" in error.message
    assert "chmod" in error.remedy


def test_duplicate_id_names_both_lines(medqa: Path) -> None:
    path = write(medqa, "train.jsonl", [{**medqa_row(n), "id": name} for n, name in enumerate("abca")])
    error = refused(medqa)
    assert error.message == f"{path}, line 4: id 'a' is already used by {path}, line 1"
    assert "an id of its own" in error.remedy


def test_one_id_for_two_items_of_different_files(medqa: Path) -> None:
    train = write(medqa, "train.jsonl", [{**medqa_row(n), "id": n} for n in range(2)])
    test = write(medqa, "test.jsonl", [{**medqa_row(9), "id": 1}])
    error = refused(medqa)
    assert error.message == f"{test}, line 1: id '1' is already used for another item by {train}, line 2"
    assert "leave 'id' out of every row" in error.remedy


def test_one_training_row_cannot_be_cut(medqa: Path) -> None:
    (medqa / "validation.jsonl").unlink()
    path = write(medqa, "train.jsonl", [medqa_row()])
    error = refused(medqa)
    assert error.message.startswith(f"{path}, line 1: the only training row")
    assert "Add training rows" in error.remedy


def test_what_is_not_an_error(medqa: Path) -> None:
    """A byte order mark, CRLF, blank lines, no last newline, and U+2028 inside a text."""
    rows = [
        json.dumps({**medqa_row(n), "question": f"one\u2028line {n}"}, ensure_ascii=False) for n in range(3)
    ]
    (medqa / "train.jsonl").write_bytes(b"\xef\xbb\xbf" + "\r\n\r\n".join(rows).encode())
    splits = MedQA().load(DataSource("dir", medqa))
    assert [example.question for example in splits.train] == [f"one\u2028line {n}" for n in range(3)]
