"""How long evaluation will take yet.

The longest prompts are scored first, so that the share of the items that are answered says little of the
time that the others take: their tokens do. Those of requests that are not tokenised yet are taken in
proportion to their letters.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from harness.contracts import Example, Scoring, Task
from harness.runtime.scoring.scorer import Progress


@dataclass(frozen=True, slots=True)
class Work:
    """letters[n]: of the first n requests in the order in which they are scored."""

    letters: tuple[int, ...]

    @classmethod
    def of(cls, task: Task, items: Sequence[Example], scoring: Scoring) -> Work:
        """The requests of `items`, longest prompts first."""
        own = []
        for item in items:
            prompt = len(task.prompt(item, scoring))
            own.append((prompt, [prompt + len(choice) for choice in task.choices(item, scoring)]))
        own.sort(key=lambda pair: -pair[0])
        lengths = itertools.chain.from_iterable(lengths for _, lengths in own)
        return cls(tuple(itertools.accumulate(lengths, initial=0)))

    @property
    def requests(self) -> int:
        return len(self.letters) - 1

    def seconds_left(self, done: Progress, seconds: float) -> float | None:
        """After `seconds` of scoring; None before anything is done."""
        known = self.letters[min(done.known, self.requests)]
        if not done.tokens or not known:
            return None
        tokens = done.of_tokens * self.letters[-1] / known
        return seconds * max(0.0, tokens - done.tokens) / done.tokens
