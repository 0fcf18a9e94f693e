"""Floating-point operations of training, by the usual count of matrix products.

Per token: a forward pass costs 2 operations a weight of a matrix that multiplies it; the backward
pass 2 more for the gradient of the input, and 2 more for each weight that is trained (Kaplan et al.
2020, appendix B of PaLM, arXiv 2204.02311, split as in LoRA Without Regret, 2025). Looking up an
embedding costs nothing. The output layer runs at answer positions only and is counted there.
Attention scores and recomputation by gradient checkpointing are left out: this is model FLOPs. Of
experts, which are 3-dimensional weights, those that a token is sent to count.
"""

from __future__ import annotations

from torch import nn

from harness.runtime.models.counting import full_shape, logical_size
from harness.runtime.models.positions import base_model, output_layer


def train_flops(model: nn.Module, tokens: int, answer_tokens: int) -> float:
    """Model FLOPs of training on `tokens` tokens, of which `answer_tokens` carried a loss."""
    head = output_layer(model)
    looked_up = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    outside = {id(weight) for module in (*looked_up, head) for weight in module.parameters()}
    active = _active_experts(model)
    frozen = trained = 0.0
    for weight in model.parameters():
        size = logical_size(weight) * (active if len(full_shape(weight)) == 3 else 1)
        # Vectors (norms, biases) multiply element by element: too few operations to count.
        if len(full_shape(weight)) < 2 or id(weight) in outside:
            continue
        if weight.requires_grad:
            trained += size
        else:
            frozen += size
    head_size = sum(logical_size(weight) for weight in head.parameters())
    head_trains = any(weight.requires_grad for weight in head.parameters())
    body = tokens * (4 * frozen + 6 * trained)
    return float(body + answer_tokens * (6 if head_trains else 4) * head_size)


def _active_experts(model: nn.Module) -> float:
    """The share of a layer's experts that compute for a token; 1 where the configuration does not say."""
    config = base_model(model).config.get_text_config()
    chosen, of = (
        next((int(value) for name in names if (value := getattr(config, name, None))), None)
        for names in (
            ("num_experts_per_tok", "experts_per_token"),
            ("num_local_experts", "num_experts", "n_routed_experts"),
        )
    )
    return 1.0 if chosen is None or of is None else chosen / of
