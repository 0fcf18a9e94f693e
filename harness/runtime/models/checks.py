"""Is a loaded model what its name says? Each check refuses one way in which it is silently something else."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from harness.errors import UsageError

_ADAPTER = "adapter_config.json"
_SHOWN = 4
"""Names listed of many."""

_PROBE_TOKENS = 4
_ROUNDING = {torch.float32: 1e-4}
_ROUNDING_HALF = 0.02
"""Share of the last position's change up to which an earlier one's is rounding. Causal models are at 0 and
mixtures of experts, which group tokens, at rounding; trained encoders at 0.1 and more, untrained ones at 0.002."""

_RECOMPUTED = re.compile(r"(^|\.)(rotary_emb\.inv_freq|masked_bias)$")
"""Tensors of older checkpoints that are made from the configuration, and so need not be read."""


def refuse_adapter(folder: Path, name: str) -> None:
    """Refuse a folder with an adapter in it: transformers would attach it to the model without a word."""
    file = folder / _ADAPTER
    if not file.is_file():
        return
    if (folder / "config.json").is_file():
        raise UsageError(
            f"model {name}: its folder holds a model and an adapter ({_ADAPTER}), so that it is not clear which is meant",
            f"Move {_ADAPTER} and adapter_model.safetensors out for the model alone; merge them for both "
            "(peft: merge_and_unload, then save_pretrained).",
        )
    base = _base_of(file)
    raise UsageError(
        f"model {name} is an adapter for {base}, not a model",
        f"Give its base, --model {base}; to score the adapter: python -m harness lm-eval --model medtune "
        f"--model_args pretrained={base},peft={folder} ...; or merge it into its base and give that folder.",
    )


def _base_of(file: Path) -> str:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "BASE"
    name = content.get("base_model_name_or_path") if isinstance(content, dict) else None
    return str(name or "BASE")


def refuse_incomplete(name: str, model: nn.Module, info: Mapping[str, Any]) -> None:
    """Refuse weights that the checkpoint lacks, which would be random, and weights that nothing uses.

    `info` is transformers' loading info. Tied weights, and buffers that are made anew, are not missing.
    """
    missing = sorted(info["missing_keys"])
    if missing:
        raise UsageError(
            f"model {name}: its checkpoint lacks {_listed(missing)} of {type(model).__name__}, "
            "which would be made up at random",
            "Give the checkpoint of a causal language model (one for classification has no output head), or all its files.",
        )
    unused = sorted(key for key in info["unexpected_keys"] if not _is_recomputed(key, model))
    if unused:
        raise UsageError(
            f"model {name}: its checkpoint holds {_listed(unused)}, for which {type(model).__name__} has no place",
            "Give a checkpoint of a causal language model whose config.json describes all of its weights.",
        )


def _is_recomputed(key: str, model: nn.Module) -> bool:
    """Buffers that older versions saved and this one makes itself; a checkpoint may leave out a prefix."""
    if _RECOMPUTED.search(key):
        return True
    return any(name == key or name.endswith(f".{key}") for name, _ in model.named_buffers())


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(list(names)[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"


def refuse_acausal(name: str, model: Any) -> None:
    """Refuse a model whose logits at a position depend on later tokens, such as an encoder.

    Weights sharded by ZeRO-3 cannot be computed with outside the engine: of such a model the
    configuration is asked only.
    """
    remedy = "Give a causal (decoder-only) language model; an encoder answers by looking at the answer."
    if getattr(model.config, "is_decoder", None) is False and not getattr(
        model.config, "is_encoder_decoder", False
    ):
        raise UsageError(
            f"model {name}: {type(model).__name__} is an encoder (is_decoder is false in its configuration)",
            remedy,
        )
    if any(hasattr(weight, "ds_shape") for weight in model.parameters()):
        return
    earlier, last = _changes(model)
    if earlier > _ROUNDING.get(model.dtype, _ROUNDING_HALF) * last:
        raise UsageError(
            f"model {name}: {type(model).__name__} is not causal: a later token changes the logits of earlier positions",
            remedy,
        )


def _changes(model: Any) -> tuple[float, float]:
    """The largest change of a logit at earlier positions, and at the last one, when the last token changes."""
    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.arange(1, _PROBE_TOKENS + 1) * max(1, vocabulary // (_PROBE_TOKENS + 3)) % vocabulary
    other = ids.clone()
    other[-1] = (ids[-1] + max(1, vocabulary // 7)) % vocabulary
    rows = torch.stack([ids, other]).to(model.device)  # (2, T)
    training = model.training
    model.eval()
    # With gradients: without, bitsandbytes packs 4-bit weights anew for the CPU, in place.
    with torch.enable_grad():
        logits = model(input_ids=rows, attention_mask=torch.ones_like(rows), use_cache=False).logits
    model.train(training)
    change = (logits[0].detach().float() - logits[1].detach().float()).abs()  # (T, V)
    return float(change[:-1].max()), float(change[-1].max())
