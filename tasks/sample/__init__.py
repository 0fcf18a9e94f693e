"""The built-in sample: small original data in the columns of the Hub's MedQA and PubMedQA.

Built from `facts/*.jsonl` and `abstracts/*.jsonl`, the same on every machine: each choice is a sort
by SHA-256, which no Python version changes. See README.md beside this file.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tasks._choice import digest

MEDQA_TITLE = "MedQA (built-in sample)"
PUBMEDQA_TITLE = "PubMedQA (built-in sample)"
NOTE = "the built-in sample: a score on it says nothing about medical skill and is not comparable"

HERE = Path(__file__).parent
SALT = "medtune sample"  # changing it changes every row
LETTERS = "ABCD"
SEEN_TEST_ROWS = 150
UNSEEN_TEST_ROWS = 50
VALIDATION_ROWS = 100
ABSTRACTS_VALIDATION_ROWS = 50
ABSTRACTS_TEST_ROWS = 100

Table = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact: an answer, and the wordings that ask for it."""

    id: str
    answer: str
    wordings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Facts whose answers can stand as each other's wrong options."""

    name: str
    subject: str
    step: str
    facts: tuple[Fact, ...]
    unseen: tuple[Fact, ...]


def read_groups() -> tuple[Group, ...]:
    """The table of facts, by group name."""
    groups = [
        Group(row["group"], row["subject"], row["step"], _facts(row["facts"]), _facts(row.get("unseen", [])))
        for row in _lines("facts")
    ]
    return tuple(sorted(groups, key=lambda group: group.name))


def file_hashes(folder: str) -> dict[str, str]:
    """SHA-256 of each file the sample is built from; `folder` is "facts" or "abstracts"."""
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files(folder).items()}


def files(folder: str) -> dict[str, Path]:
    """The files the sample is built from, by the names under which their hashes are stored."""
    return {f"{folder}/{path.name}": path for path in _files(folder)}


def medqa_rows() -> Table:
    """Train, validation and test rows in the columns of the Hub's MedQA.

    Wordings 1 and 2 of every fact are trained. Wording 3 is asked in validation or in test, never
    of one fact in both, and test also asks facts that are never trained (`subgroup` "unseen").
    """
    return copy.deepcopy(_medqa())


def pubmedqa_rows() -> Table:
    """200 train, 50 validation, 100 test rows in the Hub's columns, labels in equal shares."""
    return copy.deepcopy(_pubmedqa())


@cache
def _medqa() -> Table:
    groups = read_groups()
    test = _spread(SEEN_TEST_ROWS, groups, lambda group: len(group.facts))
    validation = _spread(
        VALIDATION_ROWS, groups, lambda group: len(group.facts) - test[group.name], salt="validation"
    )
    unseen = _spread(UNSEEN_TEST_ROWS, groups, lambda group: len(group.unseen), salt="unseen")
    asked: dict[str, list[tuple[Group, Fact, int]]] = {
        "train": [],
        "validation": [],
        "seen": [],
        "unseen": [],
    }
    for group in groups:
        ranked = sorted(group.facts, key=lambda fact: digest(SALT, f"fact:{fact.id}"))
        held = test[group.name] + validation[group.name]
        asked["train"] += [(group, fact, number) for fact in ranked for number in (1, 2)]
        asked["seen"] += [(group, fact, 3) for fact in ranked[: test[group.name]]]
        asked["validation"] += [(group, fact, 3) for fact in ranked[test[group.name] : held]]
        chosen = sorted(group.unseen, key=lambda fact: digest(SALT, f"fact:{fact.id}"))[: unseen[group.name]]
        asked["unseen"] += [(group, fact, 1) for fact in chosen]
    rows = {
        name: _questions(table, "unseen" if name == "unseen" else "seen") for name, table in asked.items()
    }
    mixed = sorted(rows["seen"] + rows["unseen"], key=_by_id)
    return {"train": rows["train"], "validation": rows["validation"], "test": mixed}


