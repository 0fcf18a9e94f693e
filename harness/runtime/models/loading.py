"""Models from their three sources: the Hub, a folder, a Python package; or of random weights."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from harness.errors import UsageError
from harness.io.hashes import hashes
from harness.model_names import CARDS
from harness.record import ModelInfo
from harness.runtime.models.checks import refuse_acausal, refuse_adapter, refuse_incomplete
from harness.runtime.models.gguf import dequantised, package_weights
from harness.runtime.models.hub import cached_snapshot, download_snapshot
from harness.runtime.models.not_loaded import CAUSES, not_loaded
from harness.runtime.models.quantised import can_be_kept, compute_as_asked, load_quantised, name_model
from harness.runtime.models.stored_quantised import (
    compute_in,
    described,
    refuse_quantization,
    stored_quantization,
)
from harness.runtime.models.text_path import keep_text_path
from harness.spec import Dtype, ModelSpec
from harness.store.model_files import files_read, weights_sha256

RANDOM = "random:"
_BESIDE = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "chat_template*", "vocab*", "merges.txt",
    "*.model", "*.tiktoken", "tekken.json", "generation_config.json",
)  # fmt: skip
"""Files of a model's folder that go with what was trained on it, by name: others may hold anything."""
_DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in get_args(Dtype)}


def torch_dtype(name: str) -> torch.dtype:
    return _DTYPES[name]


def autocast(device: torch.device, dtype: str) -> contextlib.AbstractContextManager[Any]:
    """Autocast in a run's 16-bit precision; nothing for float32 ones."""
    if dtype == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch_dtype(dtype))


def one_dtype(model: torch.nn.Module) -> bool:
    """True when all floating-point weights have one dtype, so that no autocast is needed."""
    dtypes = {weight.dtype for weight in model.parameters() if weight.is_floating_point()}
    quantised = any(not weight.is_floating_point() for weight in model.parameters())
    return len(dtypes) == 1 and not quantised


@dataclass(frozen=True, slots=True)
class Located:
    """A model's folder on this machine, and where it came from; `hub_id` of one from the Hub."""

    folder: Path
    source: Literal["hub", "dir", "package", "random"]
    revision: str | None
    notes: tuple[str, ...] = ()
    hub_id: str | None = None
    origin: Path | None = None
    """The GGUF file that `folder` was made from; None where that is the model's own."""

    def files(self) -> dict[str, Path]:
        """What loading it reads, by name."""
        if self.origin is not None:
            return {self.origin.name: self.origin}
        return files_read(self.folder, weights=self.source != "random")


def locate(spec: ModelSpec, *, weights: bool = True) -> Located:
    """The folder of the spec's model, downloaded or made where needed; `weights` may be left out.

    Raises `UsageError` where the folder holds an adapter.
    """
    located = _locate(spec, weights)
    refuse_adapter(located.folder, spec.name)
    return located


def _locate(spec: ModelSpec, weights: bool) -> Located:
    if spec.name.startswith(RANDOM):
        plain = spec.model_copy(update={"name": spec.name.removeprefix(RANDOM)})
        inner = locate(plain, weights=False)
        note = "random weights: scores mean nothing, memory and speed do"
        return Located(inner.folder, "random", inner.revision, (*inner.notes, note), origin=inner.origin)
    card = CARDS.get(spec.name)
    if card is None and Path(spec.name).expanduser().is_dir():
        return _from_folder(Path(spec.name).expanduser())
    hub_id = card.hub_id if card is not None else spec.name
    cached = cached_snapshot(hub_id, spec.revision, weights=weights)
    if cached is not None:
        return Located(cached, "hub", cached.name, hub_id=hub_id)
    if card is not None and card.package is not None and spec.revision is None:
        return _from_hub_or_package(hub_id, card.package, weights)
    folder = download_snapshot(hub_id, spec.revision, weights=weights)
    return Located(folder, "hub", folder.name, hub_id=hub_id)


def _from_folder(folder: Path) -> Located:
    files = sorted(folder.glob("*.gguf"))
    if any(folder.glob("*.safetensors")) or not files:
        return Located(folder, "dir", None)
    if len(files) > 1:
        raise UsageError(f"model folder {folder} holds {len(files)} GGUF files", "Leave one in it.")
    notes = [f"weights dequantised from {files[0].name}"]
    made = dequantised(files[0], notes)
    return Located(made, "dir", None, tuple(notes), origin=files[0])


