"""Any method of the PEFT library, by the name and the settings the library gives it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from harness.errors import UsageError, all_at_once, did_you_mean, unknown_name
from strategies._adalora import orthogonality, rank_state, restore_ranks
from strategies._peft import AdapterStrategy, refuse_gradient_checkpointing

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from harness.spec import TrainSpec

CONFIG_NAME = "adapter_config.json"
TASK_TYPE = "CAUSAL_LM"

# Best of the stored runs of the PEFT method comparison (MetaMathQA, Llama-3.2-3B,
# github.com/huggingface/peft at 5d602fd), except IA3: its paper, arXiv 2205.05638. A method that
# is not here takes the class's default, LoRA's: right for low-rank updates of weights, a first
# guess for the rest, which a study should tune (`--tune`).
LEARNING_RATES: dict[str, float] = {
    # weights themselves, or their singular directions
    "OSF": 5e-5,
    "SHIRA": 3e-4,
    # products and rotations of weights
    "DELORA": 1e-3,
    "HIRA": 4.5e-3,
    "LOKR": 3e-3,
    "ROAD": 1e-3,
    # few numbers that steer many: scales, shared vectors, kernels
    "C3A": 3e-1,
    "IA3": 3e-3,
    "PVERA": 3e-3,
    "TINYLORA": 1e-3,
    "UNILORA": 2e-3,
    "VBLORA": 5e-4,
    "VERA": 1e-3,
    # virtual tokens and embeddings
    "ADAPTION_PROMPT": 5e-3,
    "PREFIX_TUNING": 5e-3,
    "PROMPT_TUNING": 1e-3,
    "TRAINABLE_TOKENS": 2e-1,
}

# What a saved adapter_config.json says of its model and its making, not of the method.
_NOT_SETTINGS = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "inference_mode",
        "peft_type",
        "peft_version",
        "revision",
        "runtime_config",
        "task_type",
    }
)

_NEEDS_TASK_IDS = "it needs a task's number beside each example, and a run here has one task"
_REFUSED: dict[str, str] = {
    "CPT": "it needs to know of each token which part of the prompt it belongs to",
    "MULTITASK_PROMPT_TUNING": _NEEDS_TASK_IDS,
    "POLY": _NEEDS_TASK_IDS,
    "XLORA": "it mixes adapters that were trained before",
}

_CACHE_PREFIXES = frozenset({"PREFIX_TUNING", "CARTRIDGE"})


class Peft(AdapterStrategy):
    """`--set strategy.config.peft_type=VERA --set strategy.config.r=8`, or a saved configuration.

    Names and settings are those of the installed PEFT library; what is not set has the library's
    default, its choice of target modules included.
    """

    name = "peft"
    summary = "any method of the PEFT library, by its own name and settings"
    source = "the PEFT library, github.com/huggingface/peft; each method's paper is in its documentation"
    default_learning_rate: ClassVar[float | None] = 2e-4
    learning_rate_source = (
        "LoRA's for low-rank methods; for others the best of the PEFT method comparison (github.com/huggingface/peft, "
        "5d602fd), IA3 its paper's: the table in strategies/peft.py"
    )
    settings_at: ClassVar[str] = "strategy.config"

    config: dict[str, Any] = Field(
        default_factory=dict,
        description="peft_type and the method's settings, as in PEFT's adapter_config.json; task_type is CAUSAL_LM",
    )
    config_file: str | None = Field(
        None,
        description="an adapter_config.json or a folder with one; read once into config, whose own keys go first",
    )

    @model_validator(mode="before")
    @classmethod
    def _resolve(cls, data: Any) -> Any:
        """Read `config_file` into `config`, so that a stored spec holds what was run, and check it."""
        if not isinstance(data, dict) or not isinstance(data.get("config", {}), dict):
            return data  # pydantic says what is wrong with it
        config = dict(data.get("config", {}))
        path = data.get("config_file")
        if path is not None:
            config = {**_read(Path(path)), **config}
        return {**data, "config": _checked(config), "config_file": None}

    @property
    def peft_type(self) -> str:
        """The method's name as PEFT spells it, such as VERA."""
        return str(self.config["peft_type"])

    def peft_config(self) -> Any:
        """The method's `peft.PeftConfig`."""
        return _build(self.config)

    def adapt(self, model: PreTrainedModel) -> torch.nn.Module:
        """`model` wrapped as a `PeftModel`; adapter weights in float32, base weights frozen."""
        adapted = super().adapt(model)
        if self.peft_type == "ADALORA":
            # PEFT's cast to float32 makes AdaLoRA's rank counters trainable when the base is in half
            # precision (seen in 0.21); they are constants, and are not saved with the adapter.
            for name, weight in adapted.named_parameters():
                if ".ranknum." in name:
                    weight.requires_grad_(False)
        return adapted

    def learning_rate_default(self) -> float | None:
        """The method's own, from the table above; else the class's."""
        return LEARNING_RATES.get(self.peft_type, self.default_learning_rate)

    def optimizer(self, model: torch.nn.Module, train: TrainSpec) -> torch.optim.Optimizer:
        """AdamW; no decay on IA3's scales, which PEFT stores as (1, n) matrices and which rest at 1."""
        if self.peft_type in _CACHE_PREFIXES:
            refuse_gradient_checkpointing(self.peft_type, train)
        if self.peft_type == "IA3":
            train = train.model_copy(update={"weight_decay": 0.0})
        return super().optimizer(model, train)

    def penalty(self, model: torch.nn.Module) -> torch.Tensor | None:
        """AdaLoRA's pull towards orthogonal factors (arXiv 2303.10512, equation 4); others have none.

        PEFT adds it only to a loss that the model computes itself, and ours is computed outside.
        """
        if self.peft_type != "ADALORA":
            return None
        return orthogonality(model, float(self.peft_config().orth_reg_weight))

    def after_step(self, model: torch.nn.Module, step: int) -> None:
        """Let methods that move their rank budget (AdaLoRA) do it; gradients must still be there."""
        allocate = getattr(getattr(model, "base_model", None), "update_and_allocate", None)
        if allocate is not None:
            allocate(step)

    def state(self, model: torch.nn.Module) -> dict[str, torch.Tensor]:
        """AdaLoRA's moving averages of importance and, once ranks are allocated, which are kept."""
        return rank_state(model) if self.peft_type == "ADALORA" else {}

    def restore(self, model: torch.nn.Module, state: dict[str, torch.Tensor]) -> None:
        """Raises `UsageError` for a checkpoint of AdaLoRA that holds no such state."""
        if self.peft_type == "ADALORA":
            restore_ranks(model, state)


