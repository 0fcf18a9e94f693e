"""Evaluation through lm-eval: its task objects make the requests, its metrics check ours."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_eval.api.model import LM
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate

from harness.contracts import Example, Prediction, Scoring, Task
from harness.errors import NonFiniteLossError, UsageError
from harness.items import check_choices
from harness.runtime.scoring.prompts import UnscorableError
from harness.runtime.scoring.scorer import Scorer
from harness.runtime.scoring.shown import example_texts, same_texts
from harness.runtime.training.batches import shuffled

SHOTS_SEED_OFFSET = 7_919
"""So that the shots are not simply the first examples of the first epoch."""


_SLICE = 1000
"""Items that lm-eval holds at one time, with all it keeps of each."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The texts of one item as they were scored: clinical text, kept only where it was asked for."""

    prompt: str
    choices: tuple[str, ...]

    @classmethod
    def of(cls, sample: dict[str, Any]) -> Asked:
        arguments = sample["arguments"]
        return cls(arguments[0][0], tuple(continuation for _, continuation in arguments))


def worked_examples(train: Sequence[Example], shots: int, seed: int) -> list[Example]:
    """`shots` examples from train, fixed by seed, the same for every question."""
    if shots > len(train):
        raise UsageError(
            f"{shots} worked examples asked, but train has {len(train)}", f"Ask at most --shots {len(train)}"
        )
    return [train[i] for i in shuffled(len(train), seed + SHOTS_SEED_OFFSET, 0)[:shots]]


def lm_eval_task(
    task: Task, test: Sequence[Example], shots: Sequence[Example], scoring: Scoring
) -> ConfigurableTask:
    """`task` as lm-eval's own kind of task: multiple choice, its delimiters, acc and acc_norm."""
    from datasets import Dataset

    every: dict[str, list[Example]] = {"test": list(test), "shots": list(shots)}

    def example(doc: dict[str, Any]) -> Example:
        split, index = str(doc["split"]), int(doc["index"])
        return every[split][index]

    def documents(**_: Any) -> dict[str, Dataset]:
        # Documents only point at examples: no question text goes through lm-eval's caches or logs.
        return {
            split: Dataset.from_list([{"split": split, "index": i} for i in range(len(rows))])
            for split, rows in every.items()
            if rows
        }

    config: dict[str, Any] = {
        "task": task.name,
        "custom_dataset": documents,
        "output_type": "multiple_choice",
        "test_split": "test",
        "num_fewshot": len(shots),
        "doc_to_text": lambda doc: task.prompt(example(doc), scoring),
        "doc_to_choice": lambda doc: list(task.choices(example(doc), scoring)),
        "doc_to_target": lambda doc: example(doc).gold,
        "metric_list": [
            {"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")
        ],
    }
    if shots:
        config |= {"fewshot_split": "shots", "fewshot_config": {"sampler": "first_n"}}
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    built = ConfigurableTask(config=config)
    built.set_config(key="num_fewshot", value=len(shots))
    return built


def predict(
    lm: LM,
    task: Task,
    test: Sequence[Example],
    shots: Sequence[Example],
    scoring: Scoring,
    *,
    texts: bool = False,
) -> tuple[list[Prediction], list[Asked] | None]:
    """Score `test` with any lm-eval `LM`: predictions in the order of `test`, and, where `texts` are
    wanted, what was asked. Our own LM leaves out whole worked examples of prompts that do not fit.

    Longest prompts first, a slice at a time: memory does not grow with the items, and one that does not
    fit is found at the start. Raises UsageError, naming the item, for one that cannot be scored.
    """
    check_choices(task, test, scoring)
    order = sorted(range(len(test)), key=lambda i: -len(task.prompt(test[i], scoring)))
    found: dict[int, tuple[Prediction, Asked]] = {}
    examples = example_texts(task, shots, scoring)
    with lm.prompts.beginning_with(examples) if isinstance(lm, Scorer) else contextlib.nullcontext():
        for start in range(0, len(order), _SLICE):
            part = order[start : start + _SLICE]
            scored = _predict_slice(lm, task, [test[i] for i in part], shots, scoring)
            found.update(zip(part, scored if texts else [(p, Asked("", ())) for p, _ in scored], strict=True))
    predictions = [found[i][0] for i in range(len(test))]
    return predictions, [found[i][1] for i in range(len(test))] if texts else None


