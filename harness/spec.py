"""What one run is: a frozen, complete description, and the name made from it.

Where a run executes (processes, GPUs, partition) is not in it, so that moving to another machine
keeps its identity.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

AUTO: Literal["auto"] = "auto"
Dtype = Literal["bfloat16", "float16", "float32"]
Scoring = Literal["letter", "cloze"]
SCORINGS: tuple[Scoring, ...] = ("letter", "cloze")


class Frozen(BaseModel):
    """Base of everything stored: immutable, unknown keys refused, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


class ModelSpec(Frozen):
    name: str = Field(
        "smollm2-135m",
        description="a name from `list models`, a Hub id, a folder, or random:<name or folder>",
    )
    revision: str | None = Field(None, description="branch, tag or commit of a Hub model")
    # The default is what ids count from and no longer what a run gets: runs stored when it was are found
    # where auto means bfloat16, and one in another precision is another run. A spec never says auto.
    dtype: Dtype = Field(
        "bfloat16", description="of the frozen weights, and of autocast; float32 turns autocast off"
    )
    attention: Literal["sdpa", "eager", "flash_attention_2", "flex_attention"] = Field(
        "sdpa", description="attention implementation; flex_attention trains on a GPU only"
    )
    max_length: int | None = Field(None, ge=8, description="tokens of context; default: the model's own")


class AskedModel(ModelSpec):
    """What may be asked of the model. harness.ask.precision says what `auto` means before there is a spec."""

    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(  # type: ignore[assignment]
        AUTO,
        description="of the frozen weights, and of autocast; auto: bfloat16 where the device has instructions "
        "for it, else float32 on a CPU and float16 on a GPU",
    )


class StrategySpec(Frozen):
    name: str
    settings: dict[str, Any] = Field(default_factory=dict, description="every setting, defaults included")
    at_default: tuple[str, ...] | None = Field(
        None,
        description="settings that equal the strategy's defaults, which are no part of a run's name; "
        "None in older specs: all settings are",
    )


FOLDS = 5
"""Parts of train, each held out once where validation is too small to choose by."""


class TaskSpec(Frozen):
    name: str
    source: str = Field("sample", description="hub, sample, or a folder")
    scoring: Scoring = Field("letter", description="letter, or cloze (the option's text)")
    shots: int = Field(0, ge=0, le=64, description="worked examples before the question")
    limit: int | None = Field(None, ge=1, description="only the first N test items")
    split: Literal["test", "validation", "train"] = Field(
        "test",
        description="what is scored; tuning trials score validation, or a fold of train, and leave test alone",
    )
    fold: int | None = Field(
        None, ge=0, lt=FOLDS, description="the fold of train that is held out of training and scored"
    )


class TrainSpec(Frozen):
    learning_rate: float | None = Field(
        None, gt=0, le=10, description="default: the strategy's own, times the scale of the model's width"
    )
    epochs: float = Field(
        2.0, gt=0, le=1000, description="passes over the training split (Med42-v2, arXiv 2408.06142)"
    )
    max_steps: int | None = Field(None, ge=1, description="optimiser steps; overrides epochs")
    limit: int | None = Field(None, ge=1, description="only N training examples, drawn by seed")
    batch_size: int = Field(16, ge=1, description="examples an optimiser step, over all processes")
    micro_batch_tokens: int = Field(
        4096,
        ge=16,
        description="tokens a forward pass and process, with their padding; a batch is split to fit, with the same "
        "gradient",
    )
    packing: Literal["auto", "on", "off"] = Field(
        "auto",
        description="a pass is one row of its examples, without padding; auto: with flash_attention_2 and "
        "flex_attention",
    )
    max_length: int = Field(
        1024, ge=16, description="tokens; a longer prompt loses its beginning, never its answer"
    )
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="of the learning rate, after warm-up"
    )
    warmup_ratio: float = Field(0.05, ge=0, lt=1, description="share of the steps")
    weight_decay: float = Field(0.01, ge=0, description="on matrices only")
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    adam_beta2: float = Field(0.999, ge=0, lt=1)
    max_grad_norm: float = Field(1.0, gt=0, description="gradient clipping")
    gradient_checkpointing: bool = Field(False, description="recompute activations: less memory, slower")
    compile: bool = Field(
        False, description="torch.compile of the model's layers: a slow first step, then faster ones"
    )
    kernels: Literal["torch", "liger"] = Field(
        "torch", description="liger: fused norms, rotary positions and gated layers (GPU; medtune[liger])"
    )
    early_stopping_patience: int | None = Field(
        None,
        ge=1,
        description="evaluations on validation without a lower loss before stopping; keeps the best",
    )
    evaluation_steps: int | None = Field(
        None,
        ge=1,
        description="steps between validation losses; default: ten a run where early stopping is on, else none",
    )
    checkpoint_steps: int | None = Field(
        None, ge=1, description="steps between checkpoints; default: four a run"
    )

    @property
    def required_learning_rate(self) -> float:
        """The learning rate of a resolved spec; resolving fills it in for every run that trains."""
        if self.learning_rate is None:
            raise ValueError("learning_rate is unresolved: pass the spec through study.resolve first")
        return self.learning_rate


