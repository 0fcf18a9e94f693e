"""Checkpoints whose weights are stored quantised (bitsandbytes, GPTQ, AWQ, FP8, ...): what they are, said."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

from harness.errors import UsageError

_PLAIN = "Give the checkpoint that is not quantised"
_BITSANDBYTES = "bitsandbytes"
_ASKED = ("load_in_4bit", "load_in_8bit", "bnb_4bit_quant_type", "bnb_4bit_use_double_quant")
"""What decides the stored numbers; a checkpoint's own value holds, whatever is asked."""
_LIBRARY_DEFAULTS = {"bnb_4bit_quant_type": "fp4"}


def stored_quantization(folder: Path) -> dict[str, Any] | None:
    """The `quantization_config` of the checkpoint in `folder`; None for plain weights."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # loading says what is wrong with it
    if not isinstance(config, dict):
        return None
    for part in (config, config.get("text_config")):
        for key in ("quantization_config", "compression_config"):
            if isinstance(part, dict) and isinstance(part.get(key), dict):
                return dict(part[key])
    return None


def method_of(stored: Mapping[str, Any]) -> str:
    """The method's name as transformers spells it."""
    bits = stored.get("load_in_4bit") or stored.get("load_in_8bit")
    return str(stored.get("quant_method") or (_BITSANDBYTES if bits else "unknown"))


def described(stored: Mapping[str, Any]) -> str:
    """`bitsandbytes 4-bit FP4`, `gptq 4-bit`, `fp8`: what the weights are stored in."""
    method = method_of(stored)
    if method.startswith(_BITSANDBYTES):
        if not stored.get("load_in_4bit"):
            return f"{_BITSANDBYTES} 8-bit"
        kind = str(_value(stored, "bnb_4bit_quant_type")).upper()
        twice = ", quantised twice" if stored.get("bnb_4bit_use_double_quant") else ""
        return f"{_BITSANDBYTES} 4-bit {kind}{twice}"
    bits = stored.get("bits") or stored.get("w_bit")
    return f"{method} {bits}-bit" if bits else method


def refuse_quantization(name: str, stored: Mapping[str, Any], asked: Any) -> None:
    """Refuse a method that is not known, or weights to be quantised in another way than they are."""
    method = method_of(stored)
    if method not in AUTO_QUANTIZATION_CONFIG_MAPPING and not method.startswith(_BITSANDBYTES):
        raise UsageError(
            f"model {name} is stored quantised by '{method}', which the installed transformers does not know",
            f"{_PLAIN}, or update transformers.",
        )
    if not isinstance(asked, BitsAndBytesConfig):
        return
    if not method.startswith(_BITSANDBYTES):
        raise UsageError(
            f"model {name} is already quantised ({described(stored)}) and cannot be quantised again",
            f"{_PLAIN}, or use lora, which adapts it as it is stored.",
        )
    wanted = asked.to_dict()
    different = {
        key: _value(stored, key) for key in _ASKED if bool_or_text(wanted[key]) != _value(stored, key)
    }
    if different:
        listed = ", ".join(f"{key} {value}" for key, value in different.items())
        raise UsageError(
            f"model {name} is already quantised ({described(stored)}), and another way was asked for",
            f"{_PLAIN}, or ask for what it is ({listed}; qlora: strategy.quant_type, strategy.double_quantization).",
        )


def _value(stored: Mapping[str, Any], key: str) -> Any:
    return bool_or_text(stored.get(key, _LIBRARY_DEFAULTS.get(key, False)))


def bool_or_text(value: Any) -> Any:
    return value if isinstance(value, str) else bool(value)


def compute_in(model: PreTrainedModel, stored: Mapping[str, Any], asked: Any, dtype: torch.dtype) -> None:
    """Let a checkpoint of bitsandbytes compute as this run does, not as the one that made it.

    What is not quantised (norms, embeddings, output layer) it keeps in the dtype it was saved in, and
    its layers multiply in the dtype that its configuration names.
    """
    if not method_of(stored).startswith(_BITSANDBYTES):
        return
    from bitsandbytes.nn import Linear4bit

    compute = asked.bnb_4bit_compute_dtype if isinstance(asked, BitsAndBytesConfig) else dtype
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.compute_dtype = compute
    for weight in model.parameters():
        if weight.is_floating_point():
            weight.data = weight.data.to(dtype)
