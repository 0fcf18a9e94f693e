"""PubMedQA, expert-labelled part (PQA-L): Jin et al. 2019, arXiv 1909.06146.

The official test set is 500 of the 1,000 PMIDs; the other 500 are ten folds, and fold 0 is 450 to
train and 50 to validate. `pubmedqa_split.json` lists the PMIDs of both, and rows are chosen by
PMID, never by their order. (The test list is the authors' test_ground_truth.json. Their split
program, run on their data with Python 3, gives that list again and with it fold 0.)

The prompt is that of lm-eval's `pubmedqa`. LONG_ANSWER holds the conclusion and is never read.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.contracts import PARTS, DataSource, Example, Part, Scoring, Splits, Task
from harness.errors import DataError
from tasks._choice import choice_metrics, cut_validation, digest, join_notes, repeated_id, repeats_note
from tasks._hub import load_hub
from tasks._read import Document, Folder, Row, type_name

LABELS = ("yes", "no", "maybe")
ROWS = "ori_pqal.json"
TEST_LABELS = "test_ground_truth.json"
EXPECTED = f"{ROWS} and {TEST_LABELS} (from github.com/pubmedqa/pubmedqa, folder data)"
OFFICIAL_ROWS = 1000


class PubMedQA(Task):
    """Does an abstract answer its question with yes, no or maybe?"""

    name = "pubmedqa"
    title = "PubMedQA"
    summary = "a research question and its abstract: yes, no or maybe"
    source = "arXiv 1909.06146; the official 500 test PMIDs; prompt of lm-eval's pubmedqa"
    metrics = choice_metrics(len(LABELS), normalised=False)
    class_names = LABELS
    hub_id = "qiaojin/PubMedQA"

    def load(self, source: DataSource) -> Splits:
        """Read and check all splits. Raises `DataError` naming the file and line of a bad row."""
        if source.kind == "hub":
            return self._load_hub()
        if source.kind == "sample":
            return self._load_sample()
        return self._load_folder(source.path)

    def files(self, source: DataSource, parts: Collection[Part] = PARTS) -> dict[str, Path] | None:
        """Both files for any of the splits: one holds the rows of all, the other says which are tested."""
        if source.kind == "hub":
            return {}
        if source.kind == "sample":
            from tasks import sample

            return sample.files("abstracts")
        folder = Folder.find(source.path, self.name, EXPECTED)
        return dict(folder.path_of(name) for name in (ROWS, TEST_LABELS))

    def prompt(self, example: Example, scoring: Scoring) -> str:
        """The same in both scorings: the three answers are words, not letters."""
        return f"Abstract: {example.context}\nQuestion: {example.question}\nAnswer:"

    def choices(self, example: Example, scoring: Scoring) -> tuple[str, ...]:
        return self.class_names

    def _load_hub(self) -> Splits:
        found = load_hub(self.hub_id, config="pqa_labeled", splits=("train",))
        examples = _by_id((row, _hub_example(row)) for row in found.rows["train"])
        official = OfficialSplit.read()
        missing = sorted((official.test | official.validation) - examples.keys())
        if missing or len(examples) != OFFICIAL_ROWS:
            raise DataError(
                f"{self.hub_id} has {len(examples)} labelled rows and lacks {len(missing)} of the official "
                f"PMIDs{f' (first: {missing[0]})' if missing else ''}, expected the {OFFICIAL_ROWS} rows of PQA-L",
                f"The data set has changed on the Hub. Use --data DIR with {EXPECTED}.",
            )
        train, validation, test = _choose(examples, official.test, official.validation)
        return Splits(train, validation, test, self.title, "hub", found.revision, comparable=True)

    def _load_folder(self, root: Path | None) -> Splits:
        folder = Folder.find(root, self.name, EXPECTED)
        document = folder.document(ROWS)
        examples = {pmid: _folder_example(_document_row(document, pmid), pmid) for pmid in document.values}
        test = _test_ids(folder.document(TEST_LABELS), document, examples)
        official = OfficialSplit.read()
        is_official = test == official.test
        notes = []
        if not is_official:
            notes.append(f"{TEST_LABELS} does not list the official 500 test PMIDs")
        if len(examples) != OFFICIAL_ROWS or not official.validation <= examples.keys():
            notes.append(f"{ROWS} holds {len(examples)} rows and not the {OFFICIAL_ROWS} of PQA-L")
        rest = len(examples) - len(test)
        if rest < 2:
            raise DataError(
                f"{folder.base / ROWS}: {rest} rows are left after the test rows, expected some to train on",
                f"{TEST_LABELS} should name only part of {ROWS}. Copy both files again from the same place.",
            )
        usable = official.validation <= examples.keys() - test
        train, validation, test_rows = _choose(examples, test, official.validation if usable else None)
        return Splits(
            train,
            validation,
            test_rows,
            self.title,
            "dir",
            revision=None,
            comparable=not notes,
            note=join_notes(*notes, repeats_note(train, validation, test_rows)),
            files=folder.files,
        )

    def _load_sample(self) -> Splits:
        from tasks import sample  # built only where it is asked for

        splits = {}
        for name, table in sample.pubmedqa_rows().items():
            rows = (
                Row(values, f"built-in sample {name}, row {n}") for n, values in enumerate(table, start=1)
            )
            splits[name] = tuple(_by_id((row, _hub_example(row)) for row in rows).values())
        return Splits(
            splits["train"],
            splits["validation"],
            splits["test"],
            title=sample.PUBMEDQA_TITLE,
            source="sample",
            revision=None,
            comparable=False,
            note=sample.NOTE,
            files=sample.file_hashes("abstracts"),
        )


@dataclass(frozen=True, slots=True)
class OfficialSplit:
    """The PMIDs of the official test set and of fold 0's dev set."""

    test: frozenset[str]
    validation: frozenset[str]

    @classmethod
    def read(cls) -> OfficialSplit:
        """From the list that comes with this file."""
        facts = json.loads(Path(__file__).with_name("pubmedqa_split.json").read_text(encoding="utf-8"))
        return cls(frozenset(map(str, facts["test"])), frozenset(map(str, facts["validation"])))


