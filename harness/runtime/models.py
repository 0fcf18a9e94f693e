"""Models from their three sources: the Hub, a folder, a Python package; or of random weights."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from harness.cards import CARDS
from harness.errors import UsageError
from harness.record import ModelInfo
from harness.runtime.cache import weights_sha256
from harness.runtime.gguf import dequantised, package_weights
from harness.runtime.hub import cached_snapshot, download_snapshot
from harness.runtime.quantised import can_be_kept, load_quantised
from harness.spec import ModelSpec

RANDOM = "random:"
_CONTEXT = ("max_position_embeddings", "n_positions", "n_ctx")
_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def torch_dtype(name: str) -> torch.dtype:
    return _DTYPES[name]


def autocast(device: torch.device, dtype: str) -> contextlib.AbstractContextManager[Any]:
    """bfloat16 autocast for bfloat16 runs, nothing for float32 ones."""
    if dtype == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def one_dtype(model: torch.nn.Module) -> bool:
    """True when all floating-point weights have one dtype, so that no autocast is needed."""
    dtypes = {weight.dtype for weight in model.parameters() if weight.is_floating_point()}
    quantised = any(not weight.is_floating_point() for weight in model.parameters())
    return len(dtypes) == 1 and not quantised


@dataclass(frozen=True, slots=True)
class Located:
    """A model's folder on this machine, and where it came from."""

    folder: Path
    source: Literal["hub", "dir", "package", "random"]
    revision: str | None
    notes: tuple[str, ...] = ()


def locate(spec: ModelSpec, *, weights: bool = True) -> Located:
    """The folder of the spec's model, downloaded or made where needed; `weights` may be left out."""
    if spec.name.startswith(RANDOM):
        plain = spec.model_copy(update={"name": spec.name.removeprefix(RANDOM)})
        inner = locate(plain, weights=False)
        note = "random weights: scores mean nothing, memory and speed do"
        return Located(inner.folder, "random", inner.revision, (*inner.notes, note))
    card = CARDS.get(spec.name)
    if card is None and Path(spec.name).expanduser().is_dir():
        return _from_folder(Path(spec.name).expanduser())
    hub_id = card.hub_id if card is not None else spec.name
    cached = cached_snapshot(hub_id, spec.revision, weights=weights)
    if cached is not None:
        return Located(cached, "hub", cached.name)
    if card is not None and card.package is not None and spec.revision is None:
        return _from_hub_or_package(hub_id, card.package, weights)
    folder = download_snapshot(hub_id, spec.revision, weights=weights)
    return Located(folder, "hub", folder.name)


def _from_folder(folder: Path) -> Located:
    files = sorted(folder.glob("*.gguf"))
    if any(folder.glob("*.safetensors")) or not files:
        return Located(folder, "dir", None)
    if len(files) > 1:
        raise UsageError(f"model folder {folder} holds {len(files)} GGUF files", "Leave one in it.")
    return Located(dequantised(files[0]), "dir", None, (f"weights dequantised from {files[0].name}",))


def _from_hub_or_package(hub_id: str, package: str, weights: bool) -> Located:
    try:
        folder = download_snapshot(hub_id, None, weights=weights)
    except UsageError:
        file = package_weights(package)
        note = f"weights dequantised from {file.name} of the Python package {package}"
        return Located(dequantised(file), "package", None, (note,))
    return Located(folder, "hub", folder.name)


@dataclass(frozen=True)
class Base:
    """The base model a strategy adapts: `harness.contracts.BaseLoader`.

    `notes`: what is to be said of how it was loaded, so far.
    """

    located: Located
    spec: ModelSpec
    device: str
    seed: int = 0
    notes: list[str] = field(default_factory=list, compare=False)

    @property
    def dtype(self) -> str:
        return self.spec.dtype

    def load(self, *, dtype: str | None = None, quantization: Any = None) -> PreTrainedModel:
        """The base model on the run's device, in `dtype` or quantised by a transformers config."""
        wanted = torch_dtype(dtype or self.spec.dtype)
        options: dict[str, Any] = {"dtype": wanted, "attn_implementation": self.spec.attention}
        if quantization is not None:
            options["quantization_config"] = quantization
        if self.located.source == "random":
            return self._random(options, quantization)
        folder = self.located.folder
        try:
            if can_be_kept(quantization, self.located.source):
                return load_quantised(self._read, folder, options, self.device, self.notes)
            return self._read(folder, options)
        except (OSError, ValueError, KeyError) as error:
            raise UsageError(
                f"model {self.spec.name}: {str(error).splitlines()[0] if str(error) else error!r}",
                "It must be a causal language model with safetensors weights that transformers knows.",
            ) from error

    def _random(self, options: dict[str, Any], quantization: Any) -> PreTrainedModel:
        config = AutoConfig.from_pretrained(self.located.folder, local_files_only=True)
        torch.manual_seed(self.seed)
        plain = {name: value for name, value in options.items() if name != "quantization_config"}
        with torch.device(self.device):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config, **plain)
        if quantization is None:
            return model
        # Weights are quantised as they are read, so these are written first.
        with tempfile.TemporaryDirectory() as name:
            model.save_pretrained(name)
            del model
            return self._read(Path(name), options)

    def _read(self, folder: Path, options: dict[str, Any]) -> PreTrainedModel:
        return AutoModelForCausalLM.from_pretrained(  # type: ignore[no-any-return]
            folder, use_safetensors=True, local_files_only=True, device_map={"": self.device}, **options
        )


def load_tokenizer(located: Located, spec: ModelSpec) -> PreTrainedTokenizerBase:
    """The model's tokenizer, with a padding token (never attended to, so any will do)."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(located.folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(
            f"model {spec.name}: its folder holds no tokenizer that transformers can load",
            "Put tokenizer.json beside config.json.",
        ) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return tokenizer  # type: ignore[no-any-return]


def context_length(model: Any, spec: ModelSpec) -> int:
    """Tokens of context: the spec's, else the model's own; less what virtual tokens take of it."""
    config = model.config.get_text_config()
    own = next((int(size) for name in _CONTEXT if (size := getattr(config, name, None))), None)
    if own is None:
        return spec.max_length or 2048  # lm-eval's default for a model that does not say
    prompt: Any = getattr(model, "active_peft_config", None)
    virtual = prompt.num_virtual_tokens if getattr(prompt, "is_prompt_learning", False) else 0
    return min(spec.max_length or own, own - virtual)


def model_info(located: Located, spec: ModelSpec, notes: Sequence[str] = ()) -> ModelInfo:
    """What the record says of a model; `notes` are added to those of where it came from."""
    fingerprint = None if located.source == "random" else weights_sha256(located.folder)
    return ModelInfo(
        source=located.source,
        revision=located.revision,
        fingerprint=fingerprint,
        dtype=spec.dtype,
        notes=(*located.notes, *notes),
    )
