"""What is to be said of what a model was shown, in sentences: in notices, tables and `show`."""

from __future__ import annotations

from harness.record import Inputs, RunRecord


def scoring_sentences(found: Inputs, items: int, shots: int) -> list[str]:
    """Of `items` that were scored behind `shots` worked examples, the gravest first."""
    said = []
    if found.tied_items * 2 > items:
        said.append(
            f"all choices of {found.tied_items} of {items} items score exactly the same, so that the first one "
            "counts as chosen: the score says nothing of the model"
        )
    if found.truncated_items:
        said.append(
            f"{found.truncated_items} of {items} prompts do not fit the context and lost "
            f"{found.truncated_item_tokens} tokens{_examples_seen(found, shots)}"
        )
    if found.repeated_gold_items:
        said.append(
            f"{found.repeated_gold_items} of {items} items have the right answer's text more than once among "
            "their options, each of which counts as right (lm-eval counts one)"
        )
    return said


def _examples_seen(found: Inputs, shots: int) -> str:
    if found.shots_mean is None or found.shots_min is None or found.shots_min >= shots:
        return ""
    return (
        f"; of {shots} worked examples they saw {found.shots_mean:.1f} on average, {found.shots_min} at least"
    )


def training_sentences(found: Inputs, rows: int) -> list[str]:
    """Of `rows` training examples."""
    if not found.truncated_rows:
        return []
    return [
        f"{found.truncated_rows} of {rows} training examples do not fit train.max_length: their prompts lost "
        f"{found.truncated_row_tokens} tokens at the beginning"
    ]


def of_record(record: RunRecord) -> list[str]:
    """All that is to be said of a run; nothing of records that are older than these counts."""
    if record.inputs is None or record.data is None:
        return []
    return [
        *scoring_sentences(record.inputs, record.data.test_n, record.spec.task.shots),
        *training_sentences(record.inputs, record.data.train_n),
    ]
