"""Which file is which split, and that what a model is chosen by is not what it was trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.contracts import TRAINED_ON, DataSource, Splits
from harness.errors import DataError
from tasks._choice import clean_option, content
from tasks.medqa import MedQA
from tasks.pubmedqa import PubMedQA

TASK = MedQA()


def row(number: int, **changes: Any) -> dict[str, Any]:
    options = {letter: f"{letter} of {number}" for letter in "ABCD"}
    return {"question": f"Question {number}?", "options": options, "answer_idx": "B", **changes}


def write(folder: Path, **tables: Any) -> Path:
    for name, rows in tables.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(values) + "\n" for values in rows))
    return folder


def load(folder: Path, **tables: Any) -> Splits:
    return TASK.load(DataSource("dir", write(folder, **tables)))


TRAIN, TEST = [row(n) for n in range(40)], [row(n) for n in range(100, 108)]


@pytest.mark.parametrize(
    "name",
    [
        "dev.jsonl",
        "valid.jsonl",
        "val.jsonl",
        "devel.jsonl",
        "validation.json",
        "phrases_no_exclude_dev.jsonl",
    ],
)
def test_a_validation_split_by_any_usual_name_is_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("".join(json.dumps(row(n)) + "\n" for n in range(50, 58)))
    splits = load(tmp_path, train=TRAIN, test=TEST)
    assert (len(splits.train), len(splits.validation)) == (40, 8)
    assert [example.question for example in splits.validation] == [f"Question {n}?" for n in range(50, 58)]
    assert "cut from train" not in splits.note
    assert set(splits.files) == {"train.jsonl", name, "test.jsonl"}
    assert splits.notices == ()
    assert TASK.files(DataSource("dir", tmp_path)) == {file: tmp_path / file for file in splits.files}


def test_two_files_for_one_split_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"2 files for the validation split: dev\.jsonl, valid\.jsonl"):
        load(tmp_path, train=TRAIN, test=TEST, dev=TEST, valid=TEST)


def test_a_usual_name_goes_before_one_that_ends_in_it(tmp_path: Path) -> None:
    splits = load(tmp_path, train=TRAIN, test=TEST, old_test=TEST[:3])
    assert len(splits.test) == 8
    assert splits.notices == (f"{tmp_path}: not read: old_test.jsonl",)
    assert "not read: old_test.jsonl" in splits.note


def test_a_link_that_leads_nowhere_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "validation.jsonl").symlink_to(tmp_path / "gone.jsonl")
    with pytest.raises(DataError, match=r"validation\.jsonl: no such file"):
        load(tmp_path, train=TRAIN, test=TEST)


# --- parts --------------------------------------------------------------------------------------


def test_the_parts_trained_on_leave_the_test_file_unread(tmp_path: Path) -> None:
    whole = load(tmp_path, train=TRAIN, test=TEST)
    (tmp_path / "test.jsonl").write_text("not to be read")
    part = TASK.load_parts(DataSource("dir", tmp_path), TRAINED_ON)
    assert (part.train, part.validation, part.test) == (whole.train, whole.validation, ())
    assert set(part.files) == {"train.jsonl"}


@pytest.mark.parametrize("task", [MedQA(), PubMedQA()])
def test_parts_of_the_sample_are_those_of_the_whole(task: Any) -> None:
    whole, part = task.load(DataSource("sample")), task.load_parts(DataSource("sample"), TRAINED_ON)
    assert (part.train, part.validation, part.test) == (whole.train, whole.validation, ())


# --- repeats ------------------------------------------------------------------------------------


def shouted(values: dict[str, Any]) -> dict[str, Any]:
    """The same item, written otherwise."""
    options = {letter: f" {text.upper()}" for letter, text in values["options"].items()}
    return {**values, "question": values["question"].replace(" ", "  ").upper(), "options": options}


@pytest.mark.parametrize("again", [dict, shouted])
def test_rows_of_one_content_stay_on_one_side_of_the_cut(tmp_path: Path, again: Any) -> None:
    splits = load(tmp_path, train=[r for values in TRAIN for r in (values, again(values))], test=TEST)
    assert (len(splits.train), len(splits.validation)) == (72, 8)
    trained, held = ({content(example) for example in part} for part in (splits.train, splits.validation))
    assert (len(trained), len(held)) == (36, 4)
    assert not trained & held
    assert "36 training rows repeat another" in splits.note


def test_the_cut_of_repeats_depends_on_no_order(tmp_path: Path) -> None:
    rows = [r for values in TRAIN for r in (values, shouted(values))]
    first = load(tmp_path, train=rows, test=TEST)
    second = load(tmp_path, train=rows[::-1], test=TEST)
    assert {content(e) for e in first.validation} == {content(e) for e in second.validation}


def test_one_item_many_times_cannot_be_cut(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="all 12 training rows are the same item"):
        load(tmp_path, train=[row(1)] * 12, test=TEST)
    splits = load(tmp_path, train=[row(1)] * 12 + [row(2)] * 5, test=TEST)
    assert (len(splits.train), len(splits.validation)) == (12, 5)


def test_repeats_between_given_splits_are_counted(tmp_path: Path) -> None:
    splits = load(tmp_path, train=TRAIN, validation=[row(3), row(60)], test=[shouted(row(4)), *TEST])
    assert "leakage: 1 test items are also in train or validation" in splits.note
    assert "1 validation items are also in train" in splits.note


def test_the_pubmedqa_cut_keeps_its_size() -> None:
    splits = PubMedQA().load(DataSource("sample"))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (200, 50, 100)


# --- optional columns ---------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["meta_info", "subgroup", "id", "answer"])
@pytest.mark.parametrize("value", ["", "  ", None])
def test_an_empty_optional_column_is_as_one_that_is_missing(tmp_path: Path, column: str, value: Any) -> None:
    splits = load(tmp_path, train=TRAIN, test=[{**values, column: value} for values in TEST])
    assert splits.test == load(tmp_path, train=TRAIN, test=TEST).test


def test_an_empty_subgroup_leaves_the_exam_step(tmp_path: Path) -> None:
    splits = load(tmp_path, train=TRAIN, test=[row(1, subgroup="", meta_info="step1")])
    assert splits.test[0].subgroup == "step1"


# --- quote marks --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "cleaned"),
    [
        ('Zinc\n"', "Zinc"),
        ('Zinc "', "Zinc"),
        ('" Zinc', "Zinc"),
        (" Zinc ", "Zinc"),
        ('"Have you heard of it?"', '"Have you heard of it?"'),
        ('the word "cancer"', 'the word "cancer"'),
        ("5'9\"", "5'9\""),
        ('"', '"'),
    ],
)
def test_a_quote_mark_left_in_an_option_is_not_scored(option: str, cleaned: str) -> None:
    assert clean_option(option) == cleaned


def test_a_quote_mark_left_in_an_option_refuses_no_file(tmp_path: Path) -> None:
    """`answer` is the clean text; the letter's prompt stays as lm-eval writes it."""
    options = {"A": "Iron", "B": "Zinc", "C": "Iodine", "D": 'Cobalt\n"'}
    rows = [row(1, options=options, answer_idx="D", answer="Cobalt")]
    splits = load(tmp_path, train=TRAIN, test=rows)
    (example,) = splits.test
    assert TASK.choices(example, "cloze") == ("Iron", "Zinc", "Iodine", "Cobalt")
    assert TASK.prompt(example, "letter").endswith('D. Cobalt\n"\nAnswer:')
    assert "1 test items have a quote mark left in an option" in splits.note
