"""Ways in which LoRA starts: done truly, with an adapter for the base as it is, or refused by name."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from peft import PeftModel

from harness.errors import UsageError
from harness.spec import TrainSpec
from strategies.peft import Peft

pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out is set")  # PEFT, which then sets it right

IDS = torch.arange(3, 23).repeat(2, 1)
STARTS = ["pissa", "pissa_niter_4", "olora"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> dict[str, Path]:
    """A Llama, and a GPT-2, whose linear layers are stored the other way round."""
    ids = {"vocab_size": 512, "bos_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(0)
    gpt2 = hf.GPT2LMHeadModel(hf.GPT2Config(**ids, n_embd=64, n_layer=2, n_head=4, n_positions=64))
    folder = tmp_path_factory.mktemp("models") / "gpt2"
    gpt2.save_pretrained(folder)
    return {"llama": tiny_model_dir, "gpt2": folder}


def base_of(folder: Path, dtype: str) -> Any:
    return hf.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=model.dtype != torch.float32):
        found: torch.Tensor = model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits.float()
    return found


def trained(strategy: Peft, model: Any, steps: int = 2) -> Any:
    model.train()
    optimizer = strategy.optimizer(model, TrainSpec(learning_rate=1e-2))
    for _ in range(steps):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=model.dtype != torch.float32):
            loss = model(input_ids=IDS, attention_mask=torch.ones_like(IDS), labels=IDS).loss
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("init", STARTS)
@pytest.mark.parametrize("scaled", [False, True])
def test_an_adapter_answers_the_same_on_the_untouched_base(
    init: str, family: str, dtype: str, scaled: bool, models: dict[str, Path], tmp_path: Path
) -> None:
    config = {"peft_type": "LORA", "r": 4, "target_modules": "all-linear", "init_lora_weights": init}
    if scaled:
        layer = "q_proj" if family == "llama" else "c_attn"
        config |= {"use_rslora": True, "rank_pattern": {layer: 3}, "alpha_pattern": {layer: 5}}
    strategy = Peft(config=config)
    base = base_of(models[family], dtype)
    untouched, before = logits(base), copy.deepcopy(base.state_dict())
    torch.manual_seed(0)
    model: Any = strategy.adapt(base)
    start = 1e-4 if dtype == "float32" else 0.05  # rounding: before training it is the base
    assert float((logits(model.eval()) - untouched).abs().max()) < start
    model = strategy.finish(trained(strategy, model), getattr(torch, dtype))
    answers = logits(model)
    assert float((answers - untouched).abs().max()) > 0.1
    strategy.save(model, tmp_path)
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    assert saved["init_lora_weights"] is True
    assert saved["r"] == 8
    plain = PeftModel.from_pretrained(base_of(models[family], dtype), tmp_path).eval()
    torch.testing.assert_close(logits(plain), answers, rtol=0, atol=0)
    own = {
        name.replace(".base_layer", ""): weight
        for name, weight in model.get_base_model().state_dict().items()
    }
    assert all(torch.equal(own[name], weight) for name, weight in before.items())


@pytest.mark.parametrize("init", STARTS)
def test_the_start_is_the_weights_own_directions(init: str, models: dict[str, Path]) -> None:
    """B0 A0 is the best rank-r approximation (PiSSA), or the first r columns of a QR (OLoRA)."""
    base = base_of(models["gpt2"], "float32")
    weight = base.transformer.h[0].mlp.c_fc.weight.detach().T.clone()
    config = {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 8,
        "init_lora_weights": init,
        "target_modules": ["c_fc"],
    }
    torch.manual_seed(0)
    model: Any = Peft(config=config).adapt(base)
    layer = model.base_model.model.transformer.h[0].mlp.c_fc
    product = (2.0 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight).detach()
    if init == "olora":
        q, r = torch.linalg.qr(weight)
        expected = 2.0 * q[:, :4] @ r[:4]
    else:
        u, s, v = torch.linalg.svd(weight, full_matrices=False)
        expected = u[:, :4] @ torch.diag(s[:4]) @ v[:4]
    if init == "pissa_niter_4":  # random weights have no few large directions: as close as the best, nearly
        assert float((weight - product).norm() / (weight - expected).norm()) < 1.05
    else:
        assert float((product - expected).norm() / expected.norm()) < 1e-5
    trainable = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert trainable == 2 * 4 * (64 + 256)  # what is held against it is not trained


@pytest.mark.parametrize(
    ("config", "parts"),
    [
        ({"init_lora_weights": "lora_ga"}, ("init_lora_weights lora_ga", "gradients")),
        ({"init_lora_weights": "eva"}, ("init_lora_weights eva", "activations")),
        ({"init_lora_weights": "corda"}, ("init_lora_weights corda", "activations")),
        ({"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}}, ("2 problems", "qlora")),
        ({"eva_config": {"rho": 2.0}}, ("strategy.config.eva_config",)),
        ({"alora_invocation_tokens": [5]}, ("strategy.config.alora_invocation_tokens",)),
        ({"use_qalora": True}, ("strategy.config.use_qalora", "GPTQ")),
        ({"kasa_config": {"beta": 1e-3}}, ("strategy.config.kasa_config",)),
        ({"init_lora_weights": "pissa", "use_dora": True}, ("cannot be used with use_dora",)),
    ],
)
def test_what_the_library_would_not_do_is_refused_by_name(
    config: dict[str, Any], parts: tuple[str, ...]
) -> None:
    with pytest.raises(UsageError) as caught:
        Peft(config={"peft_type": "LORA", **config})
    assert caught.value.remedy
    for part in parts:
        assert part in str(caught.value)


def test_a_start_of_lora_means_nothing_to_another_method() -> None:
    config = {"peft_type": "ADALORA", "total_step": 10, "init_lora_weights": "pissa"}
    with pytest.raises(UsageError, match="ADALORA starts in a way of its own"):
        Peft(config=config)


def test_a_saved_configuration_with_empty_parts_is_taken(tiny_loader: Any, tmp_path: Path) -> None:
    """adapter_config.json lists all settings, those not used as null or empty."""
    first = Peft(config={"peft_type": "LORA", "r": 4})
    first.save(first.adapt(first.load(tiny_loader)), tmp_path)
    assert Peft.model_validate({"config_file": str(tmp_path)}).config["eva_config"] is None


def test_a_layer_that_is_none_of_these_is_refused(models: dict[str, Path]) -> None:
    config = {"peft_type": "LORA", "r": 4, "init_lora_weights": "pissa", "target_modules": ["wte"]}
    with pytest.raises(UsageError, match="start at linear layers, and Embedding is none"):
        Peft(config=config).adapt(base_of(models["gpt2"], "float32"))


def test_a_rank_above_a_layers_is_refused(models: dict[str, Path]) -> None:
    config = {"peft_type": "LORA", "r": 100, "init_lora_weights": "olora", "target_modules": ["c_fc"]}
    with pytest.raises(UsageError, match="rank 100 is larger"):
        Peft(config=config).adapt(base_of(models["gpt2"], "float32"))
