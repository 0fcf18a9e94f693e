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
from harness.runtime.device import process_age_seconds, world_size
from harness.runtime.events import Events
from harness.runtime.meter import Meter, memory_now
from harness.runtime.training import checkpoints
from harness.store.leftovers import CHECKPOINTS

if TYPE_CHECKING:
    from harness.runtime.training.arguments import Plan

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
        self.passed_over: list[str] = []  # checkpoints found damaged, and what was done then
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


class TrainingFinishedError(Exception):
    """Raised once a checkpoint is loaded that was written after training's last step: there is none left."""


class RunCallback(TrainerCallback):  # type: ignore[misc]
    """Follows one training run; only the first process writes."""

    def __init__(
        self, plan: Plan, strategy: Strategy, folder: Path, events: Events, writes: bool, meter: Meter
    ) -> None:
        self.plan = plan
        self.throughput = Throughput()
        self.resumed_from: checkpoints.Found | None = None
        self._strategy = strategy
        self._steps_file = folder / "steps.jsonl"
        self._events = events
        self._writes = writes
        self._meter = meter
        self._device = meter.device
        self._figures: StepFigures | None = None
        self._learning_rate: float | None = None
        self._grad_norm: float | None = None
        self._step_started = time.perf_counter()

    def resume(self) -> None:
        """Find the checkpoint to go on from, if there is one: take over what earlier tries measured, and
        the log of steps as it was then. A damaged checkpoint is passed over, and that is said.
        """
        folder = self._steps_file.parent / CHECKPOINTS
        found, passed_over = checkpoints.usable(folder)
        kept = b""
        if found is not None:
            checkpoints.refuse_other_processes(found, world_size())
            self.throughput.restore(found.progress.measured)
            self._meter.earlier_peaks = found.progress.peaks
            kept = checkpoints.stored_steps(found)
        for text in passed_over:
            self.throughput.passed_over.append(f"{text}: {_going_on(found)}")
            self.notice(self.throughput.passed_over[-1])
        if self._writes:
            self._steps_file.write_bytes(kept)
            checkpoints.keep_only(found, folder)
        self.resumed_from = found

    def notice(self, text: str) -> None:
        """Something a user should know of this training, among the run's events."""
        self._events.notice(text)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.best_global_step:  # the stored path is of where the run's folder lay then
            state.best_model_checkpoint = str(Path(args.output_dir) / f"checkpoint-{state.best_global_step}")
        if self.resumed_from is not None and self.resumed_from.progress.finished:
            raise TrainingFinishedError

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
        peaks = self._meter.peaks_so_far()
        if self._writes:
            progress = checkpoints.Progress(
                measured=self.throughput.state(),
                peaks=peaks,
                finished=control.should_training_stop,
                best=f"checkpoint-{state.best_global_step}" if state.best_global_step else None,
                processes=world_size(),
            )
            checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            checkpoints.complete(checkpoint, progress, self._steps_file)


def _going_on(found: checkpoints.Found | None) -> str:
    return f"going on from {found.path.name}" if found else "training starts anew"


def append_json_line(path: Path, row: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")
