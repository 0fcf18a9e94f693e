"""Of a model with a vision tower the text path is what is counted, adapted, trained and saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from peft import PeftModel

from harness.runtime.models.counting import count_parameters
from harness.runtime.models.loading import Base, locate
from harness.runtime.models.text_path import as_text_model
from harness.spec import ModelSpec
from strategies.lora import Lora

TEXT = {
    "vocab_size": 512, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "hidden_size": 32,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64,
    "head_dim": 16, "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 64,
}  # fmt: skip
VISION = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "image_size": 28, "patch_size": 14,
}  # fmt: skip
IDS = torch.arange(10, 40).repeat(2, 1)


@pytest.fixture
def gemma(tmp_path: Path) -> Path:
    """A tiny MedGemma: text and vision."""
    config = hf.Gemma3Config(
        text_config=TEXT, vision_config=VISION, mm_tokens_per_image=4, image_token_index=5, boi_token_index=6,
        eoi_token_index=7,
    )  # fmt: skip
    torch.manual_seed(0)
    hf.Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path / "gemma")
    return tmp_path / "gemma"


def base_of(folder: Path) -> Base:
    spec = ModelSpec(name=str(folder), dtype="float32")
    return Base(locate(spec), spec, "cpu")


def test_counts_are_those_of_the_text_model(gemma: Path) -> None:
    base = base_of(gemma)
    strategy = Lora(r=4)
    model: Any = strategy.load(base)
    assert any("only the text path is loaded: model.vision_tower" in note for note in base.notes)
    text = hf.Gemma3ForCausalLM(hf.Gemma3TextConfig(**TEXT))
    assert count_parameters(model)[1] == count_parameters(text)[1]
    assert count_parameters(strategy.adapt(model)) == count_parameters(strategy.adapt(text))


def test_each_trained_weight_gets_a_gradient(gemma: Path) -> None:
    """One without would stop training in several processes."""
    strategy = Lora(r=4)
    model: Any = strategy.adapt(strategy.load(base_of(gemma)))
    model.train()
    model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits.sum().backward()
    assert all(weight.grad is not None for weight in model.parameters() if weight.requires_grad)


@pytest.mark.parametrize("targets", ["all-linear", ("q_proj", "v_proj")])
@pytest.mark.filterwarnings("error:.*missing adapter keys.*")
def test_an_adapter_fits_the_whole_model(gemma: Path, tmp_path: Path, targets: Any) -> None:
    strategy = Lora(r=4, target_modules=targets)
    model: Any = strategy.adapt(strategy.load(base_of(gemma)))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    strategy.save(model.eval(), tmp_path / "adapter")
    whole = hf.AutoModelForCausalLM.from_pretrained(gemma, dtype="float32")
    assert hasattr(whole.model, "vision_tower")
    adapted = PeftModel.from_pretrained(whole, tmp_path / "adapter").eval()
    with torch.no_grad():
        torch.testing.assert_close(adapted(input_ids=IDS).logits, model(input_ids=IDS).logits, rtol=0, atol=0)
    vision = [name for name, _ in adapted.named_parameters() if "vision" in name and "lora_" in name]
    assert not vision


def test_what_full_saves_is_a_model_of_its_own(gemma: Path, tmp_path: Path) -> None:
    """The text model: it can be given as a model again, and is complete."""
    from strategies.full import Full

    strategy = Full()
    model: Any = strategy.adapt(strategy.load(base_of(gemma))).eval()
    strategy.save(as_text_model(model), tmp_path / "full")
    again = base_of(tmp_path / "full").load().eval()
    assert type(again).__name__ == "Gemma3ForCausalLM"
    with torch.no_grad():
        torch.testing.assert_close(again(input_ids=IDS).logits, model(input_ids=IDS).logits, rtol=0, atol=0)
