"""The files of a model that a run reads, and what of them has changed since a record was made.

Standard library only: asked before a run's process is started.
"""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

from harness.io.hashes import changes, file_sha256, hashes
from harness.io.hub_cache import cached_commit, cached_model
from harness.model_names import CARDS, RANDOM_PREFIX
from harness.record import ModelInfo
from harness.spec import ModelSpec

_WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
_CONFIGURATION = (
    "config.json", "generation_config.json", "adapter_config.json", "quantize_config.json", "hf_quant_config.json",
    "tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model",
    "*.tiktoken", "chat_template.*", "additional_chat_templates/*",
)  # fmt: skip
"""What transformers looks for beside the weights. Not every .json: training writes others there."""


def files_read(folder: Path, *, weights: bool = True) -> dict[str, Path]:
    """The files that loading the model of `folder` reads, by their names in it.

    From a GGUF file everything is read, and nothing beside it.
    """
    safetensors = any(folder.glob("*.safetensors"))
    if weights and not safetensors and (found := sorted(folder.glob("*.gguf"))):
        return {path.name: path for path in found}
    patterns = (*_CONFIGURATION, *(_WEIGHTS if weights else ()))
    paths = (path for pattern in patterns for path in folder.glob(pattern) if path.is_file())
    return {path.relative_to(folder).as_posix(): path for path in sorted(paths)}


def weights_sha256(folder: Path) -> str:
    """SHA-256 over the weight files' names and hashes."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        digest.update(f"{path.name}:{file_sha256(path)}\n".encode())
    return digest.hexdigest()


def model_changes(spec: ModelSpec, stored: ModelInfo) -> list[str]:
    """What a run of `spec` would now read otherwise than `stored` says was read; empty where nothing is
    known to have changed. The network is not asked: a run would take what is cached.
    """
    name, weights = spec.name.removeprefix(RANDOM_PREFIX), stored.source != "random"
    card = CARDS.get(name)
    folder = Path(name).expanduser()
    if card is None and folder.is_dir():
        return [f"{line} in {folder}" for line in _folder_changes(folder, stored, weights)]
    hub_id = card.hub_id if card else name
    if stored.revision is not None:
        commit = cached_commit("models", hub_id, spec.revision)
        if commit is None or commit == stored.revision:
            return []
        return [f"{hub_id} is at commit {commit[:12]} and was at {stored.revision[:12]}"]
    cached = cached_model(hub_id, spec.revision, weights=True) if weights else None
    if cached is not None:
        return [f"{hub_id} is in the Hub's cache (commit {cached.name[:12]}) and was read from a package"]
    if card is None or card.package is None or not stored.files:
        return []
    return changes(stored.files, hashes({path.name: path for path in package_files(card.package)}))


def _folder_changes(folder: Path, stored: ModelInfo, weights: bool) -> list[str]:
    now = files_read(folder, weights=weights)
    if stored.files:
        return changes(stored.files, hashes(now))
    # A record of before the files were listed: only that the weights are the same can be told.
    is_same = stored.fingerprint is None or any(name.endswith(".gguf") for name in now)
    return [] if is_same or weights_sha256(folder) == stored.fingerprint else ["weights are changed"]


def package_files(package: str) -> list[Path]:
    """The GGUF files of an installed package, which is not imported; none where it is not installed."""
    found = importlib.util.find_spec(package.replace("-", "_"))
    return sorted(Path(found.origin).parent.glob("*.gguf")) if found and found.origin else []
