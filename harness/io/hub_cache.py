"""The Hub's cache on this machine, looked into without huggingface_hub, whose import takes long."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

from harness.io.files import NotReadableError, read_bounded
from harness.io.json_files import loads_bounded
from harness.io.paths import typed_path

INDEX = "model.safetensors.index.json"
_COMMIT = re.compile("[0-9a-f]{40}")
_INDEX_BYTES = 2**28


def hub_cache() -> Path:
    """The folder huggingface_hub keeps downloads in."""
    if cache := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return typed_path(cache, "HF_HUB_CACHE")
    if home := os.environ.get("HF_HOME"):
        return typed_path(home, "HF_HOME") / "hub"
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return typed_path(base, "XDG_CACHE_HOME") / "huggingface" / "hub"


def repository(kind: Literal["datasets", "models"], hub_id: str) -> Path:
    """The folder that the cache has, or would have, for a repository."""
    return hub_cache() / f"{kind}--{hub_id.replace('/', '--')}"


def is_cached(kind: Literal["datasets", "models"], hub_id: str) -> bool:
    """Whether the cache holds a snapshot of a repository."""
    try:
        return any(
            path.is_dir() and any(path.iterdir())
            for path in (repository(kind, hub_id) / "snapshots").iterdir()
        )
    except OSError:
        return False


def cached_commit(kind: Literal["datasets", "models"], hub_id: str, revision: str | None) -> str | None:
    """The commit that the cache has for a branch, tag or commit (default: main); None where it has none."""
    revision = revision or "main"
    if _COMMIT.fullmatch(revision):
        return revision
    try:
        text = read_bounded(repository(kind, hub_id) / "refs" / revision, 100).decode().strip()
    except (OSError, UnicodeDecodeError, NotReadableError):
        return None
    return text if _COMMIT.fullmatch(text) else None


def cached_model(hub_id: str, revision: str | None, *, weights: bool) -> Path | None:
    """The snapshot of a model with its configuration, and all its `weights` where these are wanted."""
    commit = cached_commit("models", hub_id, revision)
    if commit is None:
        return None
    folder = repository("models", hub_id) / "snapshots" / commit
    if not (folder / "config.json").is_file() or (weights and not weights_complete(folder)):
        return None
    return folder


def weights_complete(folder: Path) -> bool:
    """Whether a model's folder holds all safetensors files that its index names, or any where it has none."""
    if not (folder / INDEX).exists():
        return any(folder.glob("*.safetensors"))
    try:
        index = loads_bounded(read_bounded(folder / INDEX, _INDEX_BYTES).decode())
        names = set(index["weight_map"].values())
        return bool(names) and all((folder / name).exists() for name in names)
    except (OSError, NotReadableError, ValueError, LookupError, TypeError, AttributeError):
        return False  # a damaged index: to be downloaded again
