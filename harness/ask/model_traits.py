"""What a model's configuration says of its size and family, without loading it: by these its defaults are chosen.

Only the shape counts, so that a folder, a Hub id and a card of one model get the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from harness.ask.sources import download_config
from harness.contracts import Scoring
from harness.errors import UsageError, first_line
from harness.io.files import NotReadableError, read_bounded
from harness.io.hub_cache import cached_model
from harness.io.json_files import loads_bounded
from harness.io.paths import typed_path
from harness.model_names import LETTER_FROM_BILLIONS, RANDOM_PREFIX, find_card

DEFAULT_SCORING: Scoring = "letter"
MOST_BYTES = 2**22
MEANT_FOR_WIDTH = 4096
SMALLEST_WIDTH = 512
"""Below it nothing was measured: the learning rate is scaled as at this width."""

_EXPONENTS = {"llama": 0.781, "qwen2": 0.0775, "qwen3": 0.0775}
"""Of width, by family (LoRA Without Regret, 2025). Others were not measured and are not scaled."""
_WITHOUT_GATE = frozenset(
    [
        "gpt2",
        "gpt_neo",
        "gpt_neox",
        "gptj",
        "gpt_bigcode",
        "codegen",
        "opt",
        "bloom",
        "mpt",
        "falcon",
        "phi",
        "biogpt",
        "starcoder2",
        "xglm",
    ]
)
"""Families whose feed-forward layers have two matrices; in the others a third one gates."""
_TIED = frozenset(
    [
        "gpt2",
        "gpt_neo",
        "gpt_bigcode",
        "opt",
        "bloom",
        "mpt",
        "biogpt",
        "gemma",
        "gemma2",
        "gemma3",
        "gemma3_text",
        "cohere",
    ]
)
"""Families that share input and output embeddings where their configuration does not say."""


@dataclass(frozen=True, slots=True)
class Traits:
    """Defaults of a model. `unknown`: why they are not by its size; empty where they are."""

    scoring: Scoring
    learning_rate_scale: float
    unknown: str = ""


def traits_of(name: str, revision: str | None = None) -> Traits:
    """The defaults of a `--model` value: its card's, else by its config.json (in its folder, in the Hub's
    cache, or read from the Hub).
    """
    card = find_card(name)
    if card is not None:
        return Traits(card.default_scoring, card.learning_rate_scale)
    config = _config(name.removeprefix(RANDOM_PREFIX), revision)
    billions = None if isinstance(config, str) else parameters_billion(config)
    if isinstance(config, str) or billions is None:
        why = config if isinstance(config, str) else "its config.json does not say its size"
        return Traits(DEFAULT_SCORING, 1.0, why)
    return Traits("letter" if billions >= LETTER_FROM_BILLIONS else "cloze", rate_scale(config))


@cache
def _downloaded(hub_id: str, revision: str | None) -> bytes | str:
    """Once a command: without a network each try takes its whole time limit."""
    answer: bytes | str = download_config(hub_id, revision)
    return answer


def _config(name: str, revision: str | None) -> Mapping[str, Any] | str:
    """The configuration, or why it is not to be had."""
    folder = typed_path(name, "model")
    try:
        if not folder.is_dir():
            cached = cached_model(name, revision, weights=False)
            content = (
                _downloaded(name, revision)
                if cached is None
                else read_bounded(cached / "config.json", MOST_BYTES)
            )
        else:
            content = read_bounded(folder / "config.json", MOST_BYTES)
        if isinstance(content, str):
            return content
        config = loads_bounded(content.decode())
    except (OSError, ValueError, NotReadableError) as error:
        raise UsageError(
            f"model {name}: its config.json cannot be read: {first_line(str(error))}",
            "Give a folder as written by save_pretrained: config.json, weights and tokenizer.",
        ) from error
    return config if isinstance(config, dict) else "its config.json is no object"


def rate_scale(config: Mapping[str, Any]) -> float:
    """What learning rates meant for a width of 4,096 are multiplied by; whole numbers, at least 1."""
    text = _text(config)
    exponent, width = _EXPONENTS.get(str(text.get("model_type", ""))), _number(text, "hidden_size")
    if exponent is None or width is None:
        return 1.0
    return float(max(1, round((MEANT_FOR_WIDTH / max(width, SMALLEST_WIDTH)) ** exponent)))


def parameters_billion(config: Mapping[str, Any]) -> float | None:
    """The model's parameters by its shape, within some percent (biases and norms are left out); None where
    the configuration does not say enough.
    """
    text = _text(config)
    family = str(text.get("model_type", ""))
    width = _number(text, "hidden_size", "n_embd", "d_model", "n_embed", "dim")
    layers = _number(text, "num_hidden_layers", "n_layer", "n_layers", "num_layers")
    vocabulary = _number(text, "vocab_size")
    if width is None or layers is None or vocabulary is None:
        return None
    tied = text.get("tie_word_embeddings", config.get("tie_word_embeddings", family in _TIED))
    embeddings = vocabulary * width * (1 if tied else 2)
    return (embeddings + layers * (_attention(text, width) + _feed_forward(text, width, family))) / 1e9


def _attention(text: Mapping[str, Any], width: int) -> int:
    heads = _number(text, "num_attention_heads", "n_head", "n_heads") or 1
    keys = 1 if text.get("multi_query") is True else _number(text, "num_key_value_heads") or heads
    size = _number(text, "head_dim") or width // heads
    return 2 * width * size * (heads + keys)


def _feed_forward(text: Mapping[str, Any], width: int, family: str) -> int:
    inner = _number(text, "intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "d_ff")
    if inner is None:
        inner = width * (_number(text, "expansion_ratio") or 4)
    matrices = 2 if family in _WITHOUT_GATE else 3
    experts = _number(text, "num_local_experts", "num_experts", "n_routed_experts")
    if experts is None:
        return matrices * width * inner
    return matrices * width * experts * (_number(text, "moe_intermediate_size") or inner)


def _text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part about text, of a model that also sees."""
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) and _number(inner, "hidden_size") else config


def _number(config: Mapping[str, Any], *names: str) -> int | None:
    """The first of these keys that holds a whole number above 0."""
    found = (config.get(name) for name in names)
    return next((value for value in found if type(value) is int and value > 0), None)
