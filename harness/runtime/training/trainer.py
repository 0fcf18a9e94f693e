"""Training: transformers.Trainer with our batches, our loss positions and the strategy's optimiser."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import EarlyStoppingCallback, PreTrainedTokenizerBase, Trainer, TrainerControl

from harness.contracts import Engine, Strategy
from harness.runtime.models.attention import float32_short_attention
from harness.runtime.models.positions import Positions, chosen_positions, vocabulary_size
from harness.runtime.models.rotary import forgetting, rotary_of
from harness.runtime.tokens.rows import Row, padding_id
from harness.runtime.training.arguments import training_arguments
from harness.runtime.training.batches import (
    IGNORED,
    Batch,
    Cut,
    StepBatches,
    StepLoader,
    collate,
    micro_batches,
)
from harness.runtime.training.callbacks import RunCallback, StepFigures, TrainingFinishedError
from harness.runtime.training.checkpoints import load_trained, make_room, save_trained
from harness.runtime.training.kernels import differentiable, kernels
from harness.runtime.training.loss_scale import LossScale, drop_gradients
from harness.runtime.training.losses import answer_losses
from harness.runtime.training.packing import packed_cut, refuse_untrainable
from harness.runtime.training.strategy_state import restore_state, save_state
from harness.spec import RunSpec

CPU_PASS_TOKENS = 64
"""What a forward and backward pass costs on a CPU before its first token, in tokens: 0.24 s against
4.6 ms a token, measured with lora and smollm2-135m."""


def train_model(
    model: nn.Module,
    strategy: Strategy,
    spec: RunSpec,
    rows: tuple[Sequence[Row], Sequence[Row]],
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    callback: RunCallback,
    engine: Engine,
) -> nn.Module:
    """Train `model` on rows[0], with validation losses on rows[1]; returns the (unwrapped) model.

    Goes on from the checkpoint that `callback.resume` found in `folder`; where that was written after the
    last step, no step is made. Raises NonFiniteLossError at the first
    step whose loss is not a number, UsageError for attention or packing that cannot be trained with.
    """
    train_rows, validation_rows = rows
    plan = callback.plan
    arguments = training_arguments(spec, plan, folder, engine)
    refuse_untrainable(spec, arguments.device)
    with differentiable(model):
        packed = packed_cut(model, spec, arguments.device, callback.notice)
    trainer = StepTrainer(
        model=model,
        args=arguments,
        strategy=strategy,
        engine=engine,
        spec=spec,
        train_rows=train_rows,
        validation_rows=validation_rows,
        pad_id=padding_id(tokenizer, vocabulary_size(model)),
        cut=replace(packed or padded_cut(spec, arguments.device), kind=rotary_of(model).kind),
        callback=callback,
    )
    if spec.train.early_stopping_patience is not None and plan.evaluation_steps is not None:
        trainer.add_callback(EarlyStoppingCallback(spec.train.early_stopping_patience))
    found = callback.resumed_from
    with (
        differentiable(model),
        float32_short_attention(arguments.device),
        kernels(trainer.model, spec, arguments.device),
        forgetting(trainer.model),
        chosen_positions(trainer.model) as positions,
    ):
        trainer.positions = positions
        try:
            trainer.train(resume_from_checkpoint=str(found.path) if found else None)
        except TrainingFinishedError:  # the library would make one more step
            trainer.restore_best()
    return trainer.trained_model()


def padded_cut(spec: RunSpec, device: torch.device) -> Cut:
    budget = spec.train.micro_batch_tokens
    # On a GPU a pass of a small batch takes as long as starting its kernels: as few as will fit.
    return Cut(budget, CPU_PASS_TOKENS if device.type == "cpu" else budget)


class StepTrainer(Trainer):  # type: ignore[misc]
    """A Trainer whose loader yields the micro-batches of one optimiser step at a time.

    The loss of a step is the mean over all answer tokens of its examples, whatever the number of
    micro-batches and processes; so a smaller token budget changes memory, not the result.
    """

    optimizer: torch.optim.Optimizer | None  # these two are Trainer's
    control: TrainerControl

    def __init__(
        self,
        *,
        strategy: Strategy,
        engine: Engine,
        spec: RunSpec,
        train_rows: Sequence[Row],
        validation_rows: Sequence[Row],
        pad_id: int,
        cut: Cut,
        callback: RunCallback,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            train_dataset=list(train_rows),
            # Read by `evaluate` below; Trainer only asks whether there is one.
            eval_dataset=list(validation_rows) or None,
            callbacks=[callback],
            **kwargs,
        )
        self._strategy = strategy
        self._engine = engine
        self._spec = spec
        self._validation_rows = validation_rows
        self._pad_id = pad_id
        self._cut = cut
        self._callback = callback
        self.positions: Positions | None = None
        self._loss_scale = LossScale(spec, self.args.device)
        # The position hook keeps N logits of B x T, so a loss computed by the model would be wrong.
        self.model_accepts_loss_kwargs = False

    def get_train_dataloader(self) -> StepLoader:
        rows = self.train_dataset
        batches = StepBatches(
            [len(row.ids) for row in rows],
            seed=self._spec.seed,
            batch_size=self._spec.train.batch_size,
            cut=self._cut,
            rank=self.args.process_index,
            world=self.args.world_size,
        )
        return StepLoader(rows, batches, self._pad_id)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            self.optimizer = self._strategy.optimizer(
                self.model if model is None else model, self._spec.train
            )
        return self.optimizer

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        self._callback.after_clipping(None if norm is None else float(norm), self.state.global_step + 1)
        return norm

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The weights of a checkpoint: what is trained. Some engines write them with their own state.

        It is the first that is written of a checkpoint.
        """
        if self.args.should_save:
            make_room(Path(output_dir or self.args.output_dir))
        if not self._engine.keeps_weights and self.args.should_save:
            save_trained(self.model, Path(output_dir or self.args.output_dir))
            self._loss_scale.save(Path(output_dir or self.args.output_dir))
        if self.args.should_save:
            save_state(self._strategy, self.model, Path(output_dir or self.args.output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_trained(self.model, Path(resume_from_checkpoint))
        self._loss_scale.load(Path(resume_from_checkpoint))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)  # in each engine after the weights
        if checkpoint is not None:
            restore_state(self._strategy, self.model, Path(checkpoint))

    def _load_best_model(self) -> None:
        if self._engine.keeps_weights:
            super()._load_best_model()
        else:
            load_trained(self.model, Path(self.state.best_model_checkpoint))
        restore_state(self._strategy, self.model, Path(self.state.best_model_checkpoint))

    def restore_best(self) -> None:
        """With early stopping: put back the weights of the lowest validation loss."""
        if self.args.load_best_model_at_end and self.state.best_model_checkpoint is not None:
            self._load_best_model()

    def floating_point_ops(self, inputs: Any) -> int:
        return 0  # counted by harness.runtime.training.flops instead, on what is really trained

    def training_step(
        self, model: nn.Module, inputs: list[Batch], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Forward and backward of all micro-batches of one step; returns its loss, detached."""
        model.train()
        answer_tokens, tokens, examples = self._counts(inputs)
        step = self.state.global_step + 1
        while True:
            scale = self._loss_scale.scale
            loss = self._backward(model, inputs, answer_tokens)
            figures = StepFigures(step, float(loss), tokens, answer_tokens, examples, scale)
            self._callback.after_backward(figures)
            if self.optimizer is None or self._loss_scale.settle(self.optimizer):
                return loss
            drop_gradients(self.model.parameters())

    def _backward(self, model: nn.Module, inputs: list[Batch], answer_tokens: int) -> torch.Tensor:
        """Gradients of a step's loss, all its micro-batches added up; returns the loss, detached."""
        world = self.args.world_size
        loss = torch.zeros(1, device=self.args.device)
        for i, micro in enumerate(inputs):
            last = i == len(inputs) - 1
            self.accelerator.gradient_state._set_sync_gradients(last)
            with self._no_sync(model, last):
                nll = self._nll(model, micro)
                # Gradients are averaged over processes; the sum over all tokens is wanted.
                scaled = nll * (world / answer_tokens)
                if last and (penalty := self._strategy.penalty(self.model)) is not None:
                    scaled = scaled + penalty
                self.accelerator.backward(self._loss_scale.scaled(scaled), **self._engine.backward_arguments)
            loss += nll.detach() / answer_tokens
        return self._sum_over_processes(loss)[0]

    def _counts(self, inputs: list[Batch]) -> tuple[int, int, int]:
        """Answer tokens, tokens and examples of a step, over all processes; batches are on the host."""
        counts = torch.tensor(
            [
                sum(int((micro["labels"] != IGNORED).sum()) for micro in inputs),
                sum(int(micro["tokens"]) for micro in inputs),
                sum(int(micro["examples"]) for micro in inputs),
            ]
        )
        if self.args.world_size > 1:  # alone, nothing need go to the device and back
            counts = self._sum_over_processes(counts.to(self.args.device))
        answer_tokens, tokens, examples = counts.tolist()
        return answer_tokens, tokens, examples

    def _no_sync(self, model: nn.Module, last: bool) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext() if last else self._engine.without_exchange(self.accelerator, model)

    def _sum_over_processes(self, values: torch.Tensor) -> torch.Tensor:
        if self.args.world_size > 1:
            torch.distributed.all_reduce(values)
        return values

    def _nll(self, model: nn.Module, micro: Batch) -> torch.Tensor:
        """Summed negative log-likelihood of a micro-batch's answer tokens, a scalar in float32."""
        if self.positions is None:
            raise RuntimeError("training outside train_model: the positions hook is not installed")
        return answer_losses(model, micro, self.positions, self.args.device, self._spec.model.dtype)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Validation loss: mean negative log-likelihood an answer token, over all processes."""
        model = self.model_wrapped
        model.eval()
        totals = torch.zeros(2, dtype=torch.float64, device=self.args.device)
        rows = self._validation_rows
        # Every process scores every row: collectives stay in step, and nothing is gathered.
        with torch.no_grad():
            for micro in micro_batches({i: len(r.ids) for i, r in enumerate(rows)}, self._cut):
                batch = collate([rows[i] for i in micro], self._pad_id, packed=self._cut.packed)
                totals[0] += self._nll(model, batch).double()
                totals[1] += (batch["labels"] != IGNORED).sum().to(totals.device)
        model.train()
        metrics = {"eval_loss": float(totals[0] / totals[1])}
        self._callback.after_validation(self.state.global_step, metrics["eval_loss"])
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def trained_model(self) -> nn.Module:
        """The model without the engine's wrapping."""
        return self.accelerator.unwrap_model(self.model_wrapped)  # type: ignore[no-any-return]
