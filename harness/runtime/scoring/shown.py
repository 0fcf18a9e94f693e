"""What a model was really shown and asked, where that is not all that was meant: counted and said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from harness.contracts import Example, Prediction, Scoring, Task
from harness.record import Inputs
from harness.runtime.scoring.prompts import Cut
from harness.runtime.tokens.rows import Row
from harness.runtime.tokens.texts import with_spaces_moved


def example_texts(task: Task, shots: Sequence[Example], scoring: Scoring) -> tuple[str, ...]:
    """The worked examples as lm-eval writes them before a prompt."""
    return tuple(f"{task.prompt(e, scoring)} {task.choices(e, scoring)[e.gold]}\n\n" for e in shots)


def same_texts(task: Task, example: Example, scoring: Scoring) -> tuple[int, ...]:
    """For each choice the first one that says the same; empty where each says something else.

    Letters stand for their options. Differences in white space are none.
    """
    choices = task.choices(example, scoring)
    options = example.options if len(example.options) == len(choices) else choices
    texts = [" ".join(option.split()) for option in options]
    first = tuple(texts.index(text) for text in texts)
    return () if len(set(first)) == len(first) else first


def scored_inputs(
    task: Task,
    test: Sequence[Example],
    shots: Sequence[Example],
    scoring: Scoring,
    predictions: Sequence[Prediction],
    cuts: Mapping[str, Cut],
    trained: Inputs | None = None,
) -> Inputs:
    """`trained`, and counts over the scored items. `cuts`: contexts that lost something, as
    harness.runtime.scoring.prompts has them.
    """
    beginning = "".join(example_texts(task, shots, scoring))
    contexts = (with_spaces_moved(beginning + task.prompt(e, scoring), "")[0] for e in test)
    lost = [cuts.get(context, Cut(0)) for context in contexts]
    seen = [len(shots) - cut.examples for cut in lost]
    repeated = [p for p in predictions if p.same_as and p.same_as.count(p.same_as[p.gold]) > 1]
    return Inputs(
        truncated_rows=trained.truncated_rows if trained else 0,
        truncated_row_tokens=trained.truncated_row_tokens if trained else 0,
        truncated_items=sum(cut.tokens > 0 for cut in lost),
        truncated_item_tokens=sum(cut.tokens for cut in lost),
        shots_min=min(seen) if shots else None,
        shots_mean=fmean(seen) if shots else None,
        tied_items=sum(_tied(p) for p in predictions),
        repeated_gold_items=len(repeated),
    )


def _tied(prediction: Prediction) -> bool:
    """Whether all choices that say something of their own score exactly the same."""
    texts = set(prediction.same_as) or set(range(len(prediction.logprobs)))
    return len(texts) > 1 and len(set(prediction.logprobs)) == 1


def trained_inputs(rows: Sequence[Row]) -> Inputs:
    """Counts over the training rows."""
    return Inputs(
        truncated_rows=sum(row.cut > 0 for row in rows), truncated_row_tokens=sum(row.cut for row in rows)
    )