def _questions(asked: Iterable[tuple[Group, Fact, int]], subgroup: str) -> list[dict[str, Any]]:
    """Rows in a mixed order, with the right answer at A, B, C and D equally often."""
    ordered = sorted(asked, key=lambda entry: digest(SALT, f"gold:{_wording_id(entry[1], entry[2])}"))
    rows = []
    for position, (group, fact, number) in enumerate(ordered):
        name = _wording_id(fact, number)
        # Wrong options are trained answers only: an answer that is never right would give itself away.
        others = {other.answer for other in group.facts} - {fact.answer}
        options = sorted(others, key=lambda answer: digest(SALT, f"option:{name}:{answer}"))[
            : len(LETTERS) - 1
        ]
        options.insert(position % len(LETTERS), fact.answer)
        rows.append(
            {
                "id": name,
                "question": fact.wordings[number - 1],
                "options": dict(zip(LETTERS, options, strict=True)),
                "answer": fact.answer,
                "answer_idx": LETTERS[position % len(LETTERS)],
                "meta_info": group.step,
                "subject": group.subject,
                "subgroup": subgroup,
                "cluster": fact.id,
            }
        )
    return sorted(rows, key=_by_id)


@cache
def _pubmedqa() -> Table:
    by_label: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(_lines("abstracts"), key=_by_id):
        by_label.setdefault(row["final_decision"], []).append(row)
    labels = sorted(by_label)
    total = sum(map(len, by_label.values()))
    table: Table = {"train": [], "validation": [], "test": []}
    taken = dict.fromkeys(labels, 0)
    for name, size in (("test", ABSTRACTS_TEST_ROWS), ("validation", ABSTRACTS_VALIDATION_ROWS)):
        for label, count in _shares(
            {label: len(by_label[label]) * size / total for label in labels}, size
        ).items():
            table[name] += by_label[label][taken[label] : taken[label] + count]
            taken[label] += count
    for label in labels:
        table["train"] += by_label[label][taken[label] :]
    return {name: [_abstract(row) for row in sorted(rows, key=_by_id)] for name, rows in table.items()}


def _abstract(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "pubid": row["id"],
        "question": row["question"],
        "context": {"contexts": row["contexts"], "meshes": row["meshes"]},
        "final_decision": row["final_decision"],
    }


def _shares(exact: dict[str, float], total: int) -> dict[str, int]:
    """Whole numbers near `exact` that add up to `total`: the largest remainders are rounded up."""
    counts = {key: int(share) for key, share in exact.items()}
    by_remainder = sorted(exact, key=lambda key: (counts[key] - exact[key], key))
    for key in by_remainder[: total - sum(counts.values())]:
        counts[key] += 1
    return counts


def _spread(
    total: int, groups: Sequence[Group], room: Callable[[Group], int], salt: str = "test"
) -> dict[str, int]:
    """`total` dealt out one at a time over the groups, none getting more than it has room for."""
    counts = dict.fromkeys((group.name for group in groups), 0)
    ranked = sorted(groups, key=lambda group: digest(SALT, f"{salt}:{group.name}"))
    left = total
    while left:
        open_groups = [group for group in ranked if counts[group.name] < room(group)][:left]
        if not open_groups:
            raise ValueError(f"the table of facts is too small: {left} of {total} {salt} rows are missing")
        for group in open_groups:
            counts[group.name] += 1
        left -= len(open_groups)
    return counts


def _wording_id(fact: Fact, number: int) -> str:
    return f"{fact.id}-w{number}"


def _by_id(row: dict[str, Any]) -> str:
    return digest(SALT, f"row:{row['id']}")


def _facts(rows: Iterable[dict[str, Any]]) -> tuple[Fact, ...]:
    return tuple(Fact(row["id"], row["answer"], tuple(row["wordings"])) for row in rows)


def _files(folder: str) -> list[Path]:
    return sorted((HERE / folder).glob("*.jsonl"))


def _lines(folder: str) -> list[dict[str, Any]]:
    texts = (path.read_text(encoding="utf-8") for path in _files(folder))
    return [json.loads(line) for text in texts for line in text.split("\n") if line.strip()]
