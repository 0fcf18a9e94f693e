"""PubMedQA: the official split by PMID, lm-eval's prompt byte for byte, and bad files."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from lm_eval.tasks.pubmedqa import preprocess_pubmedqa

from harness.contracts import DataSource, Splits
from harness.errors import DataError
from tasks.pubmedqa import LABELS, OfficialSplit, PubMedQA

DATA = Path(os.environ.get("HARNESS_DATA") or Path(__file__).parents[4] / "shared" / "data")
needs_data = pytest.mark.skipif(
    not (DATA / "pubmedqa").is_dir(),
    reason="no real PubMedQA rows here: set HARNESS_DATA to a folder with pubmedqa/",
)
TASK = PubMedQA()


def row(number: int, **changes: Any) -> dict[str, Any]:
    base = {"QUESTION": f"Is {number} odd?", "CONTEXTS": [f"Background {number}.", "Results."]}
    return {**base, "LONG_ANSWER": "SECRET", "final_decision": LABELS[number % 3], **changes}


def write(folder: Path, rows: dict[str, Any], test: dict[str, Any]) -> Path:
    (folder / "ori_pqal.json").write_text(json.dumps(rows, indent=1))
    (folder / "test_ground_truth.json").write_text(json.dumps(test, indent=1))
    return folder


def small(folder: Path, **changes: Any) -> Path:
    """Twelve rows of which four are tested; `changes` are made to row 5."""
    rows = {str(n): row(n) for n in range(12)}
    rows["5"].update(changes)
    return write(folder, rows, {str(n): LABELS[n % 3] for n in range(4)})


def load(folder: Path) -> Splits:
    return TASK.load(DataSource("dir", folder))


def test_official_split_facts() -> None:
    official = OfficialSplit.read()
    assert (len(official.test), len(official.validation)) == (500, 50)
    assert not official.test & official.validation
    raw = json.loads((Path(__file__).parents[3] / "tasks" / "pubmedqa_split.json").read_text())
    assert all(type(pmid) is int for pmids in raw.values() for pmid in pmids)


@needs_data
def test_real_rows_give_the_official_split() -> None:
    splits = load(DATA)
    train, validation, test = (
        {e.id for e in part} for part in (splits.train, splits.validation, splits.test)
    )
    assert (len(train), len(validation), len(test)) == (450, 50, 500)
    assert len(train | validation | test) == 1000
    assert test == set(json.loads((DATA / "pubmedqa" / "test_ground_truth.json").read_text()))
    labels = Counter(LABELS[example.gold] for example in splits.test)
    assert labels == {"yes": 276, "no": 169, "maybe": 55}
    assert (splits.comparable, splits.note) == (True, "")
    assert set(splits.files) == {"pubmedqa/ori_pqal.json", "pubmedqa/test_ground_truth.json"}


@needs_data
def test_prompts_are_lm_evals_on_real_rows() -> None:
    docs = json.loads((DATA / "pubmedqa" / "ori_pqal.json").read_text())
    for example in load(DATA).test:
        assert TASK.prompt(example, "letter") == preprocess_pubmedqa.doc_to_text(docs[example.id])
        assert TASK.target(example, "letter") == docs[example.id]["final_decision"]
        assert docs[example.id]["LONG_ANSWER"] not in TASK.prompt(example, "cloze")


def test_prompts_are_lm_evals_on_handmade_rows(tmp_path: Path) -> None:
    contexts = [" spaces stay ", "naïve – β", "three"]
    splits = load(small(tmp_path, CONTEXTS=contexts, QUESTION="Does it? "))
    by_id = {e.id: e for part in (splits.train, splits.validation, splits.test) for e in part}
    for number in range(12):
        doc = row(number, CONTEXTS=contexts, QUESTION="Does it? ") if number == 5 else row(number)
        example = by_id[str(number)]
        for scoring in ("letter", "cloze"):
            assert TASK.prompt(example, scoring) == preprocess_pubmedqa.doc_to_text(doc)
            assert TASK.choices(example, scoring) == ("yes", "no", "maybe")
        assert "SECRET" not in repr(example)


def test_a_folder_with_its_own_test_rows_is_not_comparable(tmp_path: Path) -> None:
    splits = load(small(tmp_path))
    assert {example.id for example in splits.test} == {"0", "1", "2", "3"}
    assert (len(splits.train), len(splits.validation)) == (7, 1)
    assert not splits.comparable
    assert "does not list the official 500 test PMIDs" in splits.note
    assert "holds 12 rows" in splits.note


def test_the_order_of_the_file_does_not_matter(tmp_path: Path) -> None:
    first = load(small(tmp_path))
    rows = json.loads((tmp_path / "ori_pqal.json").read_text())
    (tmp_path / "ori_pqal.json").write_text(json.dumps(dict(reversed(rows.items()))))
    second = load(tmp_path)
    assert (first.train, first.validation, first.test) == (second.train, second.validation, second.test)


BAD_ROWS: dict[str, tuple[dict[str, Any], str, str]] = {
    "label": (
        {"final_decision": "perhaps"},
        "'perhaps', expected one of yes, no, maybe",
        "Correct the label",
    ),
    "label of a wrong type": ({"final_decision": True}, "'final_decision' is true/false", "double quotes"),
    "question": ({"QUESTION": ""}, "'QUESTION' is empty", "delete this row"),
    "contexts of a wrong type": (
        {"CONTEXTS": "one text"},
        "the contexts are text, expected a list",
        "a list of texts",
    ),
    "no contexts": ({"CONTEXTS": []}, "the contexts are an empty list", "a list of texts"),
    "empty context": ({"CONTEXTS": ["one", " "]}, "context 2 is empty", "Fill it in"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_row(tmp_path: Path, case: str) -> None:
    changes, problem, remedy = BAD_ROWS[case]
    with pytest.raises(DataError) as caught:
        load(small(tmp_path, **changes))
    path = tmp_path / "ori_pqal.json"
    line = path.read_text().split("\n").index(' "5": {') + 1
    assert caught.value.message.startswith(f"{path}, line {line}: ")
    assert problem in caught.value.message
    assert remedy in caught.value.remedy


BAD_FILES: dict[str, tuple[str, str, str, str]] = {
    "broken": ("ori_pqal.json", '{\n"1": {oops}\n}', "line 2, column 7: broken JSON", "Copy ori_pqal.json again"),
    "cut short": ("ori_pqal.json", '{\n"1": {"QUESTION": "Q?"},', "cut short", "Copy ori_pqal.json again"),
    "a list": ("ori_pqal.json", "[1]", "line 1: holds a list, expected an object", "keyed by id"),
    "empty": ("ori_pqal.json", "", "the file is empty", "Copy ori_pqal.json again"),
    "no rows": ("test_ground_truth.json", "{}", "holds no rows", "Copy test_ground_truth.json again"),
    "row of a wrong type": ("ori_pqal.json", '{\n"1":\n 5}', "line 2: PMID 1 is a number", "Copy ori_pqal.json"),
    "id twice": (
        "test_ground_truth.json", '{"1": "no",\n"2": "maybe",\n"1": "no"}',
        "line 1 and line 3: the key '1' is written twice", "an id must be unique",
    ),
    "unknown PMID": (
        "test_ground_truth.json", '{"0": "yes",\n"99": "no"}', "line 2 (PMID 99): ", "from the same place",
    ),
    "another label": (
        "test_ground_truth.json", '{"0": "yes",\n"1": "maybe"}',
        "line 2 (PMID 1): the label is 'maybe', but 'final_decision' is 'no' at", "from the same place",
    ),
    "a label that is none": (
        "test_ground_truth.json", '{"0": "yess"}', "did you mean 'yes'?", "Correct the label",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file(tmp_path: Path, case: str) -> None:
    name, text, problem, remedy = BAD_FILES[case]
    small(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    assert caught.value.message.startswith(str(tmp_path / name))
    assert problem in caught.value.message
    assert remedy in caught.value.remedy


def test_a_missing_file_says_where_to_get_it(tmp_path: Path) -> None:
    (small(tmp_path) / "test_ground_truth.json").unlink()
    with pytest.raises(DataError, match=r"test_ground_truth\.json: no such file .* ori_pqal\.json") as caught:
        load(tmp_path)
    assert "github.com/pubmedqa/pubmedqa" in caught.value.remedy


def test_nothing_left_to_train_on(tmp_path: Path) -> None:
    write(tmp_path, {"0": row(0)}, {"0": "yes"})
    with pytest.raises(DataError, match="0 rows are left after the test rows"):
        load(tmp_path)
