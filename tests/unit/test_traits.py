"""A model's defaults come from its shape: the same for its folder, its Hub id and its card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.ask.model_traits import Traits, _downloaded, parameters_billion, rate_scale, traits_of
from harness.errors import UsageError
from harness.model_names import CARDS

SMOL = {"model_type": "llama", "vocab_size": 49152, "num_key_value_heads": 3, "tie_word_embeddings": True}
CONFIGS: dict[str, dict[str, Any]] = {
    "smollm2-135m": {
        **SMOL, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
    },
    "smollm2-360m": {
        **SMOL, "hidden_size": 960, "intermediate_size": 2560, "num_hidden_layers": 32, "num_attention_heads": 15,
        "num_key_value_heads": 5,
    },
    "smollm2-1.7b": {
        **SMOL, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24, "num_attention_heads": 32,
        "num_key_value_heads": 32,
    },
    "qwen2.5-0.5b": {
        "model_type": "qwen2", "vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864,
        "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2, "tie_word_embeddings": True,
    },
    "qwen2.5-7b": {
        "model_type": "qwen2", "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944,
        "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4, "tie_word_embeddings": False,
    },
    "llama2-7b": {
        "model_type": "llama", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32, "tie_word_embeddings": False,
    },
    "llama3.1-8b": {
        "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": False,
    },
    "mistral-7b": {
        "model_type": "mistral", "vocab_size": 32768, "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": False,
    },
}  # fmt: skip
OTHERS: dict[str, tuple[dict[str, Any], float]] = {
    "gpt2": ({"model_type": "gpt2", "vocab_size": 50257, "n_embd": 768, "n_layer": 12, "n_head": 12}, 0.124),
    "opt-125m": (
        {"model_type": "opt", "vocab_size": 50272, "hidden_size": 768, "ffn_dim": 3072, "num_hidden_layers": 12,
         "num_attention_heads": 12}, 0.124,
    ),
    "mpt-7b": (
        {"model_type": "mpt", "vocab_size": 50432, "d_model": 4096, "n_layers": 32, "n_heads": 32,
         "expansion_ratio": 4}, 6.65,
    ),
    "mixtral-8x7b": (
        {"model_type": "mixtral", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336,
         "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "num_local_experts": 8,
         "tie_word_embeddings": False}, 46.7,
    ),
    "gemma-3-4b": (
        {"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", "vocab_size": 262208,
         "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34, "num_attention_heads": 8,
         "num_key_value_heads": 4, "head_dim": 256}}, 3.88,
    ),
}  # fmt: skip


def folder(path: Path, config: Any) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config))
    return path


@pytest.fixture(autouse=True)
def _no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    _downloaded.cache_clear()


@pytest.mark.parametrize("name", CONFIGS)
def test_a_card_its_hub_id_and_its_folder_have_the_same_defaults(name: str, tmp_path: Path) -> None:
    card, config = CARDS[name], CONFIGS[name]
    assert parameters_billion(config) == pytest.approx(card.parameters_billion, rel=0.02)
    assert rate_scale(config) == card.learning_rate_scale
    here = folder(tmp_path / "model", config)
    repository = tmp_path / "hub" / "models--me--copy"
    folder(repository / "snapshots" / ("a" * 40), config)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    for spelling in (name, card.hub_id, str(here), "me/copy"):
        expected = Traits(card.default_scoring, card.learning_rate_scale)
        assert traits_of(spelling) == traits_of(f"random:{spelling}") == expected


@pytest.mark.parametrize("name", OTHERS)
def test_the_size_of_other_families(name: str) -> None:
    config, billions = OTHERS[name]
    assert parameters_billion(config) == pytest.approx(billions, rel=0.03)
    assert rate_scale(config) == 1


def test_narrower_than_was_measured_is_scaled_as_the_narrowest() -> None:
    assert rate_scale({"model_type": "llama", "hidden_size": 8}) == 5


def test_a_model_that_is_not_to_be_had_is_said_to_be_of_unknown_size() -> None:
    found = traits_of("org/unheard-of")
    assert (found.scoring, found.learning_rate_scale) == ("letter", 1)
    assert "HF_HUB_OFFLINE" in found.unknown


@pytest.mark.parametrize(
    "config", [[], {}, {"hidden_size": "wide", "num_hidden_layers": 2, "vocab_size": 9}, {"vocab_size": -1}]
)
def test_a_configuration_without_a_size(config: Any, tmp_path: Path) -> None:
    assert "config.json" in traits_of(str(folder(tmp_path / "model", config))).unknown


def test_a_broken_configuration_is_one_error(tmp_path: Path) -> None:
    path = folder(tmp_path / "model", {})
    (path / "config.json").write_text("{")
    with pytest.raises(UsageError, match=r"config\.json cannot be read"):
        traits_of(str(path))
