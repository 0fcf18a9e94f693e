"""Methods on models that are not Llamas: they work, or are refused by name with what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from peft import PeftModel

from harness.contracts import Strategy
from harness.errors import UsageError
from harness.runtime.models.adapted import adapted
from harness.runtime.training.flops import train_flops
from harness.spec import TrainSpec
from strategies.ia3 import IA3
from strategies.lora import Lora
from strategies.peft import Peft
from strategies.qlora import QLora

pytestmark = [
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set"),  # PEFT, which then sets it right
    pytest.mark.filterwarnings("ignore:.*gemm_4bit.*"),
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`"),  # PEFT, of merging
    pytest.mark.filterwarnings("ignore:The following .*_pattern keys"),  # PEFT, of patterns of its own
]

IDS = torch.arange(3, 23).repeat(2, 1)
NAMES: dict[str, Any] = {"vocab_size": 512, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SIZE: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128,
    "max_position_embeddings": 64,
}  # fmt: skip
EXPERTS: dict[str, Any] = {**NAMES, **SIZE, "num_key_value_heads": 2, "num_experts_per_tok": 2}
MODELS: dict[str, Any] = {
    "llama": hf.LlamaConfig(**NAMES, **SIZE),
    "gpt2": hf.GPT2Config(**NAMES, n_embd=64, n_layer=2, n_head=4, n_positions=64),
    "opt": hf.OPTConfig(
        **NAMES, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, ffn_dim=128, word_embed_proj_dim=64,
        max_position_embeddings=64,
    ),
    "neox": hf.GPTNeoXConfig(**NAMES, **SIZE),
    "biogpt": hf.BioGptConfig(**NAMES, **SIZE),
    "mixtral": hf.MixtralConfig(**EXPERTS, num_local_experts=4),
    "gpt-oss": hf.GptOssConfig(**EXPERTS, num_local_experts=4, head_dim=16),
}  # fmt: skip
TARGETS = {"biogpt": ["q_proj", "fc1"]}  # the library has no choice of its own for it


class BitFit(Strategy):
    """README's example of a plugin, with its default."""

    name = "bitfit"
    summary = "trains the biases"
    source = "arXiv 2106.10199"

    def adapt(self, model: Any) -> Any:
        for name, weight in model.named_parameters():
            weight.requires_grad_(name.endswith("bias"))
            if weight.requires_grad:
                weight.data = weight.data.float()
        return model


class Loader:
    """A `harness.contracts.BaseLoader` of a tiny model."""

    device = "cpu"

    def __init__(self, family: str, dtype: str = "bfloat16") -> None:
        self.family, self.dtype = family, dtype

    def load(self, *, dtype: str | None = None, quantization: Any = None) -> Any:
        torch.manual_seed(0)
        with torch.random.fork_rng():
            return hf.AutoModelForCausalLM.from_config(MODELS[self.family], dtype=getattr(torch, self.dtype))


def logits(model: Any) -> torch.Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=model.dtype != torch.float32):
        found: torch.Tensor = model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits[:, -20:]
    return found


def trained(strategy: Strategy, model: Any) -> Any:
    """After one step, in which each trained weight got a gradient."""
    model = adapted(strategy, model)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    assert {weight.dtype for weight in weights} == {torch.float32}
    model.train()
    optimizer = strategy.optimizer(model, TrainSpec(learning_rate=1e-2))
    logits(model).float().square().mean().backward()
    assert all(weight.grad is not None for weight in weights)
    optimizer.step()
    return model.eval()


def peft(peft_type: str, family: str, **config: Any) -> Peft:
    targets = {"target_modules": TARGETS[family]} if family in TARGETS else {}
    return Peft(config={"peft_type": peft_type, **targets, **config})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["gpt2", "opt", "neox", "biogpt"])
@pytest.mark.parametrize("method", ["LORA", "VERA"])
def test_biases_are_trained_too(method: str, family: str, dtype: str, tmp_path: Path) -> None:
    strategy = peft(method, family, bias="all", r=4)
    model = trained(strategy, strategy.load(Loader(family, dtype)))
    strategy.save(model, tmp_path)
    again = PeftModel.from_pretrained(Loader(family, dtype).load(), tmp_path).eval()
    with torch.no_grad():
        # In half precision plain PEFT rounds the biases it reads.
        torch.testing.assert_close(
            logits(again), logits(model), rtol=0, atol=0 if dtype == "float32" else 0.02
        )


@pytest.mark.parametrize("family", ["gpt2", "opt", "neox", "biogpt"])
def test_a_plugin_that_trains_biases_works(family: str) -> None:
    trained(BitFit(), Loader(family).load())


