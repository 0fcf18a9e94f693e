"""Models of the Hub: from a cache made by hand, and what is said when there is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.runtime.models.hub import CONFIGURATION, cached_snapshot, download_snapshot
from harness.runtime.models.loading import locate
from harness.spec import ModelSpec

HUB_ID = "some-org/some-model"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the Hub's, and no network."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def put(cache: Path, hub_id: str = HUB_ID, commit: str = COMMIT, **files: str) -> Path:
    """A snapshot in the cache's own layout: blobs, links to them, and refs/main."""
    root = cache / f"models--{hub_id.replace('/', '--')}"
    snapshot = root / "snapshots" / commit
    for folder in (snapshot, root / "blobs", root / "refs"):
        folder.mkdir(parents=True, exist_ok=True)
    (root / "refs" / "main").write_text(commit)
    for number, (name, text) in enumerate(files.items()):
        blob = root / "blobs" / f"{commit}{number}"
        blob.write_text(text)
        (snapshot / name.replace("__", ".")).symlink_to(blob)
    return snapshot


WHOLE = {"config__json": "{}", "model__safetensors": "x", "tokenizer__json": "{}"}


def test_a_cached_snapshot_is_found_without_a_network(cache: Path) -> None:
    snapshot = put(cache, **WHOLE)
    found = locate(ModelSpec(name=HUB_ID))
    assert (found.folder.resolve(), found.source, found.revision) == (snapshot.resolve(), "hub", COMMIT)


def test_an_adapter_is_said_to_be_one(cache: Path) -> None:
    put(cache, adapter_config__json='{"base_model_name_or_path": "org/base"}', adapter_model__safetensors="x")
    with pytest.raises(UsageError, match=f"model {HUB_ID} is an adapter for org/base") as caught:
        locate(ModelSpec(name=HUB_ID))
    assert "--model org/base" in caught.value.remedy


def test_a_revision_is_the_one_asked_for(cache: Path) -> None:
    put(cache, **WHOLE)
    other = put(cache, commit="f" * 40, **WHOLE)
    assert locate(ModelSpec(name=HUB_ID, revision="f" * 40)).folder.resolve() == other.resolve()
    first = locate(ModelSpec(name=HUB_ID, revision=COMMIT))
    assert first.revision == COMMIT
    with pytest.raises(UsageError, match=HUB_ID):
        locate(ModelSpec(name=HUB_ID, revision="e" * 40))


@pytest.mark.parametrize("missing", ["config__json", "model__safetensors"])
def test_half_a_snapshot_is_not_used(cache: Path, missing: str) -> None:
    put(cache, **{name: text for name, text in WHOLE.items() if name != missing})
    assert cached_snapshot(HUB_ID, None) is None
    with pytest.raises(UsageError):
        locate(ModelSpec(name=HUB_ID))


def test_all_shards_must_be_there(cache: Path) -> None:
    index = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}})
    snapshot = put(
        cache,
        config__json="{}",
        **{"model-1__safetensors": "x", "model__safetensors__index__json": index},
    )
    assert (snapshot / "model.safetensors.index.json").exists()
    assert cached_snapshot(HUB_ID, None) is None
    (snapshot / "model-2.safetensors").write_text("x")
    assert cached_snapshot(HUB_ID, None) is not None


def test_a_model_that_is_not_there_is_said_with_what_to_do(cache: Path) -> None:
    with pytest.raises(
        UsageError, match=f"{HUB_ID} is not in the cache and the Hub cannot be reached"
    ) as error:
        locate(ModelSpec(name=HUB_ID))
    assert "download" in error.value.remedy


def test_a_hub_that_does_not_answer_is_said_too(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed port, and not only the offline switch: the libraries' errors differ."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UsageError, match="cannot be reached"):
        download_snapshot(HUB_ID, None)


@pytest.mark.parametrize("name", ["no/such/folder", "bad name", "/absolute/nowhere", "--x--"])
def test_a_name_that_is_no_hub_id_is_refused(name: str, cache: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        locate(ModelSpec(name=name))


def test_random_weights_need_no_weights(cache: Path) -> None:
    """Or `random:` of a 70B model would first fetch 140 GB, only to leave them unread."""
    snapshot = put(cache, config__json="{}", tokenizer__json="{}")
    found = locate(ModelSpec(name=f"random:{HUB_ID}"))
    assert (found.folder.resolve(), found.source) == (snapshot.resolve(), "random")
    assert "random weights" in found.notes[-1]


def test_random_weights_download_no_weights(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def download(hub_id: str, *, allow_patterns: list[str], **_: object) -> str:
        asked.append(allow_patterns)
        (tmp_path / "config.json").write_text("{}")
        return str(tmp_path)

    monkeypatch.setattr("harness.runtime.models.hub.snapshot_download", download)
    download_snapshot(HUB_ID, None, weights=False)
    assert asked == [CONFIGURATION]
    assert not any("safetensors" in pattern for pattern in CONFIGURATION)


def test_no_pickled_weights_are_ever_asked_for(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fnmatch import fnmatch

    from harness.runtime.models.hub import WANTED

    for name in ("pytorch_model.bin", "model.pt", "weights.pth", "consolidated.00.pth", "model.py"):
        assert not any(fnmatch(name, pattern) for pattern in WANTED), name
    for name in (
        "model-00001-of-00002.safetensors",
        "tokenizer.model",
        "tokenizer.json",
        "generation_config.json",
    ):
        assert any(fnmatch(name, pattern) for pattern in WANTED), name
