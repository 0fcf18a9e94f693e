"""Training and scoring in float16, whose gradients need a scaled loss. On a CPU it computes as on a GPU."""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from harness.errors import NonFiniteLossError
from harness.runtime.models import precision
from harness.runtime.models.loading import Located, autocast, one_dtype
from harness.runtime.scoring.lm_eval_model import _dtype
from harness.runtime.scoring.scorer import Scorer
from harness.runtime.training.loss_scale import LossScale
from strategies.full import Full
from strategies.lora import Lora
from strategies.qlora import QLora

FIRST_SCALE = 2.0**16


@pytest.mark.parametrize("strategy", [Lora(r=4), QLora(r=4), Full()], ids=["lora", "qlora", "full"])
def test_float16_is_close_to_float32(run_training: Any, strategy: Any) -> None:
    if strategy.name == "qlora":
        pytest.importorskip("bitsandbytes")
    exact, rough = run_training(strategy), run_training(strategy, dtype="float16")
    assert rough.losses == pytest.approx(exact.losses, abs=0.02)
    assert rough.losses != exact.losses
    # Recorded as they are and not times the scale.
    assert [step["grad_norm"] for step in rough.steps] == pytest.approx(
        [step["grad_norm"] for step in exact.steps], rel=0.05
    )
    assert {step["loss_scale"] for step in rough.steps} == {FIRST_SCALE}
    assert not any("loss_scale" in step for step in exact.steps)
    trained = [weight for weight in rough.model.parameters() if weight.requires_grad]
    assert {weight.dtype for weight in trained} == {torch.float32}
    frozen = [w for w in rough.model.parameters() if not w.requires_grad and w.is_floating_point()]
    assert {weight.dtype for weight in frozen} <= {torch.float16}


def test_a_scale_keeps_gradients_that_float16_cannot_hold() -> None:
    """1e-9 is 0 in float16. Without the scale nothing would reach the weight."""

    def gradient(scaled: bool) -> float:
        weight = torch.nn.Parameter(torch.ones(1, dtype=torch.float32))
        scale = LossScale(_spec("float16" if scaled else "float32"), torch.device("cpu"))
        scale.scaled((weight.half() * 1.0).float().sum() * 1e-9).backward()
        assert scale.settle(torch.optim.SGD([weight]))
        assert weight.grad is not None
        return float(weight.grad)

    assert gradient(scaled=False) == 0
    assert gradient(scaled=True) == pytest.approx(1e-9, rel=1e-2)


