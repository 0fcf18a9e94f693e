"""Prefix tuning: learned keys and values before the text, in every layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from strategies._peft import AdapterStrategy, attach, refuse_gradient_checkpointing

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from harness.spec import TrainSpec


class Prefix(AdapterStrategy):
    """P virtual tokens, each with a key and a value of its own in each layer.

    The prefix enters through the key-value cache, so gradient checkpointing, which turns the cache
    off, is refused.
    """

    name = "prefix"
    summary = "learned keys and values before the text, in every layer"
    source = "Li and Liang 2021, arXiv 2101.00190"
    default_learning_rate: ClassVar[float | None] = 5e-3
    learning_rate_source = (
        "PEFT method comparison, MetaMathQA, Llama-3.2-3B (github.com/huggingface/peft, 5d602fd): 5e-3 reached "
        "0.36 to 0.42, 1e-3 0.19"
    )

    num_virtual_tokens: int = Field(
        30, ge=1, le=4096, description="length of the prefix (LLM-Adapters, arXiv 2304.01933: 30)"
    )
    init_std: float = Field(
        0.02,
        gt=0,
        le=1,
        description="standard deviation of the prefix at the start, without a projection (Llama's and GPT-2's own "
        "initializer_range; PEFT's own choices are 1.0, and 0, which keeps all virtual tokens alike for ever)",
    )
    projection: bool = Field(
        False,
        description="make the prefix with a two-layer MLP while training (Prefix-Tuning: steadier, but many "
        "times the weights to train; P-Tuning v2, arXiv 2110.07602: of no use on many tasks)",
    )
    projection_size: int | None = Field(
        None,
        ge=1,
        description="inner width of that MLP (Prefix-Tuning: 512); default: the width of a layer's keys",
    )

    def peft_config(self) -> Any:
        """A `peft.PrefixTuningConfig`."""
        from peft import PrefixTuningConfig

        return PrefixTuningConfig(
            task_type="CAUSAL_LM",
            num_virtual_tokens=self.num_virtual_tokens,
            prefix_projection=self.projection,
            encoder_hidden_size=self.projection_size,
        )

    def adapt(self, model: PreTrainedModel) -> torch.nn.Module:
        """`model` with a trainable prefix, in float32."""
        import torch

        adapted: Any = attach(model, self.peft_config())
        if not self.projection:
            prefix = adapted.prompt_encoder[
                adapted.active_adapter
            ].embedding.weight  # (P, layers * 2 * kv width)
            torch.nn.init.normal_(prefix, std=self.init_std)
        module: torch.nn.Module = adapted
        return module

    def optimizer(self, model: torch.nn.Module, train: TrainSpec) -> torch.optim.Optimizer:
        """AdamW; raises `UsageError` where gradient checkpointing is on."""
        refuse_gradient_checkpointing(self.name, train)
        return super().optimizer(model, train)