def _predict_slice(
    lm: LM, task: Task, test: Sequence[Example], shots: Sequence[Example], scoring: Scoring
) -> list[tuple[Prediction, Asked]]:
    built = lm_eval_task(task, test, shots, scoring)
    try:
        results = evaluate(lm, {task.name: built}, bootstrap_iters=0, log_samples=True)
    except UnscorableError as error:
        item = test[error.document] if error.document is not None else None
        where = f"item {item.id}, choice {error.choice + 1}: " if item else ""
        raise UsageError(f"{where}{error.reason}", error.remedy) from error
    samples = sorted(results["samples"][task.name], key=lambda sample: sample["doc_id"])
    _asked_as_meant([task.prompt(e, scoring) for e in test], samples, example_texts(task, shots, scoring))
    answers = [_Answers.of(task, e, sample, scoring) for e, sample in zip(test, samples, strict=True)]
    _agree(test, answers, results["results"][task.name])
    return [
        (_prediction(task, example, own, scoring), Asked.of(sample))
        for example, own, sample in zip(test, answers, samples, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class _Answers:
    """Of one item: log-likelihoods of its choices, and the choices that lm-eval's acc and acc_norm take."""

    logprobs: tuple[float, ...]
    predicted: int
    predicted_norm: int

    @classmethod
    def of(cls, task: Task, example: Example, sample: dict[str, Any], scoring: Scoring) -> _Answers:
        logprobs = tuple(float(response[0]) for response in sample["filtered_resps"])
        if not all(math.isfinite(value) for value in logprobs):
            raise NonFiniteLossError(
                f"a log-likelihood of item {example.id} is not finite: {logprobs}",
                "Compute in float32: --set model.dtype=float32 (float16 holds no number above 65,504).",
            )
        # lm-eval's acc_norm divides by the choice's length in characters.
        lengths = [len(choice) for choice in task.choices(example, scoring)]
        normed = [value / length for value, length in zip(logprobs, lengths, strict=True)]
        return cls(logprobs, logprobs.index(max(logprobs)), normed.index(max(normed)))


def _prediction(task: Task, example: Example, answers: _Answers, scoring: Scoring) -> Prediction:
    """An option that says the same as the right one is the right one."""
    same_as = same_texts(task, example, scoring)

    def chosen(choice: int) -> int:
        return example.gold if same_as and same_as[choice] == same_as[example.gold] else choice

    return Prediction(
        example_id=example.id,
        gold=example.gold,
        predicted=chosen(answers.predicted),
        predicted_norm=chosen(answers.predicted_norm),
        logprobs=answers.logprobs,
        subgroup=example.subgroup,
        cluster=example.cluster or example.id,
        same_as=same_as,
        merged=_merged(answers.logprobs, task.choices(example, scoring), same_as),
    )


def _merged(logprobs: Sequence[float], choices: Sequence[str], same_as: Sequence[int]) -> tuple[float, ...]:
    """One log-likelihood a text: letters of one text add up, and what was asked twice counts once."""
    if not same_as:
        return ()
    asked: dict[int, dict[str, float]] = {}
    for value, choice, first in zip(logprobs, choices, same_as, strict=True):
        asked.setdefault(first, {})[choice] = value
    highest = max(logprobs)

    def total(values: Iterable[float]) -> float:
        return highest + math.log(max(math.fsum(math.exp(v - highest) for v in values), sys.float_info.min))

    return tuple(total(asked[k].values()) if k in asked else -math.inf for k in range(len(logprobs)))


def _asked_as_meant(
    prompts: Sequence[str], samples: Sequence[dict[str, Any]], examples: Sequence[str]
) -> None:
    """What is counted of worked examples holds for contexts that begin with them, and go on with the prompt."""
    beginning = "".join(examples)
    for prompt, sample in zip(prompts, samples, strict=True):
        if sample["arguments"][0][0] != beginning + prompt:
            raise RuntimeError(f"document {sample['doc_id']}: lm-eval writes worked examples otherwise")


def _agree(test: Sequence[Example], answers: Sequence[_Answers], results: dict[str, Any]) -> None:
    """What the choices score must be lm-eval's accuracy; anything else is a bug and no number may leave.

    Before options that say the same are taken for one another, which lm-eval does not do.
    """
    pairs = list(zip(test, answers, strict=True))
    own = {
        "acc,none": sum(found.predicted == e.gold for e, found in pairs) / len(pairs),
        "acc_norm,none": sum(found.predicted_norm == e.gold for e, found in pairs) / len(pairs),
    }
    for name, value in own.items():
        if abs(value - results[name]) > 1e-9:
            raise RuntimeError(f"{name}: lm-eval says {results[name]}, our predictions say {value}")


def write_predictions(predictions: Sequence[Prediction], folder: Path, asked: Sequence[Asked] | None) -> None:
    """predictions.parquet; with `asked` (wanted by --log-samples) also prompts and choices."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {
        "example_id": pa.array([p.example_id for p in predictions], pa.string()),
        "gold": pa.array([p.gold for p in predictions], pa.int32()),
        "predicted": pa.array([p.predicted for p in predictions], pa.int32()),
        "predicted_norm": pa.array([p.predicted_norm for p in predictions], pa.int32()),
        "correct": pa.array([p.predicted == p.gold for p in predictions], pa.bool_()),
        "logprobs": pa.array([list(p.logprobs) for p in predictions], pa.list_(pa.float64())),
        "subgroup": pa.array([p.subgroup for p in predictions], pa.string()),
        "cluster": pa.array([p.cluster for p in predictions], pa.string()),
    }
    if any(p.merged for p in predictions):
        columns["same_as"] = pa.array([list(p.same_as) for p in predictions], pa.list_(pa.int32()))
        columns["merged"] = pa.array([list(p.merged) for p in predictions], pa.list_(pa.float64()))
    if asked is not None:
        columns["prompt"] = pa.array([a.prompt for a in asked], pa.string())
        columns["choices"] = pa.array([list(a.choices) for a in asked], pa.list_(pa.string()))
    unfinished = folder / "predictions.parquet.tmp"
    # Texts of items, as weights, are for their owner's eyes only.
    unfinished.unlink(missing_ok=True)
    mode = 0o666 if asked is None else 0o600
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        pq.write_table(pa.table(columns), file)
    unfinished.rename(folder / "predictions.parquet")
