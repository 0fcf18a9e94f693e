"""Quantised weights on disk: the same bits, the same scores and steps, and never a reason to fail."""

from __future__ import annotations

import functools
import json
import os
import shutil
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BitsAndBytesConfig

from harness.errors import UsageError
from harness.io.lock import locked
from harness.runtime.cache import write_sums
from harness.runtime.models import quantised
from harness.runtime.models.loading import Base, Located, locate
from harness.runtime.models.quantised import VARIABLE
from harness.runtime.scoring.scorer import Scorer
from harness.spec import ModelSpec
from strategies.qlora import QLora

pytest.importorskip("bitsandbytes")
pytestmark = pytest.mark.usefixtures("cache")

KEPT = "quantised weights kept in the cache, which loading counts; later runs read them from there"
READ = "quantised weights read from the cache"
ALL_QLORAS = [
    QLora(r=4),
    QLora(r=4, double_quantization=False, quant_type="fp4", compute_dtype="float32"),
    QLora(r=4, quant_storage="bfloat16", compute_dtype="float16"),
]


@pytest.fixture
def folder(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that may be changed."""
    return Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))


Load = Callable[..., tuple[Any, list[str]]]


@pytest.fixture
def load(folder: Path) -> Load:
    """The model as a run's strategy loads it, and what is said of it."""

    def go(strategy: QLora = ALL_QLORAS[0], dtype: Any = "bfloat16", **more: Any) -> tuple[Any, list[str]]:
        spec = ModelSpec(name=str(folder), dtype=dtype, **more)
        base = Base(locate(spec), spec, "cpu")
        return strategy.load(base), base.notes

    return go


def copies(cache: Path) -> list[Path]:
    root = cache / "quantised"
    return sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []


def bits(tensor: torch.Tensor) -> tuple[Any, ...]:
    plain = tensor.detach().contiguous()
    return (plain.dtype, tuple(plain.shape), plain.reshape(-1).view(torch.uint8).numpy().tobytes())


def state(model: Any) -> dict[str, Any]:
    """Every tensor of the model and its quantisation, to the bit, and what else tells how they are used."""
    found: dict[str, Any] = {}
    for name, tensor in [*model.named_parameters(remove_duplicate=False), *model.named_buffers()]:
        found[name] = (*bits(tensor), tensor.requires_grad, type(tensor).__name__)
        if (quant := getattr(tensor, "quant_state", None)) is not None:
            found[f"{name} packed"] = {
                key: bits(value) if isinstance(value, torch.Tensor) else value
                for key, value in quant.as_dict(packed=False).items()
            }
            own = ("blocksize", "compress_statistics", "quant_type", "quant_storage", "bnb_quantized")
            found[f"{name} own"] = [getattr(tensor, key) for key in own]
            if quant.nested:
                found[f"{name} offset"] = bits(quant.offset)
    for name, module in model.named_modules():
        plain = (bool, int, str, torch.dtype, type(None))
        found[f"{name} module"] = {k: v for k, v in vars(module).items() if isinstance(v, plain)}
    found["config"] = model.config.to_dict()
    found["generation"] = model.generation_config.to_dict()
    return found


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("strategy", ALL_QLORAS, ids=["nf4", "fp4", "bfloat16 storage"])
def test_a_copy_is_what_quantising_afresh_gives(
    strategy: QLora, dtype: str, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "none")
    afresh, notes = load(strategy, dtype)
    assert notes == []
    expected = state(afresh)
    monkeypatch.delenv(VARIABLE)
    for told in (KEPT, READ, READ):
        model, notes = load(strategy, dtype)
        assert notes == [told]
        found = state(model)
        assert found.keys() == expected.keys()
        assert [name for name in expected if found[name] != expected[name]] == []
    embedding = expected["model.embed_tokens.weight"]
    assert embedding[0] == getattr(torch, dtype)
    assert sum(name.endswith("packed") for name in expected) == 2 * 7


def test_scores_and_steps_are_those_of_quantising_afresh(
    load: Load, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    strategy = ALL_QLORAS[0]
    ids = torch.tensor([tokenizer.encode("Question: Which organ secretes insulin?\nAnswer: Pancreas")])

    def results() -> list[Any]:
        model, notes = load(strategy)
        torch.manual_seed(0)
        adapted: Any = strategy.adapt(model)
        found: list[Any] = []
        cast = functools.partial(torch.autocast, "cpu", dtype=torch.bfloat16)
        trained = [weight for weight in adapted.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-2)
        adapted.train()
        for _ in range(2):
            with cast():
                loss = adapted(input_ids=ids, labels=ids).loss
            loss.backward()
            found += [loss.item(), *(bits(weight.grad) for weight in trained)]
            optimizer.step()
            optimizer.zero_grad()
        assert found[0] != found[1 + len(trained)]  # the step changed the model
        pairs = [("Question: Which organ?\nAnswer:", " Liver"), ("Which vitamin", " C")]
        requests = [types.SimpleNamespace(args=pair) for pair in pairs]
        found += Scorer(adapted, tokenizer, max_length=128, autocast=cast).loglikelihood(requests)
        strategy.save(adapted, tmp_path / "adapter")
        files = {path.name: path.read_bytes() for path in (tmp_path / "adapter").iterdir()}
        assert "adapter_model.safetensors" in files
        assert not any(name.startswith("model") for name in files)
        config = json.loads(files["adapter_config.json"])
        return [*found, files["adapter_model.safetensors"], config["base_model_name_or_path"], len(notes)]

    kept, read = results(), results()
    assert copies(Path(os.environ["MEDTUNE_CACHE"]))
    monkeypatch.setenv(VARIABLE, "none")
    afresh = results()
    assert kept[:-1] == read[:-1] == afresh[:-1]
    assert [kept[-1], read[-1], afresh[-1]] == [1, 1, 0]


def test_whatever_the_bits_depend_on_is_told_apart(
    load: Load, folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def new(*args: Any, **more: Any) -> bool:
        before = len(copies(cache))
        _, (note,) = load(*args, **more)
        assert (note == KEPT) == (len(copies(cache)) > before)
        return note == KEPT

    assert new()
    assert not new(attention="eager")  # no matter of the weights
    assert new(ALL_QLORAS[1])
    assert new(dtype="float32")
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-2] ^= 1
    weights.write_bytes(bytes(content))
    assert new()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    assert new()
    (folder / "generation_config.json").write_text('{"max_length": 99}')
    assert new()
    model, _ = load()
    assert model.generation_config.max_length == 99
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.0")
    assert new()
    assert not new()


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone", "extra", "no sums", "pipe", "a file"])
def test_a_damaged_copy_is_said_and_made_anew(damage: str, load: Load, cache: Path) -> None:
    expected = state(load()[0])
    (copy,) = copies(cache)
    weights = copy / "model.safetensors"
    whole = weights.read_bytes()
    if damage == "gone":
        weights.unlink()
    elif damage == "extra":
        (copy / "model-2.safetensors").write_bytes(whole)
    elif damage == "no sums":
        (copy / "SHA256SUMS").unlink()
    elif damage == "pipe":
        weights.unlink()
        os.mkfifo(weights)
    elif damage == "a file":
        shutil.rmtree(copy)
        copy.write_text("[]")
    else:
        flipped = bytearray(whole)
        flipped[len(whole) // 2] ^= 1
        weights.write_bytes(bytes(flipped) if damage == "flipped" else whole[:-100])
    model, (damaged, kept) = load()
    assert str(copy) in damaged
    assert "quantised anew" in damaged
    assert kept == KEPT
    assert state(model) == expected
    model, notes = load()
    assert notes == [READ]
    assert state(model) == expected
    assert copies(cache) == [copy]


def test_a_copy_that_the_library_cannot_read_is_made_anew(load: Load, cache: Path) -> None:
    """Whole by its sums, and yet no model: it vanished, say, while it was read."""
    load()
    (copy,) = copies(cache)
    (copy / "config.json").write_text("{}")
    write_sums(copy)
    _, (unread, kept) = load()
    assert "could not be read" in unread
    assert kept == KEPT
    assert load()[1] == [READ]


def test_a_killed_run_leaves_no_half_copy(load: Load, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(model: Any, folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(quantised, "_save", killed)
        with pytest.raises(KeyboardInterrupt):
            load()
    assert copies(cache) == []
    assert load()[1] == [KEPT]


def test_a_cache_that_cannot_be_made_costs_a_note(load: Load, cache: Path) -> None:
    cache.write_text("a file is in the way")
    model, (note,) = load()
    assert model is not None
    assert note.startswith("the quantised weights are not kept: ")


@pytest.mark.parametrize("when", ["known before", "found out"])
def test_no_space_costs_a_note_and_leaves_nothing(
    when: str, load: Load, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **more: Any) -> Any:
        raise OSError(28, "No space left on device")

    if when == "known before":
        usage = shutil.disk_usage("/")._replace(free=1000)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    else:
        monkeypatch.setattr("transformers.LlamaForCausalLM.save_pretrained", full)
    _, (note,) = load()
    assert ("twice the 0.0 GiB" if when == "known before" else "No space left on device") in note
    assert copies(cache) == []


def test_two_processes_do_not_write_the_same(load: Load, cache: Path) -> None:
    load()
    (copy,) = copies(cache)
    shutil.rmtree(copy)
    with locked(copy.with_suffix(".lock")):
        _, notes = load()
    assert notes == ["quantised weights are being kept by another process"]
    assert copies(cache) == []


def test_only_the_first_process_of_a_run_writes(
    load: Load, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert load()[1] == []
    assert copies(cache) == []
    monkeypatch.setenv("RANK", "0")
    load()
    monkeypatch.setenv("RANK", "1")
    assert load()[1] == [READ]


def test_a_copy_is_its_owners_only(load: Load, cache: Path) -> None:
    before = os.umask(0)
    try:
        load()
    finally:
        os.umask(before)
    (copy,) = copies(cache)
    assert [path.stat().st_mode & 0o077 for path in (copy.parent, copy)] == [0, 0]


def test_what_was_not_used_for_30_days_is_deleted(load: Load, cache: Path) -> None:
    load()
    load(ALL_QLORAS[1])
    month_ago = time.time() - 31 * 24 * 3600
    for path in (cache / "quantised").iterdir():
        os.utime(path, (month_ago, month_ago))
    load()  # read, and so used
    load(ALL_QLORAS[2])
    assert load()[1] == [READ]
    assert len(copies(cache)) == 2
    assert load(ALL_QLORAS[1])[1] == [KEPT]


def test_the_user_may_forbid_it(load: Load, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "public")  # a folder of one's own is not
    assert load()[1] == []
    monkeypatch.setenv(VARIABLE, "no")
    with pytest.raises(UsageError, match=f"{VARIABLE} is 'no'"):
        load()
    assert copies(cache) == []


def test_random_weights_and_other_quantisations_are_not_kept(folder: Path, cache: Path) -> None:
    spec = ModelSpec(name="x")
    base = Base(Located(folder, "random", None), spec, "cpu")
    ALL_QLORAS[0].load(base)
    assert base.notes == []
    eight = BitsAndBytesConfig(load_in_8bit=True)
    assert not quantised.can_be_kept(eight, "hub")
    assert not quantised.can_be_kept(None, "hub")
    assert copies(cache) == []


def test_pieces_of_zero_stage_3_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    four = BitsAndBytesConfig(load_in_4bit=True)
    assert quantised.can_be_kept(four, "hub")
    monkeypatch.setattr("transformers.integrations.is_deepspeed_zero3_enabled", lambda: True)
    assert not quantised.can_be_kept(four, "hub")
