"""Training against a plain loop, and what must not change its result.

The reference is the loop of a textbook: the model's own loss with -100 labels, PyTorch's AdamW, the
library's schedule, the whole batch in one forward pass.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import get_scheduler

from harness.contracts import Strategy
from harness.errors import NonFiniteLossError
from harness.runtime.models.counting import count_parameters
from harness.runtime.tokens.rows import Row
from harness.runtime.training.arguments import Plan
from harness.runtime.training.batches import IGNORED, shuffled
from harness.runtime.training.callbacks import StepFigures, Throughput
from harness.runtime.training.flops import train_flops
from strategies.full import Full
from strategies.ia3 import IA3
from strategies.lora import Lora
from strategies.peft import Peft
from strategies.prefix import Prefix
from strategies.qlora import QLora

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*:UserWarning"),
]

Train = Callable[..., Any]
STEPS, SIZE, RATE = 6, 8, 3e-3
STRATEGIES: list[Strategy] = [Lora(r=4), Full(), Prefix(num_virtual_tokens=4), IA3()]
IDS = [strategy.name for strategy in STRATEGIES]


def adalora(**settings: Any) -> Peft:
    config = {"peft_type": "ADALORA", "init_r": 8, "target_r": 2, "tinit": 1, "tfinal": 1, "deltaT": 1}
    return Peft(config={**config, "total_step": STEPS, "target_modules": ["q_proj", "v_proj"], **settings})


def batch_of(rows: list[Row], step: int) -> dict[str, torch.Tensor]:
    """A step's examples in one batch, padded, answers labelled."""
    each = math.ceil(len(rows) / SIZE)
    start = step % each * SIZE
    chosen = [rows[i] for i in shuffled(len(rows), 0, step // each)[start : start + SIZE]]
    width = max(len(row.ids) for row in chosen)
    ids = torch.zeros(len(chosen), width, dtype=torch.long)
    labels = torch.full_like(ids, IGNORED)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(chosen):
        ids[i, : len(row.ids)] = torch.tensor(row.ids)
        mask[i, : len(row.ids)] = 1
        labels[i, row.answer_start : len(row.ids)] = ids[i, row.answer_start : len(row.ids)]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def reference(model: Any, rows: list[Row], penalty: Any = None, after: Any = None) -> list[dict[str, float]]:
    """A plain loop: loss, learning rate and norm of the gradient of each step."""
    trained = [w for w in model.parameters() if w.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [w for w in trained if w.ndim >= 2], "weight_decay": 0.01},
            {"params": [w for w in trained if w.ndim < 2], "weight_decay": 0.0},
        ],
        lr=RATE,
    )
    schedule = get_scheduler("cosine", optimizer, num_warmup_steps=0, num_training_steps=STEPS)
    found = []
    model.train()
    for step in range(STEPS):
        loss = model(**batch_of(rows, step)).loss
        (loss if penalty is None else loss + penalty(model)).backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
        figures = {"loss": loss.item(), "learning_rate": schedule.get_last_lr()[0], "grad_norm": norm.item()}
        optimizer.step()
        if after is not None:
            after(model, step + 1)
        schedule.step()
        optimizer.zero_grad()
        found.append(figures)
    return found


@pytest.mark.parametrize("strategy", STRATEGIES, ids=IDS)
def test_each_step_is_that_of_a_plain_loop(strategy: Strategy, run_training: Train, rows: list[Row]) -> None:
    expected = reference(run_training.adapted(strategy, "float32", 0), rows)  # type: ignore[attr-defined]
    found = run_training(strategy)
    assert len(found.steps) == STEPS
    for own, wanted in zip(found.steps, expected, strict=True):
        for name, value in wanted.items():
            assert own[name] == pytest.approx(value, rel=1e-4, abs=1e-4), (name, own["step"])
    assert found.losses[-1] < found.losses[0]


def test_the_loss_is_a_mean_over_answer_tokens_and_not_over_examples(
    run_training: Train, rows: list[Row]
) -> None:
    """Answers differ in length here, or the test above could not tell the two."""
    assert len({len(row.ids) - row.answer_start for row in rows}) > 1


@pytest.mark.parametrize("strategy", STRATEGIES, ids=IDS)
def test_a_smaller_token_budget_changes_nothing(strategy: Strategy, run_training: Train) -> None:
    large, small = (
        run_training(strategy, micro_batch_tokens=100_000),
        run_training(strategy, micro_batch_tokens=60),
    )
    assert small.losses == pytest.approx(large.losses, abs=1e-4)
    for name in ("grad_norm", "learning_rate", "tokens"):
        assert [s[name] for s in small.steps] == pytest.approx([s[name] for s in large.steps], rel=1e-3)


