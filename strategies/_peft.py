"""What the methods built on the PEFT library share: attaching, precision, errors, saving."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator

from harness.contracts import Strategy, norms_in_float32
from harness.errors import UsageError, all_at_once, did_you_mean, first_line
from strategies._reach import check_reach, experts, multiplied

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from harness.spec import TrainSpec


def _module_names(value: object) -> object:
    """`q_proj,v_proj` of a command line as a tuple; `all-linear` and anything else as it is."""
    if isinstance(value, str) and value != "all-linear":
        value = tuple(part.strip() for part in value.split(",") if part.strip())
    if isinstance(value, (tuple, list)) and not value:
        raise ValueError("name at least one module, or all-linear")
    return value


ModuleNames = Annotated[tuple[str, ...], BeforeValidator(_module_names)]
TargetModules = Annotated[Literal["all-linear"] | tuple[str, ...], BeforeValidator(_module_names)]


class AdapterStrategy(Strategy):
    """A method of the PEFT library: a subclass says which configuration, the rest is here.

    The engine sets the seed right before `adapt`, so nothing here seeds anything.
    """

    settings_at: ClassVar[str] = "strategy"
    """Where the method's own settings are, as `--set` spells it; used in remedies."""

    @abstractmethod
    def peft_config(self) -> Any:
        """The `peft.PeftConfig` of this method."""

    def adapt(self, model: PreTrainedModel) -> torch.nn.Module:
        """`model` wrapped as a `PeftModel`; adapter weights in float32, base weights frozen."""
        return attach(model, self.peft_config(), self.settings_at)

    def save(self, model: Any, folder: Path) -> None:
        """The adapter alone, as `adapter_model.safetensors` with `adapter_config.json`."""
        # "auto" would ask the Hub for the base model's vocabulary size; medtune never resizes it.
        model.save_pretrained(folder, save_embedding_layers=False)


def attach(model: PreTrainedModel, config: Any, settings_at: str = "strategy") -> torch.nn.Module:
    """`model` with the adapter of `config`: trainable weights in float32, all others frozen.

    What is to be said of it is in its `notes`. Raises `UsageError` when a target module does not exist,
    when the method cannot be attached to this model or is not what it says there, or when nothing would
    be trained.
    """
    from peft import get_peft_model

    targets = getattr(config, "target_modules", None)
    _check_targets(model, targets, settings_at)
    method = str(getattr(config.peft_type, "value", config.peft_type))
    remedy = _remedy(model, settings_at)  # made now: a failed attempt leaves renamed layers behind
    weights, three_dimensional = multiplied(model), experts(model)
    asked = _take_dimensions(config)
    try:
        adapted = get_peft_model(
            model, config, autocast_adapter_dtype=True, revision=getattr(model, "base_revision", None)
        )
    except (ValueError, NotImplementedError, TypeError) as error:
        if "Conv1D" in str(error):
            remedy = "LORA, IA3, VERA and other methods adapt such layers; or give a model without them."
        raise UsageError(
            f"{method} cannot be attached to {type(model).__name__}: {first_line(str(error))}", remedy
        ) from error
    _check_dimensions(adapted, asked, settings_at)
    _check_bias(adapted, settings_at)
    note = check_reach(adapted, weights, targets == "all-linear", three_dimensional)
    adapted.notes = [*getattr(model, "notes", ()), *([note] if note else ())]
    _name_targets_apart(adapted, getattr(model, "removed_modules", ()))
    return trainable_in_float32(adapted)


_DIMENSIONS = ("num_layers", "token_dim", "num_attention_heads", "num_transformer_submodules")
"""Of a prefix or prompt: they follow from the model, and others make weights that nothing reads."""


def _take_dimensions(config: Any) -> dict[str, Any]:
    """The dimensions that `config` gives, taken out of it, so that the library finds the model's own."""
    if not getattr(config, "is_prompt_learning", False):
        return {}
    asked = {name: getattr(config, name, None) for name in _DIMENSIONS}
    for name in asked:
        setattr(config, name, None)
    return {name: value for name, value in asked.items() if value is not None}


