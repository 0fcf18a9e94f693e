"""The time that evaluation will take yet, where the longest items come first."""

from __future__ import annotations

import pytest

from harness.contracts import Example
from harness.registry import Registry
from harness.runtime.scoring.scorer import Progress
from harness.runtime.scoring.work import Work


def items(lengths: list[int]) -> list[Example]:
    return [Example(str(n), "x" * length, ("a", "b", "c", "d"), 0) for n, length in enumerate(lengths)]


def test_time_left_is_by_tokens_and_not_by_items(registry: Registry) -> None:
    task = registry.task("medqa")()
    work = Work.of(task, items([100] * 9 + [9_000]), "letter")
    assert work.requests == 40
    # The longest is done, in 90 s: one item of ten, and nine tenths of all tokens.
    done = Progress(answered=4, known=40, tokens=9_000, of_tokens=10_000)
    assert work.seconds_left(done, 90.0) == pytest.approx(10.0)
    assert work.seconds_left(Progress(40, 40, 10_000, 10_000), 100.0) == 0
    assert work.seconds_left(Progress(), 1.0) is None


def test_tokens_that_are_not_known_yet_are_as_many_as_letters_say(registry: Registry) -> None:
    task = registry.task("medqa")()
    work = Work.of(task, items([4_000, 1_000, 1_000, 1_000]), "letter")
    share = work.letters[4] / work.letters[-1]
    assert 0.5 < share < 0.6
    done = Progress(answered=4, known=4, tokens=1_000, of_tokens=1_000)
    assert work.seconds_left(done, 60.0) == pytest.approx(60.0 * (1 / share - 1))