@pytest.mark.parametrize("strategy", STRATEGIES[:2], ids=IDS[:2])
def test_gradient_checkpointing_changes_nothing(
    strategy: Strategy, run_training: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.models.llama.modeling_llama import LlamaAttention

    calls, forward = [], LlamaAttention.forward

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(LlamaAttention, "forward", counted)
    plain = run_training(strategy)
    once = len(calls)
    checkpointed = run_training(strategy, gradient_checkpointing=True)
    assert len(calls) - once > once  # it did recompute
    assert checkpointed.losses == pytest.approx(plain.losses, abs=1e-5)


def test_bfloat16_is_close_and_keeps_trained_weights_in_float32(run_training: Train) -> None:
    exact, rough = run_training(Lora(r=4)), run_training(Lora(r=4), dtype="bfloat16")
    assert rough.losses == pytest.approx(exact.losses, abs=0.1)
    assert rough.losses != exact.losses
    for weight in rough.model.parameters():
        assert weight.dtype == (torch.float32 if weight.requires_grad else torch.bfloat16)


@pytest.mark.parametrize("strategy", [Lora(r=4), Prefix(num_virtual_tokens=4), adalora()], ids=str)
def test_frozen_weights_stay_as_they_are(strategy: Strategy, run_training: Train) -> None:
    before = run_training.adapted(strategy, "bfloat16", 0)  # type: ignore[attr-defined]
    after = run_training(strategy, dtype="bfloat16").model
    frozen = {n: w for n, w in before.named_parameters() if not w.requires_grad and ".ranknum." not in n}
    own = dict(after.named_parameters())
    assert frozen
    assert all(torch.equal(own[name], weight) for name, weight in frozen.items())
    trained = [n for n, w in before.named_parameters() if w.requires_grad]
    assert any(not torch.equal(own[n], dict(before.named_parameters())[n]) for n in trained)


def test_the_seed_decides_the_losses(run_training: Train) -> None:
    first, again, other = (run_training(Lora(r=4, dropout=0.3), seed=seed) for seed in (1, 1, 2))
    assert first.losses == again.losses
    assert first.losses != other.losses


class Spoils(Lora):
    """Lora whose weights become NaN after step 2."""

    def after_step(self, model: Any, step: int) -> None:
        if step == 2:
            weight = next(w for w in model.parameters() if w.requires_grad)
            weight.data.fill_(math.nan)


def test_a_loss_that_is_not_a_number_ends_the_run_at_its_step(run_training: Train, tmp_path: Path) -> None:
    folder = tmp_path / "spoiled"
    with pytest.raises(NonFiniteLossError, match="loss became nan at step 3 of 6") as error:
        run_training(Spoils(r=4), folder=folder)
    assert "learning_rate" in error.value.remedy
    lines = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]


class BreaksGradient(Lora):
    """Lora with a penalty of 0 whose gradient is not a number."""

    def penalty(self, model: Any) -> torch.Tensor:
        return sum((w * 0).sum() for w in model.parameters() if w.requires_grad).sqrt()  # type: ignore[union-attr,return-value]


def test_a_gradient_that_is_not_a_number_ends_the_run_too(run_training: Train, tmp_path: Path) -> None:
    """Else the last step could spoil the model without a word, and write NaN into a JSON file."""
    folder = tmp_path / "broken"
    with pytest.raises(NonFiniteLossError, match="gradient's norm became nan at step 1 of 6"):
        run_training(BreaksGradient(r=4), folder=folder)
    assert (folder / "steps.jsonl").read_text() == ""


class Worsens(Lora):
    """Lora that learns for four steps and is then thrown about; keeps its weights of step 4."""

    def after_step(self, model: Any, step: int) -> None:
        trained = {n: w for n, w in model.named_parameters() if w.requires_grad}
        if step == 4:
            BEST.update({name: weight.detach().clone() for name, weight in trained.items()})
        if step > 4:
            for weight in trained.values():
                weight.data += 0.3 * torch.randn_like(weight)


BEST: dict[str, torch.Tensor] = {}


def test_early_stopping_stops_and_gives_the_best(run_training: Train, rows: list[Row]) -> None:
    BEST.clear()
    found = run_training(
        Worsens(r=4),
        validation_rows=rows[:6],
        max_steps=40,
        evaluation_steps=2,
        early_stopping_patience=2,
        learning_rate=4e-3,
        warmup_ratio=0,
    )
    assert list(found.validation) == [2, 4, 6, 8]
    losses = list(found.validation.values())
    assert min(losses) == losses[1]
    assert len(found.steps) == 8
    own = {n: w for n, w in found.model.named_parameters() if w.requires_grad}
    assert all(torch.equal(own[name], weight) for name, weight in BEST.items())
    kept = {path.name for path in (found.folder / "checkpoints").iterdir()}
    # The best, the one to go on from, and the one before it.
    assert kept == {"checkpoint-4", "checkpoint-6", "checkpoint-8"}