def _read(path: Path) -> dict[str, Any]:
    """The settings in an adapter_config.json, or in the one inside a folder."""
    file = path.expanduser()
    file = file / CONFIG_NAME if file.is_dir() else file
    remedy = f"Give a PEFT {CONFIG_NAME}, or a folder with one."
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"strategy.config_file {file}: {error.strerror}", remedy) from error
    except ValueError as error:
        raise UsageError(f"strategy.config_file {file}: not JSON: {error}", remedy) from error
    if not isinstance(content, dict) or "peft_type" not in content:
        raise UsageError(f"strategy.config_file {file}: has no peft_type", remedy)
    return content


def _checked(config: dict[str, Any]) -> dict[str, Any]:
    """`config` with the method's name as PEFT spells it and without what is not a setting.

    Raises `UsageError` on an unknown method, unknown settings, or values that PEFT refuses.
    """
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    known = {str(kind.value): cls for kind, cls in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    usable = sorted(set(known) - set(_REFUSED))
    if "peft_type" not in config:
        raise UsageError(
            "strategy peft: which method?",
            f"Set one, such as --set strategy.config.peft_type=VERA; there are {', '.join(usable)}.",
        )
    peft_type = str(config["peft_type"]).upper().replace("-", "_")
    if peft_type in _REFUSED:
        raise UsageError(
            f"strategy.config.peft_type {peft_type} cannot be used here: {_REFUSED[peft_type]}.",
            f"There are {', '.join(usable)}.",
        )
    if peft_type not in known:
        raise UsageError(unknown_name("strategy.config.peft_type", str(config["peft_type"]), usable))
    task_type = config.get("task_type") or TASK_TYPE
    if task_type != TASK_TYPE:
        raise UsageError(
            f"strategy.config.task_type is {task_type}, but every run here is {TASK_TYPE}.", "Leave it out."
        )
    settings = {key: value for key, value in config.items() if key not in _NOT_SETTINGS}
    _check_keys(peft_type, settings, known[peft_type])
    checked = {"peft_type": peft_type, **settings}
    _build(checked)
    return checked


def _check_keys(peft_type: str, settings: dict[str, Any], config_class: Any) -> None:
    valid = sorted({field.name for field in dataclasses.fields(config_class) if field.init} - _NOT_SETTINGS)
    problems = [
        f"unknown setting strategy.config.{key} of {peft_type}{did_you_mean(key, valid)}"
        for key in settings
        if key not in valid
    ]
    all_at_once(problems, f"{peft_type} has: {', '.join(valid)}.")


def _build(config: dict[str, Any]) -> Any:
    """The PEFT configuration of a checked `config`."""
    from peft import get_peft_config

    if config["peft_type"] == "ADALORA" and not config.get("total_step"):
        raise UsageError(
            "AdaLoRA plans its ranks over the whole run and needs the number of optimiser steps.",
            "Set it, with the same number for the run: --set strategy.config.total_step=200 --set train.max_steps=200",
        )
    try:
        return get_peft_config({**config, "task_type": TASK_TYPE})
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"strategy.config: {config['peft_type']} refuses these settings: {error}",
            "Correct strategy.config.",
        ) from error