def _from_hub_or_package(hub_id: str, package: str, weights: bool) -> Located:
    try:
        folder = download_snapshot(hub_id, None, weights=weights)
    except UsageError:
        file = package_weights(package)
        notes = [f"weights dequantised from {file.name} of the Python package {package}"]
        made = dequantised(file, notes)
        return Located(made, "package", None, tuple(notes), origin=file)
    return Located(folder, "hub", folder.name, hub_id=hub_id)


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
        """The base model on the run's device, in `dtype` or quantised by a transformers config.

        Raises `UsageError` for what is not the causal language model that its name says.
        """
        wanted = torch_dtype(dtype or self.spec.dtype)
        options: dict[str, Any] = {"dtype": wanted, "attn_implementation": self.spec.attention}
        if quantization is not None:
            options["quantization_config"] = quantization
        try:
            model = self._random(options) if self.located.source == "random" else self._stored(options)
        except CAUSES as error:
            raise not_loaded(self.spec.name, self.located.folder, error) from error
        if (note := keep_text_path(model)) is not None:
            self.notes.append(note)
        refuse_acausal(self.spec.name, model)
        compute_as_asked(model)
        self._name(model)
        return model

    def _stored(self, options: dict[str, Any]) -> PreTrainedModel:
        """The weights of the checkpoint."""
        folder, quantization = self.located.folder, options.get("quantization_config")
        stored = stored_quantization(folder)
        if stored is None:
            if can_be_kept(quantization, self.located.source):
                return load_quantised(self._read, folder, options, self.device, self.notes)
            return self._read(folder, options)
        refuse_quantization(self.spec.name, stored, quantization)
        self.notes.append(
            f"the checkpoint is stored quantised ({described(stored)}): all methods, zero-shot and lora too, "
            "compute with these weights"
        )
        model = self._read(
            folder, {key: value for key, value in options.items() if value is not quantization}
        )
        compute_in(model, stored, quantization, options["dtype"])
        return model

    def _random(self, options: dict[str, Any]) -> PreTrainedModel:
        config = AutoConfig.from_pretrained(self.located.folder, local_files_only=True)
        if hasattr(config, "quantization_config"):
            del config.quantization_config  # of the weights that are not read
        torch.manual_seed(self.seed)
        plain = {name: value for name, value in options.items() if name != "quantization_config"}
        with torch.device(self.device):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config, **plain)
        if len(plain) == len(options):
            return model
        # Weights are quantised as they are read, so these are written first.
        with tempfile.TemporaryDirectory() as name:
            model.save_pretrained(name)
            del model
            return self._read(Path(name), options)

    def _read(self, folder: Path, options: dict[str, Any]) -> PreTrainedModel:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, device_map={"": self.device},
            output_loading_info=True, **options,
        )  # fmt: skip
        refuse_incomplete(self.spec.name, model, info)
        return model  # type: ignore[no-any-return]

    def _name(self, model: PreTrainedModel) -> None:
        """Where the model says it is from, which an adapter's configuration then says of its base."""
        name = self.located.hub_id or str(self.located.folder)
        if self.located.source == "random":
            name = self.spec.name
        name_model(model, name)
        model.base_revision = self.located.revision


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


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy what belongs to a model beside its weights and configuration: the tokenizer, and how it generates."""
    for file in sorted(path for pattern in _BESIDE for path in source.glob(pattern)):
        if file.is_file() and not (target / file.name).exists():
            shutil.copyfile(file, target / file.name)


def model_info(located: Located, spec: ModelSpec, notes: Sequence[str] = ()) -> ModelInfo:
    """What the record says of a model; `notes` are added to those of where it came from."""
    random = located.source == "random"
    fingerprint = None if random else weights_sha256(located.folder)
    stored = stored_quantization(located.folder)
    return ModelInfo(
        source=located.source,
        revision=located.revision,
        fingerprint=fingerprint,
        dtype=spec.dtype,
        quantization=None if random or stored is None else described(stored),
        notes=(*located.notes, *notes),
        files=hashes(located.files()),
    )