@pytest.mark.parametrize(
    ("family", "embeddings"), [("gpt2", "wte"), ("opt", "embed_tokens"), ("neox", "embed_in")]
)
def test_embeddings_are_trained_too(family: str, embeddings: str) -> None:
    strategy = peft("LORA", family, modules_to_save=[embeddings], r=4)
    trained(strategy, strategy.load(Loader(family)))


def test_biases_of_a_model_without_any_are_refused() -> None:
    strategy = peft("LORA", "llama", bias="all")
    with pytest.raises(UsageError, match="LlamaForCausalLM has no biases"):
        strategy.adapt(strategy.load(Loader("llama")))
    with pytest.raises(UsageError, match="bitfit would train nothing in LlamaForCausalLM"):
        adapted(BitFit(), Loader("llama").load())


@pytest.mark.parametrize(
    "method",
    [
        "ADAMSS",
        "BOFT",
        "C3A",
        "DELORA",
        "GLORA",
        "HRA",
        "LILY",
        "LOHA",
        "LOKR",
        "MISS",
        "OFT",
        "SHIRA",
        "SUPERTUNING",
    ],
)
def test_methods_that_cannot_adapt_a_layer_are_refused_by_name(method: str) -> None:
    """GPT-2's layers are of a kind of their own (Conv1D)."""
    strategy = peft(method, "gpt2")
    with pytest.raises(UsageError) as caught:
        strategy.adapt(strategy.load(Loader("gpt2")))
    assert f"{method} cannot be attached to GPT2LMHeadModel" in caught.value.message
    assert "Conv1D" in caught.value.message
    assert caught.value.remedy


@pytest.mark.parametrize("method", ["PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING"])
@pytest.mark.parametrize(
    ("name", "value", "own"), [("num_layers", 1, 2), ("token_dim", 4096, 64), ("num_attention_heads", 2, 4)]
)
def test_dimensions_that_are_not_the_models_are_refused(method: str, name: str, value: int, own: int) -> None:
    strategy = peft(method, "llama", num_virtual_tokens=4, **{name: value})
    with pytest.raises(
        UsageError, match=f"strategy.config.{name} is {value}, and LlamaForCausalLM has {own}"
    ):
        strategy.adapt(strategy.load(Loader("llama")))
    right = peft(method, "llama", num_virtual_tokens=4, **{name: own})
    trained(right, right.load(Loader("llama")))


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "neox"])
def test_shadow_trains_what_is_used(family: str) -> None:
    """The state after the last layer is read by nothing, nor are the shadow network's own embeddings."""
    strategy = peft("SHADOW", family)
    trained(strategy, strategy.load(Loader(family)))


def test_all_linear_that_leaves_out_the_experts_is_refused() -> None:
    with pytest.raises(UsageError, match="11% of the weights") as caught:
        Lora(r=2).adapt(Loader("gpt-oss").load())
    assert "target_parameters=[experts.down_proj,experts.gate_up_proj]" in caught.value.remedy
    names = ["experts.down_proj", "experts.gate_up_proj"]
    remedied = peft("LORA", "gpt-oss", target_modules="all-linear", target_parameters=names, r=2)
    assert not trained(remedied, Loader("gpt-oss").load()).notes
    model: Any = Lora(r=2).adapt(Loader("mixtral").load())  # the library adapts these by itself
    assert not model.notes


def test_layers_by_name_say_what_share_they_are() -> None:
    model: Any = Lora(r=2, target_modules=("q_proj", "v_proj")).adapt(Loader("gpt-oss").load())
    assert any("experts.down_proj" in note and "are not adapted" in note for note in model.notes)
    scaled: Any = IA3().adapt(Loader("mixtral").load())
    assert any("are not adapted" in note for note in scaled.notes)


def test_qlora_on_experts_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    Loader("gpt-oss").load().save_pretrained(tmp_path)

    class Stored(Loader):
        def load(self, *, dtype: str | None = None, quantization: Any = None) -> Any:
            return hf.AutoModelForCausalLM.from_pretrained(
                tmp_path, dtype=torch.bfloat16, quantization_config=quantization
            )

    with pytest.raises(UsageError, match=r"only 11% of the weights .* in four bits: experts \("):
        QLora().load(Stored("gpt-oss"))


def test_experts_that_do_not_compute_are_no_work() -> None:
    """Two of four: half of the work of all."""
    flops = {}
    for chosen in (2, 4):
        model = Loader("mixtral").load()
        model.config.num_experts_per_tok = chosen
        flops[chosen] = train_flops(model, 10, 0)
    layers = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 4 * 64)  # attention and router
    experts = 2 * 4 * 3 * 64 * 128
    assert flops[4] == 10 * 6 * (layers + experts)
    assert flops[2] == 10 * 6 * (layers + experts / 2)
