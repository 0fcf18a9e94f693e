"""How many steps a run has, and what transformers.Trainer is told of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from harness.contracts import Engine
from harness.errors import UsageError
from harness.spec import RunSpec


@dataclass(frozen=True)
class Plan:
    """Steps of a run, counted before it starts."""

    steps: int
    steps_an_epoch: int
    checkpoint_steps: int
    evaluation_steps: int | None

    @classmethod
    def of(cls, spec: RunSpec, train_n: int, validation_n: int) -> Plan:
        train = spec.train
        an_epoch = math.ceil(train_n / train.batch_size)
        steps = train.max_steps or math.ceil(train.epochs * an_epoch)
        evaluation = train.evaluation_steps
        if train.early_stopping_patience is not None and evaluation is None:
            evaluation = max(1, steps // 10)
        if not validation_n and evaluation is not None:
            raise UsageError(
                "a validation loss is asked for, and this task has no validation items",
                "Leave out train.early_stopping_patience and train.evaluation_steps.",
            )
        checkpoint = train.checkpoint_steps or max(1, math.ceil(steps / 4))
        if train.early_stopping_patience is not None and evaluation is not None:
            checkpoint = evaluation  # the best model is restored from its checkpoint
        return cls(steps, an_epoch, checkpoint, evaluation)


def training_arguments(spec: RunSpec, plan: Plan, folder: Path, engine: Engine) -> TrainingArguments:
    """The library's settings for a run that trains, its checkpoints in `folder`."""
    train = spec.train
    early = train.early_stopping_patience is not None and plan.evaluation_steps is not None
    checkpointing: dict[str, Any] = {}
    if train.gradient_checkpointing:
        # Renamed in the course of transformers 5.
        renamed = hasattr(TrainingArguments, "activation_checkpointing")
        name = "activation_checkpointing" if renamed else "gradient_checkpointing"
        checkpointing = {name: True, f"{name}_kwargs": {"use_reentrant": False}}
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=plan.steps,
        learning_rate=train.required_learning_rate,
        lr_scheduler_type={"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}[
            train.schedule
        ],
        # Rounded down: the first step of a warm-up has rate 0, and a run of one step must train.
        warmup_steps=int(train.warmup_ratio * plan.steps),
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        **checkpointing,
        # The loader yields a whole optimiser step at a time; see StepTrainer.training_step.
        per_device_train_batch_size=1,
        gradient_accumulation_steps=1,
        # Autocast is ours (StepTrainer), so that every engine keeps trainable weights in float32.
        bf16=False,
        use_cpu=not torch.cuda.is_available(),
        seed=spec.seed,
        data_seed=spec.seed,
        save_strategy="steps",
        save_steps=plan.checkpoint_steps,
        save_total_limit=None,  # RunCallback deletes old checkpoints, once the new one is whole
        eval_strategy="steps" if plan.evaluation_steps else "no",
        eval_steps=plan.evaluation_steps,
        load_best_model_at_end=early,
        metric_for_best_model="eval_loss" if early else None,
        greater_is_better=False if early else None,
        logging_strategy="no",
        logging_nan_inf_filter=False,
        remove_unused_columns=False,
        restore_callback_states_from_checkpoint=True,  # the patience counted so far
        report_to="none",
        disable_tqdm=True,
        ddp_find_unused_parameters=False,
        **engine.trainer_arguments(spec),
    )
