"""Attention over short rows in training: exact but for the last rounding, and only there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from harness.runtime.models.attention import float32_short_attention

SHORT, LONG = 40, 300
Inputs = Callable[[int], tuple[torch.Tensor, ...]]


@pytest.fixture
def inputs() -> Inputs:
    def make(length: int) -> tuple[torch.Tensor, ...]:
        torch.manual_seed(length)
        return tuple(torch.randn(2, 3, length, 16, dtype=torch.bfloat16) for _ in range(3))

    return make


def attend(*tensors: Any, mask: torch.Tensor | None = None) -> torch.Tensor:
    found: torch.Tensor = ALL_ATTENTION_FUNCTIONS["sdpa"](torch.nn.Module(), *tensors, mask)[0]
    return found


def causal(length: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.full((length, length), torch.finfo(dtype).min, dtype=dtype).triu(1)[None, None]


@pytest.mark.parametrize("masked", [False, True])
def test_short_rows_are_rounded_once(masked: bool, inputs: Inputs) -> None:
    own = inputs(SHORT)
    mask = causal(SHORT, torch.bfloat16) if masked else None
    exact = attend(*(t.float() for t in own), mask=None if mask is None else mask.float())
    plain = attend(*own, mask=mask)
    with float32_short_attention(torch.device("cpu")), torch.autocast("cpu", torch.bfloat16):
        found = attend(*own, mask=mask)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, exact.bfloat16())
    assert not torch.equal(plain, found)  # else nothing was tested


def test_gradients_are_those_of_float32(inputs: Inputs) -> None:
    own = [t.requires_grad_() for t in inputs(SHORT)]
    with float32_short_attention(torch.device("cpu")):
        attend(*own).float().square().sum().backward()
    exact = [t.detach().float().requires_grad_() for t in own]
    attend(*exact).square().sum().backward()
    for rounded, whole in zip(own, exact, strict=True):
        torch.testing.assert_close(rounded.grad.float(), whole.grad, rtol=0.02, atol=0.02)


@pytest.mark.parametrize(("length", "dtype"), [(LONG, torch.bfloat16), (SHORT, torch.float32)])
def test_others_are_left_alone(length: int, dtype: torch.dtype, inputs: Inputs) -> None:
    own = [t.to(dtype) for t in inputs(length)]
    plain = attend(*own)
    with float32_short_attention(torch.device("cpu")):
        assert torch.equal(attend(*own), plain)


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_it_is_put_back_after_an_error(kind: str) -> None:
    before = ALL_ATTENTION_FUNCTIONS["sdpa"]
    inside = []

    def fail() -> None:
        with float32_short_attention(torch.device(kind)):
            inside.append(ALL_ATTENTION_FUNCTIONS["sdpa"])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (inside[0] is before) == (kind == "cuda")
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is before