def test_a_step_that_overflows_is_made_again_and_not_left_out(
    run_training: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = run_training(Lora(r=4), dtype="float16")
    scaler = functools.partial(torch.amp.GradScaler, init_scale=2.0**40)
    monkeypatch.setattr("harness.runtime.training.loss_scale.torch.amp.GradScaler", scaler)
    lowered = run_training(Lora(r=4), dtype="float16")
    assert len(lowered.steps) == len(plain.steps) == 6
    scales = [step["loss_scale"] for step in lowered.steps]
    assert 1 <= scales[0] < 2.0**40
    assert lowered.losses == pytest.approx(plain.losses, abs=5e-3)
    assert [step["learning_rate"] for step in lowered.steps] == [
        step["learning_rate"] for step in plain.steps
    ]
    assert [step["tokens"] for step in lowered.steps] == [step["tokens"] for step in plain.steps]
    norms = [step["grad_norm"] for step in lowered.steps]
    assert all(map(math.isfinite, norms))
    assert norms == pytest.approx([step["grad_norm"] for step in plain.steps], rel=0.05)


def test_gradients_that_no_scale_mends_end_the_run(run_training: Any) -> None:
    class Broken(Lora):
        def penalty(self, model: torch.nn.Module) -> torch.Tensor:
            weight = next(weight for weight in model.parameters() if weight.requires_grad)
            return (weight * float("inf")).sum()

    with pytest.raises(NonFiniteLossError, match="gradient's norm became") as caught:
        run_training(Broken(r=4), dtype="float16")
    assert "model.dtype=float32" in caught.value.remedy


def test_resumed_is_uninterrupted_to_the_bit_with_its_scale(
    run_training: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It grows every two steps, so that one begun anew would be another.
    scaler = functools.partial(torch.amp.GradScaler, init_scale=256.0, growth_interval=2)
    monkeypatch.setattr("harness.runtime.training.loss_scale.torch.amp.GradScaler", scaler)
    strategy = Lora(r=4, dropout=0.1)
    whole = run_training(strategy, dtype="float16", checkpoint_steps=3)

    class Stop(Lora):
        def after_step(self, model: torch.nn.Module, step: int) -> None:
            if step == 5:
                raise KeyboardInterrupt

    folder = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        run_training(Stop(r=4, dropout=0.1), dtype="float16", checkpoint_steps=3, folder=folder)
    (state,) = (folder / "checkpoints").glob("checkpoint-3/scaler.json")
    assert json.loads(state.read_text())["scale"] == 512.0
    resumed = run_training(strategy, dtype="float16", checkpoint_steps=3, folder=folder)
    assert resumed.losses == whole.losses
    assert [step["loss_scale"] for step in resumed.steps] == [256, 256, 512, 512, 1024, 1024]
    for (name, one), (_, other) in zip(
        whole.model.named_parameters(), resumed.model.named_parameters(), strict=True
    ):
        assert torch.equal(one, other), name


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_scoring_in_float16_is_close_to_float32(
    run_training: Any, tokenizer: Any, attention: str, make_spec: Any
) -> None:
    asked = [("Which organ secretes insulin?", f" {word}") for word in ("Liver", "Pancreas", "Spleen")]
    requests = [SimpleNamespace(args=pair) for pair in asked]
    answers = {}
    for dtype in ("float32", "float16"):
        model = run_training.adapted(Lora(r=4), dtype, 0, attention=attention)
        cast = functools.partial(autocast, torch.device("cpu"), "float32" if one_dtype(model) else dtype)
        scorer = Scorer(model, tokenizer, max_length=128, autocast=cast)
        answers[dtype] = [logprob for logprob, _ in scorer.loglikelihood(requests)]
    assert answers["float16"] == pytest.approx(answers["float32"], abs=0.02)
    assert answers["float16"] != answers["float32"]


@pytest.mark.parametrize(
    ("device", "capability", "dtype", "slow"),
    [
        ("cuda", (7, 5), "bfloat16", True),  # T4
        ("cuda", (7, 0), "float16", False),  # V100
        ("cuda", (8, 0), "bfloat16", False),
        ("cuda", (9, 0), "float32", False),
    ],
)
def test_a_gpu_by_its_compute_capability(
    device: str, capability: tuple[int, int], dtype: Any, slow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    found = precision.slow_products(torch.device(device), dtype)
    assert (found is not None) == slow


def test_gpus_of_two_kinds_are_what_the_older_is(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {0: ("NVIDIA A100", (8, 0)), 1: ("Tesla T4", (7, 5))}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: names[device.index][1])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: names[device.index][0])
    assert precision._describe() == {"kind": "cuda", "name": "Tesla T4", "bfloat16": False}
    del names[1]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert precision._describe() == {"kind": "cuda", "name": "NVIDIA A100", "bfloat16": True}


def test_emulated_products_of_a_cpu_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for supported in (False, True):
        for name in ("computes_bfloat16", "_cpu_computes_float16"):
            monkeypatch.setattr(precision, name, lambda *_, supported=supported: supported)
        for dtype in ("bfloat16", "float16"):
            told = precision.slow_products(cpu, dtype)  # type: ignore[arg-type]
            assert (told is None) == supported
            assert supported or f"no instructions for {dtype}" in str(told)
        assert precision.slow_products(cpu, "float32") is None


@pytest.mark.parametrize(
    ("weights", "asked", "device", "chosen"),
    [
        ("bfloat16", "auto", "cpu", "float32"),
        ("float16", "auto", "cpu", "float32"),
        ("float32", "auto", "cpu", "float32"),
        ("bfloat16", "bfloat16", "cpu", "bfloat16"),
        ("bfloat16", "auto", "cuda", "float16"),
        ("float16", "auto", "cuda", "float16"),
        ("float32", "auto", "cuda", "float32"),
    ],
)
def test_lm_eval_computes_in_what_an_old_device_has(
    weights: str, asked: str, device: str, chosen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "dtype": weights}))
    monkeypatch.setattr(precision, "computes_bfloat16", lambda device: False)
    monkeypatch.setattr(precision, "_cpu_computes_float16", lambda: False)
    assert _dtype(Located(tmp_path, "dir", None), asked, torch.device(device)) == chosen


def _spec(dtype: str) -> Any:
    from harness.spec import RunSpec

    return RunSpec.model_validate(
        {"model": {"dtype": dtype}, "strategy": {"name": "x"}, "task": {"name": "y"}}
    )