def _check_dimensions(adapted: Any, asked: dict[str, Any], settings_at: str) -> None:
    config = adapted.peft_config[adapted.active_adapter]
    problems = [
        f"{settings_at}.{name} is {value}, and {type(adapted.get_base_model()).__name__} has {getattr(config, name)}"
        for name, value in asked.items()
        if value != getattr(config, name)
    ]
    all_at_once(problems, "Leave it out: it follows from the model.")


def _check_bias(adapted: Any, settings_at: str) -> None:
    """Refuse `bias=all` on a model without biases, which would be the method without it."""
    bias = getattr(adapted.peft_config[adapted.active_adapter], "bias", "none")
    if bias in ("none", False, None, True):
        return
    trained = (name for name, weight in adapted.named_parameters() if weight.requires_grad)
    if not any(name.endswith("bias") for name in trained):
        raise UsageError(
            f"{settings_at}.bias is {bias}, and {type(adapted.get_base_model()).__name__} has no biases there",
            "Leave it out, or give a model with biases (GPT-2, OPT, Qwen2.5).",
        )


def _name_targets_apart(adapted: Any, removed: Sequence[str]) -> None:
    """Let a saved configuration not reach into what was taken out of the model (a vision tower).

    The whole model has it, and layers of the same names in it.
    """
    config = adapted.peft_config[adapted.active_adapter]
    targets = getattr(config, "target_modules", None)
    if not removed or not isinstance(targets, (set, list, tuple)):
        return
    outside, names = ("|".join(map(re.escape, sorted(part))) for part in (removed, targets))
    config.target_modules = rf"(?!(?:{outside})\.)(?:.*\.)?(?:{names})"


def trainable_in_float32(model: torch.nn.Module) -> torch.nn.Module:
    """`model` with its trainable weights in float32 (the precision rule).

    PEFT casts the weights of its own layers; copies of base weights (layer norms, embeddings,
    `modules_to_save`) it leaves in the base dtype, so they are cast here.
    """
    import torch

    trainable = [weight for weight in model.parameters() if weight.requires_grad]
    if not trainable:
        raise UsageError(
            f"nothing would be trained in {type(model).__name__}: the method left every weight frozen.",
            "Check the method's settings, or use zero-shot to evaluate the model as it is.",
        )
    for weight in trainable:
        if weight.dtype != torch.float32:
            weight.data = weight.data.to(torch.float32)
    norms_in_float32(model)
    return model


def refuse_gradient_checkpointing(method: str, train: TrainSpec) -> None:
    """Prefixes enter through the key-value cache, which gradient checkpointing turns off.

    The prefix would then be ignored without a word (peft 869, 2191), so the run is refused.
    """
    if train.gradient_checkpointing:
        raise UsageError(
            f"{method} does not work with gradient checkpointing: the prefix would be ignored.",
            "Use --set train.gradient_checkpointing=false and, for memory, a smaller micro batch.",
        )


def linear_layer_names(model: torch.nn.Module) -> list[str]:
    """The last part of the name of each linear layer, each once: what a target module can be."""
    import torch
    from transformers.pytorch_utils import Conv1D

    kinds = (torch.nn.Linear, Conv1D)
    return sorted(
        {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, kinds)}
    )


def _check_targets(model: PreTrainedModel, targets: Any, settings_at: str) -> None:
    """Refuse target modules that match nothing: PEFT ignores one silently when another matches."""
    if not isinstance(targets, (set, list, tuple)):
        return  # none: the library's own choice; a string: a pattern, or all-linear
    names = [name for name, _ in model.named_modules()]
    linear = linear_layer_names(model)
    problems = [
        f"target module '{target}' is not in {type(model).__name__}{did_you_mean(target, linear)}"
        for target in sorted(targets)
        if not _matches(target, names)
    ]
    all_at_once(problems, _remedy(model, settings_at))


def _matches(target: str, names: Iterable[str]) -> bool:
    return any(name == target or name.endswith(f".{target}") for name in names)


def _remedy(model: PreTrainedModel, settings_at: str) -> str:
    linear = linear_layer_names(model)
    if not linear:
        return "This model has no linear layers to adapt; use full, or another model."
    return (
        f"The linear layers of this model: {', '.join(linear)}. "
        f"Name some of them with --set {settings_at}.target_modules=[{linear[0]}]"
    )