@pytest.mark.parametrize("strategy", STRATEGIES, ids=IDS)
def test_the_validation_loss_is_the_models_own(
    strategy: Strategy, run_training: Train, rows: list[Row]
) -> None:
    found = run_training(strategy, validation_rows=rows[:8], evaluation_steps=3, micro_batch_tokens=100)
    assert list(found.validation) == [3, 6]
    model, total, count = found.model.eval(), 0.0, 0
    with torch.no_grad():
        for row in rows[:8]:
            labels = torch.tensor([row.ids])
            labels[0, : row.answer_start] = IGNORED
            tokens = len(row.ids) - row.answer_start
            total += model(input_ids=torch.tensor([row.ids]), labels=labels).loss.item() * tokens
            count += tokens
    assert found.validation[6] == pytest.approx(total / count, abs=1e-4)
    assert found.validation[3] > found.validation[6]


@pytest.mark.parametrize(
    ("strategy", "dtype"), [(Lora(r=4, dropout=0.2), "float32"), (QLora(r=4), "bfloat16")], ids=str
)
def test_validation_does_not_change_the_training(
    strategy: Strategy, dtype: str, run_training: Train, rows: list[Row]
) -> None:
    if strategy.name == "qlora":
        pytest.importorskip("bitsandbytes")
    plain = run_training(strategy, dtype=dtype)
    watched = run_training(strategy, dtype=dtype, validation_rows=rows[:8], evaluation_steps=1)
    assert watched.losses == plain.losses


def test_adaloras_penalty_is_added_and_outside_the_reported_loss(
    run_training: Train, rows: list[Row]
) -> None:
    strategy = adalora(orth_reg_weight=0.5)
    model = run_training.adapted(strategy, "float32", 0)  # type: ignore[attr-defined]
    # The model's own forward would add the penalty to the loss as well.
    for config in model.peft_config.values():
        config.orth_reg_weight = 1e-12
    expected = reference(model, rows, strategy.penalty, strategy.after_step)
    found = run_training(strategy, micro_batch_tokens=100)  # several pieces: it must be added once
    assert found.losses == pytest.approx([figures["loss"] for figures in expected], abs=1e-4)
    norms = [step["grad_norm"] for step in found.steps]
    assert norms == pytest.approx([figures["grad_norm"] for figures in expected], rel=1e-3)
    without = run_training(adalora(orth_reg_weight=1e-12))
    assert norms != pytest.approx([step["grad_norm"] for step in without.steps], rel=1e-2)


class Watched(Lora):
    """Lora that notes what it finds after each step."""

    def after_step(self, model: Any, step: int) -> None:
        trained = [w for w in model.parameters() if w.requires_grad]
        SEEN.append(
            (step, all(w.grad is not None for w in trained), sum(float(w.grad.norm()) for w in trained))
        )


SEEN: list[tuple[int, bool, float]] = []


def test_after_step_finds_the_gradients_once_a_step(run_training: Train) -> None:
    SEEN.clear()
    run_training(Watched(r=4), micro_batch_tokens=60)
    assert [step for step, _, _ in SEEN] == [1, 2, 3, 4, 5, 6]
    assert all(there and norm > 0 for _, there, norm in SEEN)


def test_adalora_does_give_up_ranks(run_training: Train) -> None:
    model = run_training(adalora()).model
    ranks = [float((w != 0).sum()) for n, w in model.named_parameters() if ".lora_E." in n]
    assert sum(ranks) <= 2 * len(ranks) + len(ranks)  # 8 at the start, about 2 on the average now


def test_steps_have_the_fields_of_the_design(run_training: Train, rows: list[Row]) -> None:
    found = run_training(Lora(r=4))
    assert [line["step"] for line in found.lines] == [1, 2, 3, 4, 5, 6]
    for number, line in enumerate(found.lines):
        assert set(line) == {"step", "loss", "learning_rate", "grad_norm", "tokens", "seconds"}
        assert line["seconds"] > 0
        mask = batch_of(rows, number)["attention_mask"]
        assert line["tokens"] == int(mask.sum()) < mask.numel()  # padding is not counted
    events = [json.loads(line) for line in (found.folder / "events.jsonl").read_text().splitlines()]
    assert [event["step"] for event in events if event["event"] == "step"] == [1, 2, 3, 4, 5, 6]
    assert all(event["of"] == 6 for event in events if event["event"] == "step")


