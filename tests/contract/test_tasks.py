"""What every task must hold, built-in or plugged in."""

from __future__ import annotations

import math

import pytest

from harness.contracts import DataSource, Task
from harness.registry import load_registry
from harness.spec import SCORINGS

TASKS = sorted(load_registry().tasks.items())


@pytest.fixture(params=[cls for _, cls in TASKS], ids=[name for name, _ in TASKS])
def task(request: pytest.FixtureRequest) -> Task:
    return request.param()


def test_says_what_it_is(task: Task) -> None:
    for text in (task.title, task.summary, task.source):
        assert text.strip()
    assert len(task.class_names) == len(set(task.class_names)) >= 2
    names = [metric.name for metric in task.metrics]
    assert names[0] == "accuracy"
    assert len(names) == len(set(names))


def test_chance_fits_the_classes(task: Task) -> None:
    chance = {metric.name: metric.chance for metric in task.metrics}
    assert chance["accuracy"] == pytest.approx(1 / len(task.class_names))
    if chance.get("nll") is not None:
        assert chance["nll"] == pytest.approx(math.log(len(task.class_names)))


def test_sample_has_three_disjoint_splits(task: Task) -> None:
    splits = task.load(DataSource("sample"))
    ids = [{example.id for example in part} for part in (splits.train, splits.validation, splits.test)]
    assert all(ids)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not ids[one] & ids[other]
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [len(own) for own in ids]
    assert not splits.comparable
    assert "sample" in splits.title.lower()


@pytest.mark.parametrize("scoring", SCORINGS)
def test_one_template_for_training_and_scoring(task: Task, scoring: str) -> None:
    for example in task.load(DataSource("sample")).test:
        prompt, choices = task.prompt(example, scoring), task.choices(example, scoring)
        assert prompt == prompt.rstrip()
        assert len(choices) == len(example.options)
        assert all(choice and choice == choice.strip() for choice in choices)
        assert task.target(example, scoring) == choices[example.gold]
        assert 0 <= example.gold < len(task.class_names)


def test_loads_the_same_every_time(task: Task) -> None:
    assert task.load(DataSource("sample")) == task.load(DataSource("sample"))