def _choose(
    examples: dict[str, Example], test: Iterable[str], validation: Iterable[str] | None
) -> tuple[tuple[Example, ...], tuple[Example, ...], tuple[Example, ...]]:
    """Train, validation, test by PMID, each in an order that does not depend on the file's.

    Not PMID order either: `--limit` takes the first rows, and low PMIDs are old papers.
    """
    in_test = set(test)
    ordered = [examples[pmid] for pmid in sorted(examples, key=lambda pmid: digest("pubmedqa order", pmid))]
    rest = [example for example in ordered if example.id not in in_test]
    tested = tuple(example for example in ordered if example.id in in_test)
    if validation is None:
        return (*cut_validation(rest), tested)
    held = set(validation)
    kept = tuple(example for example in rest if example.id not in held)
    return kept, tuple(example for example in rest if example.id in held), tested


def _test_ids(labels: Document, rows: Document, examples: dict[str, Example]) -> frozenset[str]:
    """The PMIDs of `test_ground_truth.json`, each checked against its row."""
    for pmid, label in labels.values.items():
        row = Row({"label": label}, f"{labels.where(pmid)} (PMID {pmid})")
        gold = row.label("label", LABELS)
        if pmid not in examples:
            raise row.error(
                f"{rows.path} has no row for this PMID",
                f"Copy {ROWS} and {TEST_LABELS} again from the same place.",
            )
        if gold != examples[pmid].gold:
            raise row.error(
                f"the label is '{label}', but 'final_decision' is '{LABELS[examples[pmid].gold]}' "
                f"at {rows.where(pmid)}",
                f"Copy {ROWS} and {TEST_LABELS} again from the same place.",
            )
    return frozenset(labels.values)


def _by_id(parsed: Iterable[tuple[Row, Example]]) -> dict[str, Example]:
    seen: dict[str, tuple[Row, Example]] = {}
    for row, example in parsed:
        if example.id in seen:
            raise repeated_id(seen[example.id][0], row, example.id)
        seen[example.id] = (row, example)
    return {name: example for name, (_, example) in seen.items()}


def _document_row(document: Document, pmid: str) -> Row:
    values = document.values[pmid]
    if isinstance(values, dict):
        return Row(values, document.where(pmid))
    raise DataError(
        f"{document.where(pmid)}: PMID {pmid} is {type_name(values)}, expected an object",
        f"Copy {ROWS} again from where it came.",
    )


def _folder_example(row: Row, pmid: str) -> Example:
    """A row of ori_pqal.json, whose key is its PMID."""
    return _example(row, pmid, row.text("QUESTION"), row.get("CONTEXTS"))


def _hub_example(row: Row) -> Example:
    """A row in the Hub's columns, whose contexts are one level down."""
    pmid, context = row.get("pubid"), row.get("context")
    if not isinstance(context, dict) or "contexts" not in context:
        there = ", ".join(map(str, context)) if isinstance(context, dict) else type_name(context)
        raise row.error(
            f"'context' is {there or 'empty'}, expected an object with 'contexts'",
            'Write the abstract as {"contexts": ["one paragraph", "the next"]}.',
        )
    name = str(pmid) if type(pmid) is int else row.check_text(pmid, "'pubid'").strip()
    return _example(row, name, row.text("question"), context["contexts"])


def _example(row: Row, pmid: str, question: str, contexts: object) -> Example:
    if not isinstance(contexts, list) or not contexts:
        found = "an empty list" if contexts == [] else type_name(contexts)
        raise row.error(
            f"the contexts are {found}, expected a list of paragraphs",
            'Write the abstract as a list of texts: ["one paragraph", "the next"].',
        )
    # An empty paragraph is kept, as lm-eval keeps it; one of them must hold something.
    paragraphs = [_paragraph(row, text, n) for n, text in enumerate(contexts, start=1)]
    if not any(map(str.strip, paragraphs)):
        raise row.error("all contexts are empty", "Fill them in, or delete this row.")
    return Example(pmid, question, LABELS, row.label("final_decision", LABELS), context="\n".join(paragraphs))


def _paragraph(row: Row, text: object, number: int) -> str:
    return "" if text in ("", None) else row.check_text(text, f"context {number}")
