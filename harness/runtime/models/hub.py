"""Model files from the Hub: the cache first, the network only for what it lacks."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from harness.errors import UsageError
from harness.io.hub_cache import weights_complete
from harness.runtime.models.checks import refuse_adapter

# Never a pickled weight file: safetensors only.
CONFIGURATION = ["*.json", "tokenizer*", "*.model", "merges.txt", "vocab.*"]
WANTED = ["*.safetensors", *CONFIGURATION]


def cached_snapshot(hub_id: str, revision: str | None, *, weights: bool = True) -> Path | None:
    """The cached snapshot's folder when it holds a configuration and all `weights`, else None."""
    try:
        folder = Path(
            snapshot_download(hub_id, revision=revision, allow_patterns=WANTED, local_files_only=True)
        )
    except LocalEntryNotFoundError:
        return None
    except HFValidationError as error:
        raise _no_such_model(hub_id) from error
    refuse_adapter(folder, hub_id)
    if not (folder / "config.json").exists() or (weights and not weights_complete(folder)):
        return None
    return folder


def _no_such_model(hub_id: str) -> UsageError:
    return UsageError(
        f"model {hub_id}: there is no such folder, and it is no Hub id (org/name)",
        "Check the name: python -m harness list models",
    )


def download_snapshot(hub_id: str, revision: str | None, *, weights: bool = True) -> Path:
    """The model's folder, downloaded where the cache lacks it. Raises UsageError saying why not."""
    try:
        folder = Path(
            snapshot_download(hub_id, revision=revision, allow_patterns=WANTED if weights else CONFIGURATION)
        )
    except HFValidationError as error:
        raise _no_such_model(hub_id) from error
    except GatedRepoError as error:
        raise UsageError(
            f"model {hub_id} is gated",
            "Accept its licence on the Hub, then log in: huggingface-cli login",
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        at = f" at revision {revision}" if revision else ""
        raise UsageError(
            f"model {hub_id}{at} is not on the Hub (or needs a login)",
            "Check the name: python -m harness list models",
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise UsageError(
            f"model {hub_id} is not in the cache and the Hub cannot be reached",
            "Download it where there is a network (huggingface-cli download) and copy the cache, or give a folder.",
        ) from error
    refuse_adapter(folder, hub_id)
    if not (folder / "config.json").exists():
        raise UsageError(f"model {hub_id} has no config.json", "Give a model that transformers can load.")
    if weights and not weights_complete(folder):
        raise UsageError(
            f"model {hub_id} has no complete safetensors weights",
            "Only safetensors are read; convert the model and give the folder.",
        )
    return folder
