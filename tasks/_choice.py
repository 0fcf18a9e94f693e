"""What multiple-choice exam tasks share: lm-eval's prompts, ids, the validation cut, metrics.

Legend: K choices an item.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence

from harness.contracts import Example, Metric, Part, Scoring, Task
from harness.errors import DataError
from tasks._read import Row

VALIDATION_ROWS = 1000
# Salts the choice of validation rows. Fixed for good: changing it changes every split it cut.
VALIDATION_SALT = "medtune validation cut 0"

Parsed = list[tuple[Row, Example]]
Content = tuple[str, frozenset[str], str]


def choice_metrics(size: int, *, normalised: bool) -> tuple[Metric, ...]:
    """The metrics of a task with K = `size` choices; `normalised` adds lm-eval's `acc_norm`.

    `chance` of nll and brier (the sum over the K choices of squared errors) is that of answering
    1/K everywhere.
    """
    norm = (Metric("accuracy_norm", chance=1 / size),) if normalised else ()
    return (
        Metric("accuracy", chance=1 / size),
        *norm,
        Metric("macro_f1"),
        Metric("nll", unit="nats", higher_is_better=False, chance=math.log(size)),
        Metric("brier", unit="score", higher_is_better=False, chance=1 - 1 / size),
        Metric("ece", higher_is_better=False),
    )


class ChoiceTask(Task):
    """An exam question with options named by letters (`class_names`).

    `letter` is lm-eval's own prompt, byte for byte, over the letters. `cloze` leaves the options
    out of the prompt and scores their texts (OLMES, arXiv 2406.08446).
    """

    def prompt(self, example: Example, scoring: Scoring) -> str:
        if scoring == "cloze":
            return f"Question: {example.question}\nAnswer:"
        named = zip(self.class_names, example.options, strict=True)
        options = "".join(f"{letter}. {option}\n" for letter, option in named)
        return f"Question: {example.question}\n{options}Answer:"

    def choices(self, example: Example, scoring: Scoring) -> tuple[str, ...]:
        if scoring == "letter":
            return self.class_names
        return tuple(map(clean_option, example.options))


def clean_option(option: str) -> str:
    """An option's text as it is scored: without spaces around it, and without a quote mark left there.

    Some real options begin or end with a space, and where MedQA was cut out of a table, one in twenty
    last options ends in a line break and a quote mark that nothing opened. No model is asked to guess these.
    """
    text = option.strip()
    if text.count('"') % 2 == 0:
        return text
    return re.sub(r'^"\s+|\s+"$', "", text) or text


def content_id(question: str, options: Sequence[str]) -> str:
    """16 hex digits of SHA-256 over an item's text: the id of a row that has none."""
    text = json.dumps([question, *options], ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def row_id(row: Row) -> str:
    """The row's own `id` as text, or an empty string where it has none."""
    value = row.values.get("id")
    return str(value) if type(value) is int else row.optional("id").strip()


def unique_ids(parsed: Parsed) -> tuple[Example, ...]:
    """The examples of one split. A repeated id of its own is refused; a repeated item is numbered.

    Rows without an id have their content's; real data repeats some items word for word, and
    these get `-2`, `-3`, ...
    """
    first: dict[str, Row] = {}
    count: dict[str, int] = {}
    examples = []
    for row, example in parsed:
        own = bool(row_id(row))
        if own and example.id in first:
            raise repeated_id(first[example.id], row, example.id)
        first.setdefault(example.id, row)
        count[example.id] = times = count.get(example.id, 0) + 1
        examples.append(example if times == 1 else _renamed(example, f"{example.id}-{times}"))
    return tuple(examples)


def repeated_id(first: Row, second: Row, name: str) -> DataError:
    """The error for two rows with one id, naming both."""
    return second.error(
        f"id '{name}' is already used by {first.where}",
        "Give each row an id of its own, or delete one of the two rows.",
    )


def check_across(splits: Mapping[Part, Parsed]) -> None:
    """Refuse one id for two different items in different splits (an id is unique in its task)."""
    seen: dict[str, tuple[Row, Example]] = {}
    for parsed in splits.values():
        for row, example in parsed:
            first = seen.setdefault(example.id, (row, example))
            if content(first[1]) != content(example):
                raise row.error(
                    f"id '{example.id}' is already used for another item by {first[0].where}",
                    "Give each row an id of its own over all files, or leave 'id' out of every row: "
                    "ids are then made from the text.",
                )


def cut_validation(train: Sequence[Example]) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Train and validation from a train split that has no validation split beside it.

    1,000 rows, or a tenth where there are fewer than 10,000. Which rows depends on their ids only: not on
    their order, and not on a run's seed. Rows of one content stay on one side: what a model was trained on
    word for word would otherwise be what its settings are chosen by. Raises `DataError` where all are one.
    """
    size = min(VALIDATION_ROWS, max(1, len(train) // 10))
    groups: dict[Content, list[str]] = {}
    for example in train:
        groups.setdefault(content(example), []).append(example.id)
    if len(groups) < 2:
        raise DataError(
            f"all {len(train)} training rows are the same item, so that none can be kept for validation",
            "Add other training rows, or a validation split.",
        )
    ranked = sorted(groups.values(), key=lambda ids: min(digest(VALIDATION_SALT, name) for name in ids))
    chosen: set[str] = set()
    for ids in ranked:
        if len(chosen) + len(ids) <= size:
            chosen.update(ids)
    chosen = chosen or set(sorted(ranked, key=len)[0])
    kept = tuple(example for example in train if example.id not in chosen)
    return kept, tuple(example for example in train if example.id in chosen)


def digest(salt: str, key: str) -> str:
    """A sort key that looks random and never changes (Python's own shuffles may, over versions)."""
    return hashlib.sha256(f"{salt}:{key}".encode()).hexdigest()


def repeats_note(train: Sequence[Example], validation: Sequence[Example], test: Sequence[Example]) -> str:
    """How many items stand on two sides or twice in train, but for case and spaces; empty for none."""
    trained = [content(example) for example in train]
    known = {*trained, *map(content, validation)}
    in_train = set(trained)
    leaked = sum(content(example) in known for example in test)
    seen = sum(content(example) in in_train for example in validation)
    again = len(trained) - len(in_train)
    return join_notes(
        f"leakage: {leaked} test items are also in train or validation" if leaked else "",
        f"{seen} validation items are also in train" if seen else "",
        f"{again} training rows repeat another" if again else "",
    )


def same_options_note(test: Iterable[Example]) -> str:
    """How many test items offer one text twice. Real exam data does; such items are kept."""
    repeated = sum(len({option.strip() for option in e.options}) < len(e.options) for e in test)
    return f"{repeated} test items have two options with the same text" if repeated else ""


def quote_note(test: Iterable[Example]) -> str:
    """How many test items have an option with a quote mark left at its end."""
    left = sum(any(clean_option(option) != option.strip() for option in e.options) for e in test)
    return (
        f"{left} test items have a quote mark left in an option, which cloze scoring leaves out"
        if left
        else ""
    )


def join_notes(*notes: str) -> str:
    """The notes that say something, as one line."""
    return "; ".join(note for note in notes if note)


def content(example: Example) -> Content:
    """What makes two rows one item: their texts but for case and spaces, whatever the options' order."""
    return (
        _plain(example.question),
        frozenset(_plain(clean_option(option)) for option in example.options),
        _plain(example.context),
    )


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def _renamed(example: Example, name: str) -> Example:
    return dataclasses.replace(example, id=name)