def test_throughput_leaves_the_first_two_steps_out() -> None:
    own = Throughput()
    assert own.rate(own.timed_tokens) is None
    for seconds, tokens in ((10.0, 100), (10.0, 100), (2.0, 100), (3.0, 50)):
        own.add(seconds, StepFigures(1, 1.0, tokens, 10, 8))
    assert own.rate(own.timed_tokens) == pytest.approx(150 / 5)
    assert own.rate(own.timed_examples) == pytest.approx(16 / 5)
    assert (own.steps, own.tokens, own.answer_tokens, own.examples) == (4, 350, 40, 32)
    assert own.seconds == pytest.approx(25)


def test_throughput_of_a_resumed_run_leaves_its_own_first_steps_out() -> None:
    first = Throughput()
    for _ in range(3):
        first.add(1.0, StepFigures(1, 1.0, 100, 10, 8))
    second = Throughput()
    second.restore(json.loads(json.dumps(first.state())))
    for _ in range(3):
        second.add(4.0, StepFigures(1, 1.0, 100, 10, 8))
    assert second.resumed == 1
    assert second.steps == 6
    assert second.rate(second.timed_tokens) == pytest.approx(200 / 5)


def test_throughput_is_made_of_the_steps(run_training: Train) -> None:
    found = run_training(Lora(r=4))
    timed = found.steps[2:]
    expected = sum(step["tokens"] for step in timed) / sum(step["seconds"] for step in timed)
    assert found.throughput.rate(found.throughput.timed_tokens) == pytest.approx(expected)
    assert found.throughput.tokens == sum(step["tokens"] for step in found.steps)
    assert found.throughput.examples == 2 * 22


# Matrices of one layer: q and o 64 x 64, k and v 64 x 32, three of 64 x 128; the head is 64 x V.
BODY = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128)
HEAD = 512 * 64


def test_flops_of_full_tuning_by_hand(run_training: Train) -> None:
    model = run_training.adapted(Full(), "float32", 0)  # type: ignore[attr-defined]
    assert train_flops(model, 1000, 50) == 1000 * 6 * BODY + 50 * 6 * HEAD


def test_flops_of_lora_by_hand(run_training: Train) -> None:
    model = run_training.adapted(Lora(r=4), "float32", 0)  # type: ignore[attr-defined]
    adapters = 2 * 4 * (128 + 96 + 96 + 128 + 3 * 192)
    assert train_flops(model, 1000, 50) == 1000 * (4 * BODY + 6 * adapters) + 50 * 4 * HEAD


def test_flops_see_the_whole_of_a_sharded_weight(run_training: Train) -> None:
    """ZeRO-3 leaves a flat piece in each process, with the real shape beside it."""
    model = run_training.adapted(Full(), "float32", 0)  # type: ignore[attr-defined]
    expected = train_flops(model, 1000, 50), count_parameters(model)
    for weight in model.parameters():
        weight.ds_shape, weight.ds_numel = weight.shape, weight.numel()
        weight.data = torch.empty(0)
    assert (train_flops(model, 1000, 50), count_parameters(model)) == expected


def test_four_bit_weights_count_as_what_they_stand_for(run_training: Train) -> None:
    pytest.importorskip("bitsandbytes")
    plain = run_training.adapted(Lora(r=4), "float32", 0)  # type: ignore[attr-defined]
    packed = run_training.adapted(QLora(r=4), "float32", 0)  # type: ignore[attr-defined]
    assert sum(w.numel() for w in packed.parameters()) < sum(w.numel() for w in plain.parameters())
    assert count_parameters(packed) == count_parameters(plain)
    assert train_flops(packed, 1000, 50) == train_flops(plain, 1000, 50)


def test_tied_weights_count_once(run_training: Train) -> None:
    model = run_training.adapted(Full(), "float32", 0)  # type: ignore[attr-defined]
    norms = 5 * 64
    assert count_parameters(model) == (BODY + HEAD + norms,) * 2


@pytest.mark.parametrize(
    ("train", "steps", "checkpoint", "evaluation"),
    [
        ({"epochs": 3}, 9, 3, None),
        ({"epochs": 0.5}, 2, 1, None),
        ({"max_steps": 100}, 100, 25, None),
        ({"max_steps": 100, "checkpoint_steps": 7}, 100, 7, None),
        ({"max_steps": 100, "evaluation_steps": 30}, 100, 25, 30),
        ({"max_steps": 100, "early_stopping_patience": 1}, 100, 10, 10),
        ({"max_steps": 5, "early_stopping_patience": 1}, 5, 1, 1),
    ],
)
def test_the_plan(
    train: dict[str, Any], steps: int, checkpoint: int, evaluation: int | None, make_spec: Any
) -> None:
    plan = Plan.of(make_spec(**{"max_steps": None, **train}), train_n=22, validation_n=5)
    assert plan == Plan(steps, 3, checkpoint, evaluation)
