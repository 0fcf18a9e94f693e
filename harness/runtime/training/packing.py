"""Whether a run's passes are packed rows: one row of examples one after the other, without padding.

transformers tells the examples of a row apart by position ids that start again at 0: from them it makes
a mask in blocks, and for flash attention the examples' lengths. sdpa and eager compute what the mask
then drops; flash and flex attention skip it, so that with these rows are packed unasked.

Legend: B rows, T tokens, L tokens of a made-up example, V vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import nn

from harness.errors import UsageError
from harness.runtime.models.context import context_length
from harness.runtime.models.positions import base_model, chosen_positions, vocabulary_size
from harness.runtime.models.prompt_learning import is_prompt_learning
from harness.runtime.scoring.likelihood import REFUSALS
from harness.runtime.tokens.rows import Row
from harness.runtime.training.batches import Cut, collate
from harness.runtime.training.losses import answer_losses
from harness.spec import RunSpec

SKIPPING = ("flash_attention_2", "flex_attention")
"""Attention that takes no time for what a token does not see."""

_LENGTH = 32
"""Tokens of a made-up example."""


def packed_cut(
    model: nn.Module, spec: RunSpec, device: torch.device, on_notice: Callable[[str], None]
) -> Cut | None:
    """The packed passes of a run that trains `model`; None for padded ones.

    Tried out on the model, which stays as it is; `on_notice` hears why rows are padded where packed
    ones were to be expected. Raises UsageError where they were asked for and cannot be.
    """
    asked = spec.train.packing
    if asked == "off" or (asked == "auto" and spec.model.attention not in SKIPPING):
        return None
    obstacle = _agreed(_obstacle(model, spec, device), device)
    if obstacle is None:
        # No row is longer than a text the model is made for: some have a mask of that size inside.
        own = context_length(model)
        return Cut(min(spec.train.micro_batch_tokens, own), packed=True)
    if asked == "on":
        raise UsageError(f"train.packing=on: {obstacle}.", "Leave it out, or --set train.packing=off.")
    on_notice(f"rows are padded and not packed: {obstacle}")
    return None


def _agreed(obstacle: str | None, device: torch.device) -> str | None:
    """The same for all processes: they must make equally many passes."""
    if not torch.distributed.is_initialized():
        return obstacle
    found = torch.tensor([obstacle is not None], dtype=torch.int32, device=device)
    torch.distributed.all_reduce(found)
    return obstacle or ("another process found that it does not work" if int(found) else None)


def _obstacle(model: nn.Module, spec: RunSpec, device: torch.device) -> str | None:
    """Why examples of one row would not be trained as they are apart; None where they are."""
    name = type(base_model(model)).__name__
    if is_prompt_learning(model):
        return f"{spec.strategy.name} puts virtual tokens before a row, not before each example of it"
    try:
        apart = _examples_are_apart(model, spec, device)
    except torch.OutOfMemoryError:
        raise
    except REFUSALS as error:
        return f"{name} does not take packed rows ({type(error).__name__})"
    return None if apart else f"{name} does not keep the examples of a row apart"


def _examples_are_apart(model: nn.Module, spec: RunSpec, device: torch.device) -> bool:
    """Whether a made-up example has the same losses in a row behind others as first in one.

    What a configuration says does not tell: ALiBi ignores positions without a word, recurrent layers
    remember, and kernels take different ways to the same mask.
    """
    vocabulary = vocabulary_size(model)
    length = min(_LENGTH, context_length(model, asked=spec.model.max_length))
    one, other = (
        Row(tuple(7 * i * i % vocabulary for i in range(start, start + length)), 1)
        for start in (1, 1 + length)
    )
    third = Row(one.ids[::-1], 1)

    with _as_it_is(model, device), chosen_positions(model) as positions:

        def losses(*rows: Row, told: bool = True) -> torch.Tensor:
            batch = collate(rows, 0, packed=True)
            if not told:
                del batch["position_ids"]
            found = answer_losses(model, batch, positions, device, spec.model.dtype, "none")
            return found.view(len(rows), -1)  # (rows, L - 1)

        plain = losses(one, other, told=False)
        behind_one = losses(one, other)
        behind_third = losses(third, other)
        first = losses(other, one)

    def apart(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((a - b).abs().mean())

    # All rows have one shape, so that rounding hardly differs between them, whatever the precision;
    # differences are held against that of a model told nothing, since they depend on its weights.
    untold = apart(plain[1], first[0])
    leak = apart(behind_one[1], behind_third[1])  # what is before it; of a masked token not a bit is seen
    shift = apart(behind_one[1], first[0])  # and where it stands
    # Other kernels than a padded row's. Rounding makes 1e-6 nats a token, 0.01 to 0.05 in bfloat16.
    change = apart(behind_one[0], plain[0])
    exact = spec.model.dtype == "float32"
    return leak <= 1e-4 * untold and shift <= 0.05 * untold and change <= (1e-3 if exact else 0.1)


@contextlib.contextmanager
def _as_it_is(model: nn.Module, device: torch.device) -> Iterator[None]:
    """No gradients, no dropout; modes and generators put back at the end."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        for module in training:
            module.training = True


def refuse_untrainable(spec: RunSpec, device: torch.device) -> None:
    """Raises UsageError where PyTorch has no backward pass for the attention asked for."""
    if spec.model.attention == "flex_attention" and device.type == "cpu":
        raise UsageError(
            "model.attention=flex_attention does not train on a CPU: PyTorch has no backward pass for it there.",
            "Use --set model.attention=sdpa, or train on a GPU.",
        )
