"""Any method of the PEFT library: each adapts and trains, and each mistake is told what to type."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.errors import UsageError
from harness.spec import TrainSpec
from strategies.peft import LEARNING_RATES, Peft

METHODS: dict[str, dict[str, Any]] = {
    "dora": {"peft_type": "LORA", "use_dora": True},
    "rslora": {"peft_type": "LORA", "use_rslora": True, "target_modules": "all-linear"},
    "adalora": {"peft_type": "ADALORA", "total_step": 10},
    "vera": {"peft_type": "VERA", "r": 8},
    "oft": {"peft_type": "OFT", "r": 0, "oft_block_size": 8},
    "prompt-tuning": {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4},
    "p-tuning": {"peft_type": "P_TUNING", "num_virtual_tokens": 4},
    "prefix-tuning": {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 4},
    "loha": {"peft_type": "LOHA", "r": 4},
    "lokr": {"peft_type": "LOKR", "r": 4},
    "fourierft": {"peft_type": "FOURIERFT", "n_frequency": 10},
    "ia3": {"peft_type": "IA3"},
    "hra": {"peft_type": "HRA"},
    "randlora": {"peft_type": "RANDLORA", "r": 8},
    "vblora": {"peft_type": "VBLORA", "vector_length": 16, "num_vectors": 8},
    "shira": {"peft_type": "SHIRA", "r": 2},
    "road": {"peft_type": "ROAD", "group_size": 16},
    "layer-norm": {"peft_type": "LN_TUNING"},
    "new-tokens": {"peft_type": "TRAINABLE_TOKENS", "token_indices": [1, 2]},
    "saved-head": {"peft_type": "LORA", "modules_to_save": ["norm"]},
}


def make(**config: Any) -> Peft:
    return Peft(config=config)


def loss(model: Any) -> Any:
    ids = torch.arange(3, 15).repeat(2, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss


@pytest.mark.filterwarnings("ignore:Unsupported layer type")  # PEFT, of any norm but torch's own
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")  # torch, of PEFT's use of sparse tensors
@pytest.mark.parametrize("method", METHODS)
def test_each_method_trains(method: str, mixed_loader: Any, tmp_path: Path) -> None:
    strategy = make(**METHODS[method])
    base = strategy.load(mixed_loader)
    torch.manual_seed(0)
    model: Any = strategy.adapt(base)
    model.train()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    optimizer = strategy.optimizer(model, TrainSpec(learning_rate=strategy.learning_rate_default()))
    found = loss(model)
    found.backward()
    optimizer.step()
    strategy.after_step(model, 1)
    assert torch.isfinite(found)
    moved = {name for name, weight in model.named_parameters() if not torch.equal(before[name], weight)}
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert moved
    assert moved <= trained
    assert {weight.dtype for weight in model.parameters() if weight.requires_grad} == {torch.float32}
    strategy.save(model, tmp_path)
    assert (tmp_path / "adapter_model.safetensors").exists()


def test_adalora_moves_its_rank_budget_and_keeps_its_rank_counters(mixed_loader: Any) -> None:
    strategy = make(peft_type="adalora", total_step=4, init_r=4, target_r=1, tinit=1, tfinal=1)
    model: Any = strategy.adapt(strategy.load(mixed_loader))
    counters = [weight for name, weight in model.named_parameters() if ".ranknum." in name]
    assert counters
    assert not any(weight.requires_grad for weight in counters)
    optimizer = strategy.optimizer(model, TrainSpec(learning_rate=1e-3))
    for step in (1, 2, 3, 4):
        loss(model).backward()
        optimizer.step()
        strategy.after_step(model, step)
        optimizer.zero_grad()
    ranks = model.peft_config["default"].rank_pattern
    # target_r 1 in each of four layers, however it is shared among them; init_r 4 would be 16
    assert sum(sum(kept) for kept in ranks.values()) == 4


def test_names_are_forgiving_and_stored_as_peft_spells_them() -> None:
    assert make(peft_type="prefix-tuning", num_virtual_tokens=4).config["peft_type"] == "PREFIX_TUNING"
    assert make(peft_type="vera").peft_type == "VERA"


def test_learning_rates_are_the_methods_own() -> None:
    from peft import PeftType

    assert set(LEARNING_RATES) <= {str(kind.value) for kind in PeftType}
    assert make(peft_type="LOHA").learning_rate_default() == Peft.default_learning_rate == 2e-4
    assert make(peft_type="IA3").learning_rate_default() == 3e-3


def test_a_saved_configuration_is_read_into_the_settings(mixed_loader: Any, tmp_path: Path) -> None:
    first = make(peft_type="LORA", r=4, target_modules=["q_proj", "k_proj"])
    first.save(first.adapt(first.load(mixed_loader)), tmp_path)
    for path in (tmp_path, tmp_path / "adapter_config.json"):
        again = Peft.model_validate({"config_file": str(path), "config": {"r": 2}})
        assert again.config_file is None  # what was read is in config: the stored spec needs no file
        assert again.config["r"] == 2
        assert set(again.config["target_modules"]) == {"q_proj", "k_proj"}
        assert not {"base_model_name_or_path", "inference_mode", "task_type"} & set(again.config)
        model: Any = again.adapt(again.load(mixed_loader))
        trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
        assert trained == 2 * 2 * (128 + 96)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "which method?"),
        ({"r": 8}, "--set strategy.config.peft_type=VERA"),
        ({"peft_type": "LORRA"}, "unknown strategy.config.peft_type 'LORRA'; did you mean 'LORA'?"),
        ({"peft_type": "XLORA"}, "mixes adapters that were trained before"),
        ({"peft_type": "poly"}, "needs a task's number"),
        ({"peft_type": "LORA", "rank": 8, "lora_alfa": 1}, "2 problems"),
        (
            {"peft_type": "LORA", "lora_alfa": 1},
            "unknown setting strategy.config.lora_alfa of LORA; did you mean 'lora_alpha'?",
        ),
        ({"peft_type": "LORA", "lora_alfa": 1}, "LORA has: alora_invocation_tokens, "),
        ({"peft_type": "ADALORA"}, "--set strategy.config.total_step=200"),
        ({"peft_type": "ADALORA", "total_step": 5, "tinit": 9}, "ADALORA refuses these settings"),
        ({"peft_type": "LORA", "task_type": "SEQ_CLS"}, "every run here is CAUSAL_LM"),
    ],
)
def test_wrong_settings(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Peft(config=config)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        ("peft_type: LORA", "not JSON"),
        ("[1]", "has no peft_type"),
        (json.dumps({"r": 8}), "has no peft_type"),
        (json.dumps({"peft_type": "LORA", "rank": 8}), "unknown setting strategy.config.rank of LORA"),
    ],
)
def test_wrong_files(content: str | None, message: str, tmp_path: Path) -> None:
    file = tmp_path / "adapter_config.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UsageError) as caught:
        Peft.model_validate({"config_file": str(file)})
    assert message in str(caught.value)


def test_wrong_target_modules_name_the_setting(mixed_loader: Any) -> None:
    strategy = make(peft_type="VERA", target_modules=["q_porj"])
    with pytest.raises(UsageError, match=r"--set strategy\.config\.target_modules=\["):
        strategy.adapt(strategy.load(mixed_loader))


def test_what_peft_refuses_names_the_method_and_the_layers(mixed_loader: Any) -> None:
    strategy = make(peft_type="ROAD", group_size=64)
    with pytest.raises(UsageError) as caught:
        strategy.adapt(strategy.load(mixed_loader))
    assert "ROAD cannot be attached to LlamaForCausalLM: The out_features" in str(caught.value)
    assert "base_layer" not in str(caught.value)


def test_what_peft_refuses_in_many_lines_is_told_in_one(
    mixed_loader: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text of the library may be of any length; all of it stays the error's cause."""
    import peft

    def refuses(*args: Any, **options: Any) -> None:
        raise ValueError("\n".join(f"line {number}: {'why not ' * 60}" for number in range(30)))

    attached = make(peft_type="VERA")
    base = attached.load(mixed_loader)
    monkeypatch.setattr(peft, "get_peft_model", refuses)
    with pytest.raises(UsageError) as caught:
        attached.adapt(base)
    assert caught.value.message.startswith("VERA cannot be attached to LlamaForCausalLM: line 0: why not")
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 400
    monkeypatch.setattr(peft, "get_peft_config", refuses)
    with pytest.raises(UsageError) as caught:
        make(peft_type="VERA")
    assert "VERA refuses these settings: line 0: why not" in caught.value.message
    assert "\n" not in caught.value.message


def test_cache_prefixes_refuse_gradient_checkpointing(mixed_loader: Any) -> None:
    strategy = make(peft_type="PREFIX_TUNING", num_virtual_tokens=4)
    model = strategy.adapt(strategy.load(mixed_loader))
    with pytest.raises(UsageError, match="does not work with gradient checkpointing"):
        strategy.optimizer(model, TrainSpec(learning_rate=1e-3, gradient_checkpointing=True))
