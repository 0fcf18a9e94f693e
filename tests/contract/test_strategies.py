"""What every strategy must keep to, built in or not yet written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from harness.contracts import Strategy
from harness.registry import load_registry
from harness.spec import TrainSpec

NAMES = sorted(load_registry().strategies)
TRAINING = [name for name in NAMES if load_registry().strategy(name).trains]
NEEDED: dict[str, dict[str, Any]] = {"peft": {"config": {"peft_type": "LORA", "r": 4}}}
"""Settings a strategy cannot do without."""
FIXED_START = {"full", "ia3"}
"""Methods that start from the base weights or from constants: nothing is drawn."""


def make(name: str) -> Strategy:
    return load_registry().strategy(name)(**NEEDED.get(name, {}))


def adapted(name: str, loader: Any, seed: int = 0) -> Any:
    """The strategy's model as the engine makes it: loaded, then the seed, then adapted."""
    strategy = make(name)
    model = strategy.load(loader)
    torch.manual_seed(seed)
    return strategy.adapt(model)


def batch() -> dict[str, torch.Tensor]:
    """B 2, T 12."""
    ids = torch.randint(3, 512, (2, 12), generator=torch.Generator().manual_seed(7))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def run(model: Any, **labels: torch.Tensor) -> Any:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return model(**batch(), **labels)


def one_step(strategy: Strategy, model: Any) -> torch.optim.Optimizer:
    """Forward, backward and one optimiser step, at the strategy's default learning rate."""
    model.train()
    train = TrainSpec(learning_rate=strategy.learning_rate_default())
    optimizer = strategy.optimizer(model, train)
    run(model, labels=batch()["input_ids"]).loss.backward()
    optimizer.step()
    strategy.after_step(model, 1)
    return optimizer


def trainable(model: Any) -> dict[str, torch.Tensor]:
    return {name: w.detach().clone() for name, w in model.named_parameters() if w.requires_grad}


def frozen(model: Any) -> dict[str, torch.Tensor]:
    return {name: w.detach().clone() for name, w in model.named_parameters() if not w.requires_grad}


@pytest.mark.parametrize("name", NAMES)
def test_is_documented(name: str) -> None:
    cls = load_registry().strategy(name)
    assert cls.name == name
    assert cls.summary
    assert "\n" not in cls.summary
    assert cls.source
    assert cls.__doc__
    for field_name, field in cls.model_fields.items():
        assert field.description, f"{name}.{field_name} has no description"
        assert not field.is_required(), f"{name}.{field_name} has no default"
    if cls.trains:
        assert cls.default_learning_rate
        assert cls.learning_rate_source
        assert make(name).learning_rate_default() is not None


@pytest.mark.parametrize("name", NAMES)
def test_unknown_settings_are_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="no_such_setting"):
        load_registry().strategy(name).model_validate({**NEEDED.get(name, {}), "no_such_setting": 1})


@pytest.mark.parametrize("name", NAMES)
def test_settings_survive_json(name: str) -> None:
    strategy = make(name)
    assert type(strategy).model_validate_json(strategy.model_dump_json()) == strategy


@pytest.mark.parametrize("name", NAMES)
def test_forward_is_finite(name: str, mixed_loader: Any) -> None:
    with torch.no_grad():
        logits = run(adapted(name, mixed_loader)).logits  # (B, T, V), or (B, P + T, V) after virtual tokens
    assert logits.shape[-1] == 512
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(TRAINING)))
def test_untrained_strategies_freeze_everything_and_write_nothing(
    name: str, mixed_loader: Any, tmp_path: Path
) -> None:
    model = adapted(name, mixed_loader)
    assert not trainable(model)
    make(name).save(model, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", TRAINING)
def test_trained_weights_are_float32_and_frozen_ones_keep_the_base_dtype(
    name: str, mixed_loader: Any
) -> None:
    model = adapted(name, mixed_loader)
    assert trainable(model)
    assert {w.dtype for w in trainable(model).values()} == {torch.float32}
    base = {w.dtype for n, w in frozen(model).items() if n.endswith(("norm.weight", "embed_tokens.weight"))}
    assert base == (set() if name == "full" else {torch.bfloat16})


@pytest.mark.parametrize("name", TRAINING)
def test_one_step_moves_what_is_trained_and_nothing_else(name: str, mixed_loader: Any) -> None:
    strategy, model = make(name), adapted(name, mixed_loader)
    trained_before, frozen_before = trainable(model), frozen(model)
    one_step(strategy, model)
    for weight_name, weight in model.named_parameters():
        assert (weight.grad is not None) == weight.requires_grad, weight_name
        assert weight.grad is None or torch.isfinite(weight.grad).all(), weight_name
    assert any(not torch.equal(trained_before[n], w) for n, w in trainable(model).items())
    assert all(torch.equal(frozen_before[n], w) for n, w in frozen(model).items())


@pytest.mark.parametrize("name", TRAINING)
def test_the_optimizer_has_each_trained_weight_once(name: str, mixed_loader: Any) -> None:
    strategy, model = make(name), adapted(name, mixed_loader)
    optimizer = strategy.optimizer(model, TrainSpec(learning_rate=1e-3))
    held = [id(weight) for group in optimizer.param_groups for weight in group["params"]]
    assert sorted(held) == sorted(id(weight) for weight in model.parameters() if weight.requires_grad)


@pytest.mark.parametrize("name", TRAINING)
def test_the_seed_decides_the_start(name: str, mixed_loader: Any) -> None:
    first, again, other = (trainable(adapted(name, mixed_loader, seed)) for seed in (1, 1, 2))
    assert all(torch.equal(first[n], again[n]) for n in first)
    same = all(torch.equal(first[n], other[n]) for n in first)
    assert same == (name in FIXED_START)


@pytest.mark.parametrize("name", TRAINING)
def test_what_is_saved_gives_the_same_model(name: str, mixed_loader: Any, tmp_path: Path) -> None:
    strategy, model = make(name), adapted(name, mixed_loader)
    one_step(strategy, model)
    model.eval()
    strategy.save(model, tmp_path)
    assert list(tmp_path.glob("*.safetensors"))
    assert not list(tmp_path.glob("*.bin"))
    reloaded = reload(strategy, mixed_loader, tmp_path)
    with torch.no_grad():
        expected, found = run(model).logits, run(reloaded.eval()).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert not torch.equal(found, run(make("zero-shot").load(mixed_loader).eval()).logits)


def reload(strategy: Strategy, loader: Any, folder: Path) -> Any:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    if (folder / "adapter_config.json").exists():
        return PeftModel.from_pretrained(strategy.load(loader), folder)
    return AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
