"""What is written while a run trains: steps.jsonl, progress events, complete checkpoints."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from harness.contracts import Strategy
from harness.errors import NonFiniteLossError
from harness.runtime import checkpoints
from harness.runtime.device import process_age_seconds
from harness.runtime.events import Events
from harness.runtime.meter import memory_now

if TYPE_CHECKING:
    from harness.runtime.arguments import Plan

WARMUP_STEPS = 2
"""Steps left out of the throughput: they hold allocations, kernel choices and compilation."""


@dataclass(frozen=True, slots=True)
class StepFigures:
    """One optimiser step, summed over processes; `tokens` without padding.

    `loss_scale`: what its loss was multiplied by for the backward pass; None where it was not.
    """

    step: int
    loss: float
    tokens: int
    answer_tokens: int
    examples: int
    loss_scale: float | None = None


class Throughput:
    """Steps, seconds, tokens and examples of training, over all tries of a resumed run."""

    def __init__(self) -> None:
        self.steps = 0
        self.tokens = 0
        self.answer_tokens = 0
        self.examples = 0
        self.seconds = 0.0
        self.timed_tokens = 0
        self.timed_examples = 0
        self.timed_seconds = 0.0
        self.resumed = 0
        self.earlier_seconds = 0.0  # of whole processes, up to the checkpoint that this try went on from
        self._own_steps = 0

    def add(self, seconds: float, figures: StepFigures) -> None:
        self.steps += 1
        self._own_steps += 1
        self.tokens += figures.tokens
        self.answer_tokens += figures.answer_tokens
        self.examples += figures.examples
        self.seconds += seconds
        if self._own_steps > WARMUP_STEPS:
            self.timed_tokens += figures.tokens
            self.timed_examples += figures.examples
            self.timed_seconds += seconds

    def rate(self, count: int) -> float | None:
        """`count` a second of timed steps; None where a run was too short to time."""
        return count / self.timed_seconds if self.timed_seconds > 0 else None

    def state(self) -> dict[str, Any]:
        """What a later try takes over."""
        own = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        return {**own, "earlier_seconds": self.earlier_seconds + process_age_seconds()}

    def restore(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.resumed += 1


class RunCallback(TrainerCallback):  # type: ignore[misc]
    """Follows one training run; only the first process writes."""

    def __init__(
        self, plan: Plan, strategy: Strategy, folder: Path, events: Events, writes: bool, device: torch.device
    ) -> None:
        self.plan = plan
        self.throughput = Throughput()
        self._strategy = strategy
        self._steps_file = folder / "steps.jsonl"
        self._events = events
        self._writes = writes
        self._device = device
        self._figures: StepFigures | None = None
        self._learning_rate: float | None = None
        self._grad_norm: float | None = None
        self._step_started = time.perf_counter()

    def resume(self, checkpoint: Path | None) -> None:
        """Take over what earlier tries measured; drop steps after the checkpoint from the log."""
        kept: list[str] = []
        if checkpoint is not None:
            self.throughput.restore(checkpoints.measured(checkpoint))
            kept = _steps_until(self._steps_file, self.throughput.steps)
        if self._writes:
            self._steps_file.write_text("".join(kept), encoding="utf-8")

    def notice(self, text: str) -> None:
        """Something a user should know of this training, among the run's events."""
        self._events.notice(text)

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self._step_started = time.perf_counter()

    def after_backward(self, figures: StepFigures) -> None:
        """Called by the trainer once a step's gradients are there."""
        self._refuse_non_finite("loss", figures.loss, figures.step)
        self._figures = figures

    def after_clipping(self, grad_norm: float | None, step: int) -> None:
        """Called by the trainer before the optimiser: gradients that are not finite spoil every weight."""
        if grad_norm is not None:
            self._refuse_non_finite("gradient's norm", grad_norm, step)
        self._grad_norm = grad_norm

    def _refuse_non_finite(self, what: str, value: float, step: int) -> None:
        if not math.isfinite(value):
            raise NonFiniteLossError(
                f"the {what} became {value} at step {step} of {self.plan.steps}",
                "Lower the learning rate (--set train.learning_rate=...) or train in float32 (--set model.dtype=float32).",
            )

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._learning_rate = kwargs["optimizer"].param_groups[0]["lr"]

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # Here and not at the step's end: the gradients are gone by then, and AdaLoRA reads them.
        self._strategy.after_step(kwargs["model"], state.global_step + 1)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        seconds = time.perf_counter() - self._step_started
        figures = self._figures
        if figures is None:
            raise RuntimeError("a step ended that had no backward pass")
        self.throughput.add(seconds, figures)
        row = {
            "step": figures.step,
            "loss": figures.loss,
            "learning_rate": self._learning_rate,
            "grad_norm": self._grad_norm,
            "tokens": figures.tokens,
            "seconds": seconds,
        }
        if figures.loss_scale is not None:
            row["loss_scale"] = figures.loss_scale
        if self._writes:
            append_json_line(self._steps_file, row)
        memory, kind = memory_now(self._device)
        mean = self.throughput.seconds / self.throughput.steps
        self._events.emit(
            "step",
            step=state.global_step,
            of=self.plan.steps,
            loss=figures.loss,
            tokens_per_second=figures.tokens / seconds,
            memory_bytes=memory,
            memory_kind=kind,
            seconds_left=mean * (self.plan.steps - state.global_step),
        )

    def after_validation(self, step: int, loss: float) -> None:
        if self._writes:
            append_json_line(self._steps_file, {"step": step, "validation_loss": loss})

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if torch.distributed.is_initialized():
            torch.distributed.barrier()  # every process writes a part of the checkpoint
        if self._writes:
            best = Path(state.best_model_checkpoint).name if state.best_model_checkpoint else ""
            checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            checkpoints.complete(checkpoint, self.throughput.state(), keep={best})


def append_json_line(path: Path, row: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")


def _steps_until(path: Path, step: int) -> list[str]:
    """The lines of steps.jsonl up to `step`; a half-written last line is dropped."""
    if not path.exists():
        return []
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if not line.endswith("\n") or json.loads(line)["step"] > step:
            break
        kept.append(line)
    return kept
