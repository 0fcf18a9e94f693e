"""A measurement on the finished model of a run, made in a phase of its own after the evaluation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from harness.contracts.tasks import Example, Metric, Prediction, Task
from harness.spec import Scoring


@dataclass(frozen=True, slots=True)
class Finished:
    """What a probe may look at: the model as it was scored, and what it answered.

    predict: answers of this model to other items of the task, asked as the run's own were (same worked
    examples, same scoring). model, tokenizer: torch's and transformers' own objects.
    """

    task: Task
    scoring: Scoring
    seed: int
    items: Sequence[Example]
    predictions: Sequence[Prediction]
    predict: Callable[[Sequence[Example]], Sequence[Prediction]]
    model: Any
    tokenizer: Any


@dataclass(frozen=True, slots=True)
class Measured:
    """A value over n items, with its 95% interval where there is a sound one."""

    value: float
    n: int
    low: float | None = None
    high: float | None = None


class Probe(ABC):
    """One file a probe. `metrics` are what it gives, each with its definition."""

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    metrics: ClassVar[tuple[Metric, ...]]

    def refusal(self, task: Task, scoring: Scoring, items: Sequence[Example]) -> str:
        """Why these items of a task say nothing to this probe, in words; empty where they do.

        Asked before the run starts, so that no training is spent on what cannot be measured.
        """
        return ""

    @abstractmethod
    def measure(self, finished: Finished) -> dict[str, Measured]:
        """A value for each of `metrics`, by its name. Changes nothing of the model."""
