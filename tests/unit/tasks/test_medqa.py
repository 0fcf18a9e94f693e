"""MedQA: lm-eval's prompt byte for byte, both column layouts, ids, the validation cut, notes."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
from pathlib import Path
from typing import Any

import pytest
from lm_eval.tasks.medqa import preprocess_medqa

from harness.contracts import DataSource, Splits
from harness.errors import DataError
from tasks.medqa import MedQA

DATA = Path(os.environ.get("HARNESS_DATA") or Path(__file__).parents[4] / "shared" / "data")
needs_data = pytest.mark.skipif(
    not (DATA / "medqa").is_dir(), reason="no real MedQA rows here: set HARNESS_DATA to a folder with medqa/"
)
TASK = MedQA()


def hub_row(number: int, **changes: Any) -> dict[str, Any]:
    options = {letter: f"{letter} of {number}" for letter in "ABCD"}
    gold = "ABCD"[number % 4]
    row = {"question": f"Question {number}?", "answer": options[gold], "options": options}
    return {**row, "answer_idx": gold, "meta_info": "step1", **changes}


def to_hf(row: dict[str, Any]) -> dict[str, Any]:
    endings = {f"ending{k}": row["options"][letter] for k, letter in enumerate("ABCD")}
    return {"sent1": row["question"], **endings, "label": "ABCD".index(row["answer_idx"])}


def load(folder: Path, **tables: list[dict[str, Any]]) -> Splits:
    for name, rows in tables.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return TASK.load(DataSource("dir", folder))


def assert_prompts_are_lm_evals(splits: Splits, rows: list[dict[str, Any]]) -> None:
    assert len(splits.test) == len(rows)
    for example, row in zip(splits.test, rows, strict=True):
        doc = to_hf(row)
        assert TASK.prompt(example, "letter") == preprocess_medqa.doc_to_text(doc)
        assert example.gold == preprocess_medqa.doc_to_target(doc)
        assert TASK.choices(example, "letter") == ("A", "B", "C", "D")
        assert TASK.target(example, "letter") == row["answer_idx"]
        assert TASK.prompt(example, "cloze") == f"Question: {row['question']}\nAnswer:"
        # The published table's last column ends, now and then, in a quote mark that nothing opened.
        cleaned = tuple(text.strip().removesuffix('\n"') for text in row["options"].values())
        assert TASK.choices(example, "cloze") == cleaned


def test_prompts_are_lm_evals_on_handmade_rows(tmp_path: Path) -> None:
    spaced = {"A": " leads", "B": "trails ", "C": "naïve – β", "D": "two\nlines"}
    rows = [hub_row(0), hub_row(1, question="  Spaces stay? \n", options=spaced, answer="trails ")]
    train = [hub_row(n) for n in range(10, 20)]
    assert_prompts_are_lm_evals(load(tmp_path, train=train, test=rows), rows)


@needs_data
def test_prompts_are_lm_evals_on_real_rows() -> None:
    rows = [json.loads(line) for line in (DATA / "medqa" / "test.jsonl").read_text().split("\n") if line]
    assert_prompts_are_lm_evals(TASK.load(DataSource("dir", DATA)), rows)


@needs_data
def test_real_rows_are_a_development_cut() -> None:
    splits = TASK.load(DataSource("dir", DATA))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (700, 100, 473)
    assert {example.subgroup for example in splits.test} == {"step1", "step2&3"}
    assert not splits.comparable
    assert "cannot show that it holds the official split" in splits.note
    assert set(splits.files) == {f"medqa/{name}.jsonl" for name in ("train", "validation", "test")}


def test_both_layouts_give_the_same_items(tmp_path: Path) -> None:
    rows = [hub_row(n, meta_info=None) for n in range(8)]
    (tmp_path / "hub").mkdir()
    (tmp_path / "hf").mkdir()
    hub = load(tmp_path / "hub", train=rows[:6], test=rows[6:])
    hf = load(tmp_path / "hf", train=[to_hf(row) for row in rows[:6]], test=[to_hf(row) for row in rows[6:]])
    assert (hub.train, hub.validation, hub.test) == (hf.train, hf.validation, hf.test)


def test_a_row_may_name_its_cluster(tmp_path: Path) -> None:
    splits = load(
        tmp_path,
        train=[hub_row(n) for n in range(20)],
        test=[{**hub_row(30), "cluster": "vignette 1"}, hub_row(31)],
    )
    assert [e.cluster for e in splits.test] == ["vignette 1", ""]
    with pytest.raises(DataError, match="cluster"):
        load(tmp_path, train=[hub_row(n) for n in range(20)], test=[{**hub_row(30), "cluster": 7}])


def test_ids_are_made_from_the_text_and_repeats_are_numbered(tmp_path: Path) -> None:
    train = [hub_row(n) for n in range(10, 20)]
    splits = load(tmp_path, train=train, test=[hub_row(1), hub_row(2), hub_row(1)])
    first, second, again = (example.id for example in splits.test)
    text = json.dumps(["Question 1?", "A of 1", "B of 1", "C of 1", "D of 1"])
    assert first == hashlib.sha256(text.encode()).hexdigest()[:16]
    assert again == f"{first}-2"
    assert second not in (first, again)


def test_validation_cut_depends_on_neither_order_nor_seed(tmp_path: Path) -> None:
    rows = [hub_row(n) for n in range(100, 150)]
    first = load(tmp_path, train=rows, test=[hub_row(1)])
    random.Random(7).shuffle(rows)
    second = load(tmp_path, train=rows, test=[hub_row(1)])
    assert (len(first.train), len(first.validation)) == (45, 5)
    assert {e.id for e in first.validation} == {e.id for e in second.validation}
    assert not {e.id for e in first.validation} & {e.id for e in first.train}
    assert "5 rows were cut from train by a fixed rule" in first.note


def test_a_large_train_split_gives_1000_to_validation(tmp_path: Path) -> None:
    splits = load(tmp_path, train=[hub_row(n) for n in range(10_178)], test=[hub_row(20_000)])
    assert (len(splits.train), len(splits.validation)) == (9178, 1000)


def test_leakage_is_noted_and_does_not_fail(tmp_path: Path) -> None:
    train = [hub_row(n) for n in range(20)]
    splits = load(
        tmp_path, train=train, validation=[hub_row(30)], test=[hub_row(3), hub_row(30), hub_row(40)]
    )
    assert len(splits.test) == 3
    assert "leakage: 2 test items are also in train or validation" in splits.note


def test_two_options_with_one_text_are_kept_and_noted(tmp_path: Path) -> None:
    row = hub_row(0, options={"A": "same", "B": "same", "C": "c", "D": "d"}, answer="same")
    splits = load(tmp_path, train=[hub_row(n) for n in range(5, 9)], test=[row])
    assert splits.test[0].options == ("same", "same", "c", "d")
    assert "1 test items have two options with the same text" in splits.note


def test_files_are_hashed_by_their_path_under_the_folder(tmp_path: Path) -> None:
    (tmp_path / "medqa").mkdir()
    load_from = tmp_path / "medqa"
    for name in ("train", "test"):
        (load_from / f"{name}.jsonl").write_text("".join(json.dumps(hub_row(n)) + "\n" for n in range(4)))
    splits = TASK.load(DataSource("dir", tmp_path))
    expected = hashlib.sha256((load_from / "test.jsonl").read_bytes()).hexdigest()
    assert splits.files["medqa/test.jsonl"] == expected
    assert (splits.source, splits.revision, splits.title) == ("dir", None, "MedQA")


def test_metrics_say_what_guessing_reaches() -> None:
    chance = {metric.name: metric.chance for metric in TASK.metrics}
    assert chance == {
        "accuracy": 0.25, "accuracy_norm": 0.25, "macro_f1": None, "nll": math.log(4), "brier": 0.75, "ece": None,
    }  # fmt: skip
    assert {metric.name for metric in TASK.metrics if not metric.higher_is_better} == {"nll", "brier", "ece"}
