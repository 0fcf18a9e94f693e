"""A run that was stopped goes on to the bit as if it had not been: also after its last step, and twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.contracts import Strategy
from harness.runtime.tokens.rows import Row
from strategies.full import Full
from strategies.ia3 import IA3
from strategies.lora import Lora
from strategies.peft import Peft
from strategies.prefix import Prefix
from strategies.qlora import QLora

pytestmark = pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*:UserWarning")

Train = Callable[..., Any]
STOP: dict[str, int | None] = {"at": None}


class Stopped(Exception):
    pass


class _Stops:
    """Ends training right after a step, as a kill would."""

    def after_step(self, model: Any, step: int) -> None:
        if step == STOP["at"]:
            raise Stopped


class StopsLora(_Stops, Lora):
    pass


class StopsFull(_Stops, Full):
    pass


class StopsPrefix(_Stops, Prefix):
    pass


class StopsIA3(_Stops, IA3):
    pass


class StopsQLora(_Stops, QLora):
    pass


class StopsPeft(_Stops, Peft):
    def after_step(self, model: Any, step: int) -> None:
        Peft.after_step(self, model, step)  # AdaLoRA's ranks
        _Stops.after_step(self, model, step)


STRATEGIES: list[Strategy] = [
    StopsLora(r=4, dropout=0.2),
    StopsFull(),
    StopsPrefix(num_virtual_tokens=4),
    StopsIA3(),
]
IDS = ["lora", "full", "prefix", "ia3"]
EARLY = {"early_stopping_patience": 3, "evaluation_steps": 2, "max_steps": 40, "learning_rate": 0.05}


def contrary(rows: list[Row]) -> list[Row]:
    """Rows whose answers no training row has: they become the less likely the longer it trains."""
    trained = {token for row in rows for token in row.ids[row.answer_start :]}
    other = next(token for token in range(3, 500) if token not in trained)
    return [
        Row((*row.ids[: row.answer_start], *(other for _ in row.ids[row.answer_start :])), row.answer_start)
        for row in rows[:6]
    ]


def until(
    run_training: Train, strategy: Strategy, stops: list[int | None], folder: Path, **train: Any
) -> Any:
    """One try a stop: killed in that step (None: after the last one), then the whole again."""
    found = None
    for at in stops:
        STOP["at"] = at
        try:
            found = run_training(strategy, folder=folder, **train)
        except Stopped:
            assert at is not None
        else:
            assert at is None
    STOP["at"] = None
    return found


def state(found: Any) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
    lines = [{key: value for key, value in line.items() if key != "seconds"} for line in found.lines]
    return lines, {name: weight.detach() for name, weight in found.model.named_parameters()}


def assert_same(found: Any, whole: Any) -> None:
    (lines, weights), (expected_lines, expected) = state(found), state(whole)
    assert lines == expected_lines
    assert weights.keys() == expected.keys()
    assert [name for name, weight in expected.items() if not torch.equal(weights[name], weight)] == []
    for name in ("steps", "tokens", "answer_tokens", "examples"):
        assert getattr(found.throughput, name) == getattr(whole.throughput, name), name


# 22 rows in steps of 8 are 3 steps an epoch: 5 end within one, 6 at its end.
@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
@pytest.mark.parametrize("steps", [5, 6])
def test_a_run_stopped_after_its_last_step_makes_no_other(
    schedule: str, steps: int, run_training: Train, tmp_path: Path
) -> None:
    settings = {"schedule": schedule, "max_steps": steps}
    lora = StopsLora(r=4, dropout=0.2)
    whole = run_training(lora, **settings)
    again = until(run_training, lora, [None, None, None], tmp_path / "again", **settings)
    assert_same(again, whole)
    assert again.throughput.resumed


@pytest.mark.parametrize("strategy", STRATEGIES, ids=IDS)
@pytest.mark.parametrize("stops", [[1, None], [4, None], [3, 5, None, None]], ids=str)
def test_a_run_stopped_anywhere_ends_as_if_it_had_not_been(
    strategy: Strategy, stops: list[int | None], run_training: Train, tmp_path: Path
) -> None:
    settings = {"schedule": "constant", "max_steps": 5, "checkpoint_steps": 1}
    whole = run_training(strategy, **settings)
    assert_same(until(run_training, strategy, stops, tmp_path / "again", **settings), whole)


def test_four_bits_go_on_to_the_bit(run_training: Train, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    strategy = StopsQLora(r=4, dropout=0.2)
    settings = {"schedule": "constant", "max_steps": 5, "checkpoint_steps": 1}
    whole = run_training(strategy, **settings)
    assert_same(until(run_training, strategy, [3, None, None], tmp_path / "again", **settings), whole)


@pytest.mark.parametrize("stops", [[2, None], [4, None, None]], ids=str)
def test_the_ranks_of_adalora_go_on_too(stops: list[int | None], run_training: Train, tmp_path: Path) -> None:
    config = {"peft_type": "ADALORA", "init_r": 8, "target_r": 2, "tinit": 1, "tfinal": 1, "deltaT": 1}
    strategy = StopsPeft(config={**config, "total_step": 5, "target_modules": ["q_proj", "v_proj"]})
    settings = {"schedule": "constant", "max_steps": 5, "checkpoint_steps": 1}
    whole = run_training(strategy, **settings)
    assert_same(until(run_training, strategy, stops, tmp_path / "again", **settings), whole)


@pytest.mark.parametrize("stops", [[7, None], [4, None, None], [None, None]], ids=str)
def test_early_stopping_goes_on_with_its_patience_and_its_best(
    stops: list[int | None], run_training: Train, rows: list[Row], tmp_path: Path
) -> None:
    lora = StopsLora(r=4)
    settings = {**EARLY, "schedule": "constant", "validation_rows": contrary(rows)}
    whole = run_training(lora, **settings)
    assert len(whole.steps) < 40, "it was to stop early"
    assert whole.validation[len(whole.steps)] > min(whole.validation.values()), "the last was to be no best"
    assert_same(until(run_training, lora, stops, tmp_path / "again", **settings), whole)


def test_the_best_is_found_where_the_folder_was_moved(
    run_training: Train, rows: list[Row], tmp_path: Path
) -> None:
    lora = StopsLora(r=4)
    settings = {**EARLY, "schedule": "constant", "validation_rows": contrary(rows)}
    whole = run_training(lora, **settings)
    until(run_training, lora, [None], tmp_path / "here", **settings)
    (tmp_path / "here").rename(tmp_path / "there")
    assert_same(until(run_training, lora, [None], tmp_path / "there", **settings), whole)


def test_costs_of_a_try_that_made_no_step_are_those_of_the_one_that_did(
    run_training: Train, tmp_path: Path
) -> None:
    lora = StopsLora(r=4)
    first = until(run_training, lora, [None], tmp_path / "again")
    second = until(run_training, lora, [None], tmp_path / "again")
    assert second.throughput.seconds == first.throughput.seconds
    assert second.throughput.rate(second.throughput.timed_tokens) == first.throughput.rate(
        first.throughput.timed_tokens
    )
    assert second.throughput.earlier_seconds > 0