class EngineSpec(Frozen):
    name: str = Field("plain", description="plain (PyTorch by itself), deepspeed (ZeRO), or one of a plugin")
    zero_stage: Literal[0, 1, 2, 3] = Field(
        2, description="what ZeRO shards: 1 optimiser, 2 + gradients, 3 + weights"
    )
    offload: Literal["none", "cpu"] = Field(
        "none", description="where ZeRO keeps optimiser state (and, at stage 3, weights)"
    )
    evaluation_batch_tokens: int | None = Field(
        None, ge=64, description="tokens a forward pass when scoring; default: by the free memory"
    )


class PluginSpec(Frozen):
    path: str = Field(description="the file, or of an installed plugin module:class as its package names it")
    sha256: str
    package: str | None = Field(None, description="the package that brings an installed plugin")


class RunSpec(Frozen):
    model: ModelSpec = ModelSpec()
    strategy: StrategySpec
    task: TaskSpec
    train: TrainSpec = TrainSpec()
    engine: EngineSpec = EngineSpec()
    seed: int = Field(0, ge=0, lt=2**32)
    plugins: tuple[PluginSpec, ...] = Field(
        (), description="files that supply this run's strategy, task or probes"
    )
    probes: tuple[str, ...] = Field((), description="what is measured on the finished model, in this order")

    @property
    def run_id(self) -> str:
        """`task-strategy-model-sSEED-hash8`, the hash over what differs from the defaults."""
        parts = (self.task.name, self.strategy.name, self.model.name)
        return "-".join([*map(slug, parts), f"s{self.seed}", self.digest[:8]])

    @property
    def plugin_packages(self) -> list[str]:
        """The installed packages that bring its strategy or task."""
        return [plugin.package for plugin in self.plugins if plugin.package is not None]

    @property
    def trains(self) -> bool:
        """Resolving gives a learning rate to every strategy that trains, and to no other."""
        return self.train.learning_rate is not None

    @property
    def seeded(self) -> bool:
        """Whether another seed would answer otherwise: it trains, or draws worked examples."""
        return self.trains or self.task.shots > 0

    @property
    def digest(self) -> str:
        """SHA-256 over the settings that differ from the defaults; where plugins lie is left out."""
        own = self.model_dump(mode="json", exclude_defaults=True)
        usual = own["strategy"].pop("at_default", None)
        if usual is not None:
            counted = {k: v for k, v in self.strategy.settings.items() if k not in usual}
            own["strategy"] = {"name": self.strategy.name, **({"settings": counted} if counted else {})}
        own["plugins"] = [plugin.sha256 for plugin in self.plugins]
        return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()


def slug(name: str) -> str:
    """`name` as one safe part of a file name: lower case, no separators, at most 40 characters."""
    safe = re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.")
    return safe[-40:].strip("-.") or "unnamed"
