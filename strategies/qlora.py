"""QLoRA: LoRA on a base model that is stored in four bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field

from harness.contracts import BaseLoader, parameter_groups
from harness.errors import UsageError
from strategies._reach import LEAST, experts, multiplied, size
from strategies.lora import Lora

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from harness.spec import TrainSpec


class QLora(Lora):
    """NF4 weights, double quantisation, computation in the run's precision and a paged optimiser.

    The adapter is `lora`'s, default for default, so that lora against qlora is a comparison of the
    quantisation and nothing else. The paper itself used r 64 and alpha 16:
    `--set strategy.r=64 --set strategy.alpha=16`.

    PEFT's `prepare_model_for_kbit_training` is not used: it casts every weight that is not
    quantised (norms, embeddings, output head) to float32, which the precision rule forbids for
    frozen weights and which costs memory that the paper's method does not need.
    """

    name = "qlora"
    summary = "LoRA on a base model stored in four bits (NF4)"
    source = "Dettmers et al. 2023, arXiv 2305.14314"
    default_learning_rate: ClassVar[float | None] = 2e-4
    learning_rate_source = "QLoRA, arXiv 2305.14314: 2e-4 at 7B (1e-4 at 65B)"
    packages: ClassVar[tuple[str, ...]] = ("bitsandbytes",)

    quant_type: Literal["nf4", "fp4"] = Field(
        "nf4", description="four-bit data type (QLoRA: NF4; FP4 lost 0.9 points of MMLU)"
    )
    double_quantization: bool = Field(
        True, description="quantise the quantisation constants too: saves 0.37 bit a weight (QLoRA)"
    )
    compute_dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto",
        description="dtype that weights are dequantised to for a matrix product (QLoRA: bfloat16); auto: that of "
        "the run (model.dtype)",
    )
    quant_storage: Literal["uint8", "bfloat16"] = Field(
        "uint8",
        description="container of the packed weights, the same bits either way (bitsandbytes' default; "
        "bfloat16 lets ZeRO-3 and FSDP shard them)",
    )
    paged: bool = Field(
        True, description="paged AdamW on a GPU: optimiser state may move to host memory (QLoRA)"
    )

    def at_precision(self, dtype: str) -> Self:
        """With `auto` as the compute dtype it means."""
        return self.model_copy(update={"compute_dtype": dtype}) if self.compute_dtype == "auto" else self

    def load(self, base: BaseLoader) -> PreTrainedModel:
        """The base model with its linear layers quantised; all else stays in the spec's dtype."""
        import torch
        from transformers import BitsAndBytesConfig

        compute = self.at_precision(base.dtype).compute_dtype
        model = base.load(
            quantization=BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type=self.quant_type,
                bnb_4bit_use_double_quant=self.double_quantization,
                bnb_4bit_compute_dtype=getattr(torch, compute),
                bnb_4bit_quant_storage=getattr(torch, self.quant_storage),
            )
        )
        _check_share(model)
        return model

    def optimizer(self, model: torch.nn.Module, train: TrainSpec) -> torch.optim.Optimizer:
        """bitsandbytes' paged AdamW (32-bit state) where the model is on a GPU, else PyTorch's AdamW."""
        on_gpu = next(model.parameters()).device.type == "cuda"
        if not (self.paged and on_gpu):
            return super().optimizer(model, train)
        from bitsandbytes.optim import PagedAdamW32bit

        optimizer: torch.optim.Optimizer = PagedAdamW32bit(
            parameter_groups(model, train.weight_decay),
            lr=train.required_learning_rate,
            betas=(train.adam_beta1, train.adam_beta2),
        )
        return optimizer


def _check_share(model: Any) -> None:
    """Note what share of the weights is in four bits; raises `UsageError` where it is the smaller part."""
    weights = multiplied(model).values()
    share = size(w for w in weights if hasattr(w, "quant_state")) / max(1, size(weights))
    if not share:
        raise UsageError(
            f"qlora: {type(model).__name__} has no linear layer that can be quantised.",
            "Use lora, or another model.",
        )
    told = f"{share:.0%} of the weights of {type(model).__name__}'s layers are in four bits"
    if share < LEAST:
        names = experts(model)
        why = f": experts ({', '.join(names)}) are not layers" if names else ""
        raise UsageError(f"qlora: only {told}{why}", "Use lora, or another model.")
    if share < 1:
        model.notes = [told]
