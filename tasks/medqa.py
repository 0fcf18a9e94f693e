"""MedQA (USMLE, four options): Jin et al. 2020, What Disease does this Patient Have?, arXiv 2009.13081.

Prompts and choices are those of lm-eval's `medqa_4options`. The official sizes are 10,178 train,
1,272 validation and 1,273 test; the Hub's copy has train and test only, so validation is cut from
train by a fixed rule (`_choice.cut_validation`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from harness.contracts import PARTS, DataSource, Example, Part, Splits
from harness.errors import DataError
from tasks._choice import (
    ChoiceTask,
    Parsed,
    check_across,
    choice_metrics,
    clean_option,
    content_id,
    cut_validation,
    join_notes,
    quote_note,
    repeats_note,
    row_id,
    same_options_note,
    unique_ids,
)
from tasks._hub import load_hub
from tasks._read import Folder, Row, type_name
from tasks._splits import split_files, unread_files

LETTERS = ("A", "B", "C", "D")
ENDINGS = ("ending0", "ending1", "ending2", "ending3")
EXPECTED = "train.jsonl, test.jsonl and, where there is one, validation.jsonl (or valid, val, dev)"
CUT_NOTE = "no validation split: {rows} rows were cut from train by a fixed rule"


class MedQA(ChoiceTask):
    """Four-option questions in the style of the US medical licensing exam."""

    name = "medqa"
    title = "MedQA"
    summary = "USMLE-style exam questions, four options"
    source = "arXiv 2009.13081; prompts of lm-eval's medqa_4options"
    metrics = choice_metrics(len(LETTERS), normalised=True)
    class_names = LETTERS
    hub_id = "GBaker/MedQA-USMLE-4-options"

    def load(self, source: DataSource) -> Splits:
        """Read and check all splits. Raises `DataError` naming the file and line of a bad row."""
        return self.load_parts(source, PARTS)

    def load_parts(self, source: DataSource, parts: Collection[Part]) -> Splits:
        """Read and check these splits; the files of the others stay unread."""
        if source.kind == "hub":
            return self._load_hub(parts)
        if source.kind == "sample":
            return self._load_sample(parts)
        folder = Folder.find(source.path, self.name, EXPECTED)
        names = split_files(folder)
        rows = {part: folder.rows(name) for part, name in names.items() if part in parts}
        note = "read from a folder, which cannot show that it holds the official split"
        unread = unread_files(folder, names)
        notices = (f"{folder.base}: not read: {', '.join(unread)}",) if unread else ()
        return _splits(
            rows, self.title, "dir", comparable=False, note=note, files=folder.files, notices=notices
        )

    def files(self, source: DataSource, parts: Collection[Part] = PARTS) -> dict[str, Path] | None:
        if source.kind == "hub":
            return {}
        if source.kind == "sample":
            from tasks import sample

            return sample.files("facts")
        folder = Folder.find(source.path, self.name, EXPECTED)
        return dict(folder.path_of(name) for part, name in split_files(folder).items() if part in parts)

    def _load_hub(self, parts: Collection[Part]) -> Splits:
        there: tuple[Part, ...] = ("train", "test")
        found = load_hub(self.hub_id, splits=[part for part in there if part in parts])
        rows = {part: found.rows[part] for part in there if part in parts}
        return _splits(rows, self.title, "hub", comparable=True, revision=found.revision)

    def _load_sample(self, parts: Collection[Part]) -> Splits:
        from tasks import sample  # built only where it is asked for

        tables = sample.medqa_rows()
        rows = {
            part: [
                Row(values, f"built-in sample {part}, row {n}") for n, values in enumerate(tables[part], 1)
            ]
            for part in PARTS
            if part in parts
        }
        title, files = sample.MEDQA_TITLE, sample.file_hashes("facts")
        return _splits(rows, title, "sample", comparable=False, note=sample.NOTE, files=files)


def _splits(
    rows: Mapping[Part, list[Row]],
    title: str,
    source: Literal["hub", "dir", "sample"],
    *,
    comparable: bool,
    note: str = "",
    revision: str | None = None,
    files: dict[str, str] | None = None,
    notices: tuple[str, ...] = (),
) -> Splits:
    """The splits of these rows; those that are not among them are empty."""
    parsed: dict[Part, Parsed] = {
        name: [(row, _example(row)) for row in table] for name, table in rows.items()
    }
    splits = {name: unique_ids(table) for name, table in parsed.items()}
    check_across(parsed)
    train, validation, test = (splits.get(part, ()) for part in PARTS)
    cut_note = ""
    if train and not validation:
        if len(train) < 2:
            raise DataError(
                f"{rows['train'][0].where}: the only training row, and there is no validation split",
                "Add training rows, or a validation split: validation rows are cut from train.",
            )
        train, validation = cut_validation(train)
        cut_note = CUT_NOTE.format(rows=len(validation))
    return Splits(
        train=train,
        validation=validation,
        test=test,
        title=title,
        source=source,
        revision=revision,
        comparable=comparable,
        note=join_notes(
            note,
            cut_note,
            repeats_note(train, validation, test),
            same_options_note(test),
            quote_note(test),
            *notices,
        ),
        files=files or {},
        notices=notices,
    )


def _example(row: Row) -> Example:
    """A row in either of the Hub's column layouts."""
    if "sent1" in row.values or "ending0" in row.values:
        question, options = row.text("sent1"), tuple(row.text(ending) for ending in ENDINGS)
        gold = row.index("label", len(options))
    else:
        question = row.text("question")
        options = _options(row)
        gold = row.label("answer_idx", LETTERS)
        _check_answer(row, options, gold)
    identity = row_id(row) or content_id(question, options)
    return Example(identity, question, options, gold, subgroup=_subgroup(row), cluster=_cluster(row))


def _options(row: Row) -> tuple[str, ...]:
    options: Any = row.get("options")
    remedy = 'Write the options as {"A": "...", "B": "...", "C": "...", "D": "..."}.'
    if not isinstance(options, Mapping):
        raise row.error(f"'options' is {type_name(options)}, expected an object with A, B, C, D", remedy)
    if sorted(options) != list(LETTERS):
        there = ", ".join(sorted(map(str, options))) or "nothing"
        raise row.error(f"'options' holds {there}, expected exactly A, B, C, D", remedy)
    return tuple(row.check_text(options[letter], f"option {letter}") for letter in LETTERS)


def _check_answer(row: Row, options: tuple[str, ...], gold: int) -> None:
    answer = row.optional("answer")
    if answer and clean_option(answer) != clean_option(options[gold]):
        raise row.error(
            f"'answer' is '{answer}', but option {LETTERS[gold]} ('answer_idx') is '{options[gold]}'",
            "Correct 'answer' or 'answer_idx': the two must name the same option.",
        )


def _cluster(row: Row) -> str:
    """What makes items dependent (a vignette, a fact asked in several ways): the column `cluster`, if any."""
    value = row.values.get("cluster")
    return "" if value is None else row.check_text(value, "'cluster'")


def _subgroup(row: Row) -> str:
    """What accuracy is broken down by: a column `subgroup` where there is one, else the exam step."""
    return row.optional("subgroup") or row.optional("meta_info")
