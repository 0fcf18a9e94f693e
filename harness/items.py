"""A task's items as a model is asked them: what can be checked of them, and their fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from harness.contracts import Example, Part, Scoring, Splits, Task
from harness.errors import DataError, UsageError


def check_choices(task: Task, examples: Sequence[Example], scoring: Scoring) -> None:
    """Raises `DataError` for an item one of whose choices has no text: nothing of it can be scored."""
    for e in examples:
        for number, choice in enumerate(task.choices(e, scoring), start=1):
            if not choice.strip():
                raise DataError(
                    f"item {e.id}: choice {number} is empty, so it has no likelihood",
                    "Give the choice a text, or leave the item out of the data.",
                )


def scored_items(splits: Splits, split: Part, limit: int | None) -> tuple[Example, ...]:
    """The items that are scored: of the test split, or in a tuning trial of validation or of train
    (all its folds). Raises `UsageError`."""
    scored = {"test": splits.test, "validation": splits.validation, "train": splits.train}[split]
    if not scored:
        raise UsageError(
            f"{splits.title} has no {split} items to score",
            "Add that split to the data folder, or leave --tune out.",
        )
    return scored[:limit]


def data_fingerprint(task: Task, scoring: Scoring, splits: Sequence[Sequence[Example]]) -> str:
    """SHA-256 over what a model is trained and scored on: prompts, choices and gold, all splits."""
    digest = hashlib.sha256()
    for examples in splits:
        for e in examples:
            row = [e.id, task.prompt(e, scoring), task.choices(e, scoring), e.gold, e.subgroup]
            digest.update(json.dumps(row).encode())
        digest.update(b"\x00")
    return digest.hexdigest()
