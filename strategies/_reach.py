"""What share of a model's weights a method gets at: experts are not always layers.

Mixtures of experts keep all experts of a layer in one 3-dimensional weight, which few methods adapt and
bitsandbytes does not quantise.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from harness.errors import UsageError

if TYPE_CHECKING:
    import torch

LEAST = 0.5
"""Share of the weights below which `all-linear`, or "in four bits", is not true of a model."""


def multiplied(model: Any) -> dict[int, torch.nn.Parameter]:
    """The weights that inputs are multiplied by, by id: no embeddings, output layer, vectors."""
    import torch

    outside = {id(model.get_output_embeddings())}
    left_out = {
        id(weight)
        for module in model.modules()
        if isinstance(module, torch.nn.Embedding) or id(module) in outside
        for weight in module.parameters(recurse=False)
    }
    return {
        id(weight): weight
        for weight in model.parameters()
        if _dimensions(weight) >= 2 and id(weight) not in left_out
    }


def experts(model: Any) -> list[str]:
    """The last parts of the names of 3-dimensional weights, each once: what `target_parameters` can be."""
    names = [name for name, weight in model.named_parameters() if _dimensions(weight) == 3]
    return sorted({".".join(name.rsplit(".", 2)[-2:]) for name in names})


def adapted(model: Any) -> set[int]:
    """Ids of the base's weights that an adapter of PEFT changes."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    found = set()
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            name = getattr(module, "parameter_name", "weight")  # one of a 3-dimensional weight says which
            found.add(id(getattr(module.get_base_layer(), name, None)))
    return found


def size(weights: Iterable[Any]) -> int:
    """Numbers in `weights`; of one in four bits those it stands for, of one in pieces (ZeRO-3) all."""
    return sum(_size(weight) for weight in weights)


def _size(weight: Any) -> int:
    state = getattr(weight, "quant_state", None)
    return int(state.shape.numel() if state is not None else getattr(weight, "ds_numel", weight.numel()))


def _dimensions(weight: Any) -> int:
    state = getattr(weight, "quant_state", None)
    return len(state.shape if state is not None else getattr(weight, "ds_shape", weight.shape))


def check_reach(whole: Any, before: dict[int, Any], all_linear: bool, names: list[str]) -> str | None:
    """What to say of an adapter on a model with `experts` that it does not (all) reach; None: nothing.

    `before` are the base's `multiplied` weights. Raises `UsageError` where the adapter was to be on all
    linear layers and is on the smaller part of the weights.
    """
    reached = adapted(whole)
    beyond = [weight for key, weight in before.items() if key not in reached and _dimensions(weight) == 3]
    if not names or not beyond or not reached:
        return None
    share = 1 - size(w for key, w in before.items() if key not in reached) / size(before.values())
    told = f"the adapter is on {share:.0%} of the weights of the layers; experts ({', '.join(names)}) are not adapted"
    if all_linear and share < LEAST:
        raise UsageError(
            f"all-linear: {told}",
            "Adapt them too: --strategy peft --set strategy.config.peft_type=LORA --set strategy.config.target_modules=all-linear "
            f"--set strategy.config.target_parameters=[{','.join(names)}]; or name the layers: target_modules=[q_proj,v_proj].",
        )
    return told
