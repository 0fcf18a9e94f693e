"""Requests to score, as rows of tokens for one forward pass.

Options of one question share its prompt: a row holds the prompt once and, behind it, each option's
tokens but the last, as branches that see the prompt and themselves and not each other. A row with
one branch, or none (all options are single tokens), is an ordinary causal one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from harness.errors import UsageError
from harness.runtime.positions import base_model

Ids = tuple[int, ...]

# A branch mask is right only where every layer attends to the whole prompt by the mask given.
_BRANCHING_ATTENTION = ("sdpa", "eager")
_WINDOWS = ("sliding_window", "window_size", "attention_window_size")


@dataclass(slots=True)
class Branch:
    """A continuation (ids), and where in its row its tokens after the first are fed (start)."""

    continuation: Ids
    start: int


@dataclass(slots=True)
class PackedRow:
    """A prompt and the continuations scored after it."""

    prompt: Ids
    branches: list[Branch] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Tokens fed to the model."""
        return len(self.prompt) + sum(len(branch.continuation) - 1 for branch in self.branches)

    @property
    def is_causal(self) -> bool:
        """At most one branch has tokens of its own, so that plain causal attention is right."""
        return sum(len(branch.continuation) > 1 for branch in self.branches) <= 1

    def add(self, continuation: Ids) -> None:
        self.branches.append(Branch(continuation, self.length))

    def ids(self) -> list[int]:
        ids = list(self.prompt)
        for branch in self.branches:
            ids.extend(branch.continuation[:-1])
        return ids

    def columns(self, branch: Branch) -> list[int]:
        """Positions in the row whose logits predict the branch's tokens, in order."""
        first = len(self.prompt) - 1
        return [first, *range(branch.start, branch.start + len(branch.continuation) - 1)]

    def positions(self) -> list[int]:
        """Position ids: each branch goes on where the prompt ends."""
        positions = list(range(len(self.prompt)))
        for branch in self.branches:
            end = len(self.prompt) + len(branch.continuation) - 1
            positions.extend(range(len(self.prompt), end))
        return positions


def clip(prompt: Sequence[int], continuation: Sequence[int], max_length: int) -> tuple[Ids, Ids]:
    """Prompt and continuation as lm-eval's HFLM cuts them: from the left, to max_length + 1 tokens
    (of which the last is only predicted). Raises UsageError where nothing can be scored: a prompt or
    continuation without tokens, or a continuation longer than the context.
    """
    if not prompt or not continuation:
        what = "continuation" if prompt else "prompt"
        raise UsageError(
            f"a {what} without tokens cannot be scored",
            "It is empty, or its text merges with what stands before it into one token.",
        )
    if len(continuation) > max_length:
        raise UsageError(
            f"an answer of {len(continuation)} tokens does not fit the context of {max_length}",
            "Raise --set model.max_length=..., or use letter scoring.",
        )
    whole = (*prompt, *continuation)[-(max_length + 1) :]
    return whole[: -len(continuation)], tuple(continuation)


def packed_rows(pairs: Sequence[tuple[Ids, Ids]], *, branching: bool) -> list[PackedRow]:
    """Rows for distinct (prompt, continuation) pairs.

    Without `branching` (models that take no block mask) only single-token continuations share a
    row with another.
    """
    rows: dict[tuple[Ids, Ids], PackedRow] = {}
    for prompt, continuation in dict.fromkeys(pairs):
        shared = branching or len(continuation) == 1
        key = (prompt, () if shared else continuation)
        row = rows.setdefault(key, PackedRow(prompt))
        row.add(continuation)
    return list(rows.values())


def batches(rows: Sequence[PackedRow], budget: int) -> list[list[PackedRow]]:
    """Rows, longest first, in batches of at most `budget` padded tokens; plain and branching ones
    apart, since only the latter need a mask.
    """
    found: list[list[PackedRow]] = []
    for plain in (True, False):
        own = sorted((r for r in rows if r.is_causal == plain), key=lambda r: (-r.length, r.prompt))
        open_batch: list[PackedRow] = []
        for row in own:
            if open_batch and open_batch[0].length * (len(open_batch) + 1) > budget:
                found.append(open_batch)
                open_batch = []
            open_batch.append(row)
        if open_batch:
            found.append(open_batch)
    return found


def branch_mask(rows: Sequence[PackedRow], width: int, dtype: torch.dtype) -> torch.Tensor:
    """Additive attention mask (B, 1, T, T) of branching rows: 0 where seen, the dtype's lowest
    number elsewhere. A padding token sees only itself, so that no row of the softmax is empty.
    """
    seen = torch.zeros(len(rows), width, width, dtype=torch.bool)
    seen.diagonal(dim1=1, dim2=2).fill_(True)
    causal = torch.ones(width, width, dtype=torch.bool).tril()
    for i, row in enumerate(rows):
        n = len(row.prompt)
        seen[i, :n, :n] = causal[:n, :n]
        for branch in row.branches:
            start, end = branch.start, branch.start + len(branch.continuation) - 1
            seen[i, start:end, :n] = True
            seen[i, start:end, start:end] = causal[: end - start, : end - start]
    mask = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)
    return mask[:, None]


def may_branch(model: nn.Module, max_length: int) -> bool:
    """False for models that cannot take branches, as far as their configuration says.

    PEFT's prompt methods rewrite mask and positions, attention kernels without masks drop them, and
    layers with a window or chunks shorter than the context count distance along the row.
    """
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        return False
    config = base_model(model).config.get_text_config()
    if getattr(config, "_attn_implementation", None) not in _BRANCHING_ATTENTION:
        return False
    layers = getattr(config, "layer_types", None) or ["full_attention"]
    if not all(kind in ("full_attention", "sliding_attention") for kind in layers):
        return False
    if not getattr(config, "use_sliding_window", True) and "sliding_attention" not in layers:
        return True
    windows = [getattr(config, name, None) for name in _WINDOWS]
    return all(window is None or window >= max_length for window in windows)
