"""LoRA that starts at the base weights' own directions (PiSSA, OLoRA), beside a base that stays as it is.

Both take their first factors A0, B0 from the base weight W and train A, B from there, on W - s B0 A0. PEFT
writes that difference into the base, so that an adapter fits only a base changed in the same way, and in
half precision or four bits not even that one. Here W stays, and the layer computes W x + s (B A - B0 A0) x
with A0 and B0 frozen: an adapter of rank 2r, as which it is scored and saved. Shapes: W (out, in),
A (r, in), B (out, r).
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from harness.errors import UsageError

if TYPE_CHECKING:
    import torch

_STARTS = re.compile(r"pissa|pissa_niter_\d+|olora")
_FROZEN = "start"
_ALONE = (
    "use_dora",
    "lora_bias",
    "target_parameters",
    "layer_replication",
    "kasa_config",
    "monteclora_config",
    "use_bdlora",
)


def is_start(init: object) -> bool:
    """Whether `init_lora_weights` is one of those done here: pissa, pissa_niter_N, olora."""
    return isinstance(init, str) and _STARTS.fullmatch(init) is not None


def refuse_beside(config: dict[str, Any], settings_at: str) -> None:
    """Refuse settings that change what the factors mean."""
    beside = [name for name in _ALONE if config.get(name)]
    if beside:
        raise UsageError(
            f"{settings_at}.init_lora_weights {config['init_lora_weights']} cannot be used with {', '.join(beside)}.",
            "Leave one of them out.",
        )


def begin(model: Any, init: str) -> None:
    """Set each adapted layer's A and B to A0 and B0, and hold these against them."""
    import torch

    name = model.active_adapter
    for layer in _layers(model, name):
        weight = _weight(layer)
        with torch.no_grad():
            a, b = _factors(weight, layer.r[name], layer.scaling[name], init)
            layer.lora_A[name].weight.copy_(a)
            layer.lora_B[name].weight.copy_(b)
        _hold(layer.lora_A[name], a, dim=0)
        _hold(layer.lora_B[name], -b, dim=1)


def fold(model: Any) -> Any:
    """`model` with a plain adapter of twice the rank that computes the same."""
    name = model.active_adapter
    for layer in _layers(model, name):
        layer.lora_A[name] = _joined(layer.lora_A[name], dim=0)
        layer.lora_B[name] = _joined(layer.lora_B[name], dim=1)
        layer.r[name] *= 2
    config = copy.deepcopy(model.peft_config[name])
    # The scale of an update stays: alpha / r, or alpha / sqrt(r).
    more = math.sqrt(2) if config.use_rslora else 2
    config.init_lora_weights = True
    config.r *= 2
    config.lora_alpha *= more
    config.rank_pattern = {key: rank * 2 for key, rank in config.rank_pattern.items()}
    config.alpha_pattern = {key: alpha * more for key, alpha in config.alpha_pattern.items()}
    model.peft_config[name] = config
    return model


def _layers(model: Any, name: str) -> Iterator[Any]:
    from peft.tuners.lora import LoraLayer

    for module in model.modules():
        if not isinstance(module, LoraLayer):
            continue
        if name not in module.lora_A:
            raise UsageError(
                f"PiSSA and OLoRA start at linear layers, and {type(module.get_base_layer()).__name__} is none",
                "Leave that layer out of target_modules, or use init_lora_weights=true.",
            )
        yield module


def _weight(layer: Any) -> torch.Tensor:
    """The base weight, (out, in) in float32."""
    from peft.utils.integrations import dequantize_module_weight

    base = layer.get_base_layer()
    weight: torch.Tensor = dequantize_module_weight(base).detach().float()
    if weight.ndim != 2 or hasattr(base.weight, "ds_shape"):
        raise UsageError(
            "PiSSA and OLoRA need a layer's whole weight matrix, and here it is in pieces (ZeRO stage 3, experts)",
            "Use engine.zero_stage=2, other target_modules, or init_lora_weights=true.",
        )
    return weight.T if layer.fan_in_fan_out else weight


def _factors(weight: torch.Tensor, r: int, scaling: float, init: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A0 and B0: of OLoRA (arXiv 2406.01775) by QR, of PiSSA (arXiv 2404.02948) by the largest singular values."""
    import torch

    if r > min(weight.shape):
        raise UsageError(
            f"rank {r} is larger than a layer of {tuple(weight.shape)} has singular values",
            "Give a smaller r, or other target_modules.",
        )
    if init == "olora":
        q, upper = torch.linalg.qr(weight)
        return upper[:r], q[:, :r]
    if init == "pissa":
        left, values, right = torch.linalg.svd(weight, full_matrices=False)
        left, values, right = left[:, :r], values[:r], right[:r]
    else:
        left, values, right = torch.svd_lowrank(weight, r, niter=int(init.removeprefix("pissa_niter_")))
        right = right.T
    root = (values / scaling).sqrt()
    return root[:, None] * right, left * root


def _hold(module: Any, start: torch.Tensor, dim: int) -> None:
    """Let `module` multiply by its weight and `start` side by side, of which `start` stays as it is."""
    import torch

    module.register_buffer(_FROZEN, start.to(module.weight.dtype).contiguous(), persistent=False)

    def forward(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, torch.cat([module.weight, getattr(module, _FROZEN)], dim))

    module.forward = forward


def _joined(module: Any, dim: int) -> torch.nn.Linear:
    """A plain linear layer with the weight that `module` multiplies by."""
    import torch

    weight = torch.cat([module.weight.detach(), getattr(module, _FROZEN)], dim)
    rows, columns = weight.shape
    plain = torch.nn.Linear(columns, rows, bias=False, device=weight.device, dtype=weight.dtype)
    plain.weight.data = weight
    return plain
