"""AdaLoRA (arXiv 2303.10512): what is outside its weights, and its penalty."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.errors import UsageError

if TYPE_CHECKING:
    import torch

_AVERAGES = ("ipt", "exp_avg_ipt", "exp_avg_unc")
"""Of the rank allocator: the importance of each weight, its moving average, and that of its uncertainty."""
_KEPT = "rank_pattern"


def orthogonality(model: torch.nn.Module, weight: float) -> torch.Tensor:
    """`weight` times the mean distance of AdaLoRA's factors from orthonormal ones, a scalar."""
    import torch

    distances = []
    for name, factor in model.named_parameters():
        if ".lora_A." in name or ".lora_B." in name:
            gram = factor @ factor.T if ".lora_A." in name else factor.T @ factor  # (r, r)
            distances.append(torch.linalg.matrix_norm(gram - torch.eye(len(gram), device=gram.device)))
    return weight * torch.stack(distances).mean()


def rank_state(model: Any) -> dict[str, torch.Tensor]:
    """The allocator's averages and the ranks that are kept, named `kind/weight`."""
    import torch

    allocator, config = model.base_model.rankallocator, model.peft_config[model.active_adapter]
    state = {
        f"{kind}/{name}": value for kind in _AVERAGES for name, value in getattr(allocator, kind).items()
    }
    kept = {f"{_KEPT}/{name}": torch.tensor(value) for name, value in (config.rank_pattern or {}).items()}
    return {**state, **kept}


def restore_ranks(model: Any, state: dict[str, torch.Tensor]) -> None:
    """Put back what `rank_state` gave. Raises `UsageError` where there is nothing: ranks would differ."""
    if not state:
        raise UsageError(
            "the checkpoint lacks AdaLoRA's importance of ranks: it is of an older medtune",
            "Start the run anew: delete the folder `checkpoints` in its folder.",
        )
    allocator, config = model.base_model.rankallocator, model.peft_config[model.active_adapter]
    device = next(model.parameters()).device
    parts: dict[str, dict[str, torch.Tensor]] = {kind: {} for kind in (*_AVERAGES, _KEPT)}
    for name, value in state.items():
        kind, _, weight = name.partition("/")
        parts[kind][weight] = value
    for kind in _AVERAGES:
        setattr(allocator, kind, {name: value.to(device) for name, value in parts[kind].items()})
    config.rank_pattern = {name: value.tolist() for name, value in parts[_KEPT].items()} or None
