"""Requests to score, as rows of tokens for one forward pass.

Options of one question share its prompt: a row holds the prompt once and, behind it, each option's
tokens but the last, as branches that see the prompt and themselves and not each other. A row with
one branch, or none (all options are single tokens), is an ordinary causal one. What many prompts
begin with (worked examples) is left out of their rows and computed once: see `shared_beginnings`.

Legend: B rows, T tokens of a row, P tokens computed before (kept keys and values).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from harness.errors import UsageError
from harness.runtime.scoring.cuts import alike, cheapest_cuts

Ids = tuple[int, ...]

# Keys and values of a kept beginning are copied for each row of a batch, so that they count too, at
# the share of a row's memory that they make up.
_KEPT_SHARE = 8

_OVERHEAD = 48
"""Tokens that a further forward pass costs, at least: reading all weights, starting every operation."""

_LEAST_BEGINNING = 64
"""Tokens that prompts must have in common: below it, a mask costs more than the tokens."""

_LEAST_ROWS = 3


@dataclass(slots=True)
class Branch:
    """A continuation (ids), and where in its row its tokens after the first are fed (start)."""

    continuation: Ids
    start: int


@dataclass(slots=True)
class PackedRow:
    """A prompt and the continuations scored after it; the prompt's first `skip` tokens are not fed."""

    prompt: Ids
    branches: list[Branch] = field(default_factory=list)
    skip: int = 0

    @property
    def prompt_length(self) -> int:
        """Tokens of the prompt that are fed to the model."""
        return len(self.prompt) - self.skip

    @property
    def length(self) -> int:
        """Tokens fed to the model."""
        return self.prompt_length + sum(len(branch.continuation) - 1 for branch in self.branches)

    @property
    def reach(self) -> int:
        """Tokens of the longest of its texts, as far as they are fed: what each alone would be long."""
        return len(self.prompt) + max((len(branch.continuation) for branch in self.branches), default=1) - 1

    @property
    def scored(self) -> int:
        """Positions whose logits are read: the prompt's last, and each branch's tokens."""
        return 1 + self.length - self.prompt_length

    @property
    def is_causal(self) -> bool:
        """At most one branch has tokens of its own, so that plain causal attention is right."""
        return sum(len(branch.continuation) > 1 for branch in self.branches) <= 1

    def add(self, continuation: Ids) -> None:
        self.branches.append(Branch(continuation, self.length))

    def without(self, skip: int) -> PackedRow:
        """The same row with the prompt's first `skip` tokens left out."""
        shifted = [Branch(branch.continuation, branch.start - skip) for branch in self.branches]
        return PackedRow(self.prompt, shifted, skip)

    def ids(self) -> list[int]:
        ids = list(self.prompt[self.skip :])
        for branch in self.branches:
            ids.extend(branch.continuation[:-1])
        return ids

    def columns(self, branch: Branch) -> list[int]:
        """Positions in the row whose logits predict the branch's tokens, in order."""
        first = self.prompt_length - 1
        return [first, *range(branch.start, branch.start + len(branch.continuation) - 1)]

    def positions(self) -> list[int]:
        """Position ids, counted from the row's first token: each branch goes on where the prompt ends."""
        positions = list(range(self.prompt_length))
        for branch in self.branches:
            end = self.prompt_length + len(branch.continuation) - 1
            positions.extend(range(self.prompt_length, end))
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
    room = max_length + 1 - len(continuation)
    cut = prompt if len(prompt) <= room else prompt[-room:]
    return tuple(cut), tuple(continuation)


def packed_rows(
    pairs: Sequence[tuple[Ids, Ids]],
    *,
    branching: bool,
    limit: int | None = None,
    kind: Callable[[int], Hashable] = alike,
) -> list[PackedRow]:
    """Rows for distinct (prompt, continuation) pairs.

    Without `branching` (models that take no block mask) only single-token continuations share a
    row with another; with it, as many as keep the row within `limit` tokens. Pairs of lengths of
    different `kind` never do.
    """
    rows: dict[tuple[Ids, Hashable], list[PackedRow]] = {}
    for prompt, continuation in dict.fromkeys(pairs):
        own = rows.setdefault((prompt, kind(len(prompt) + len(continuation) - 1)), [])
        for row in own:
            length = row.length + len(continuation) - 1
            if len(continuation) == 1 or (branching and (limit is None or length <= limit)):
                row.add(continuation)
                break
        else:
            own.append(PackedRow(prompt, [Branch(continuation, len(prompt))]))
    return [row for own in rows.values() for row in own]


def shared_beginnings(
    rows: Sequence[PackedRow], limit: int | None
) -> tuple[list[PackedRow], list[tuple[Ids, list[PackedRow]]]]:
    """(rows that stand alone, [(beginning, rows without it)]): prompts that begin with the same tokens
    for at least a quarter of their length, as few-shot prompts do. Rows of more than `limit` tokens
    stay alone.
    """
    alone: list[PackedRow] = []
    candidates: dict[Ids, list[PackedRow]] = {}
    for row in rows:
        fits = limit is None or row.length <= limit
        if fits and len(row.prompt) > _LEAST_BEGINNING:
            candidates.setdefault(row.prompt[:_LEAST_BEGINNING], []).append(row)
        else:
            alone.append(row)
    groups: list[tuple[Ids, list[PackedRow]]] = []
    for members in candidates.values():
        beginning = _common_beginning([row.prompt for row in members])
        mean = sum(row.length for row in members) / len(members)
        if len(members) >= _LEAST_ROWS and len(beginning) >= max(_LEAST_BEGINNING, mean / 4):
            groups.append((beginning, [row.without(len(beginning)) for row in members]))
        else:
            alone.extend(members)
    return alone, groups


def _common_beginning(prompts: Sequence[Ids]) -> Ids:
    """What all prompts begin with; at least one token of each is left over."""
    # Of sorted sequences the first and the last have the least in common.
    pairs = zip(min(prompts), max(prompts), strict=False)
    common = tuple(a for a, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    return common[: min(map(len, prompts)) - 1]


def batches(
    rows: Sequence[PackedRow],
    budget: int,
    kept: int = 0,
    scored: int | None = None,
    kind: Callable[[int], Hashable] = alike,
) -> list[list[PackedRow]]:
    """Rows, longest first, in batches of at most `budget` padded tokens and little padding; plain and
    branching ones apart, since only the latter need a mask of their own, and those whose texts' lengths
    are of different `kind`. `kept`: tokens computed before each row; `scored`: positions of a batch at
    which logits are computed, at most.
    """

    def fits(width: int, count: int) -> bool:
        return width * count <= budget and (width + kept) * count <= _KEPT_SHARE * budget

    parts: dict[Hashable, list[PackedRow]] = {}
    for row in rows:
        parts.setdefault((not row.is_causal, kind(row.reach)), []).append(row)
    found: list[list[PackedRow]] = []
    for part in sorted(parts.values(), key=lambda part: not part[0].is_causal):
        own = sorted(part, key=lambda r: (-r.length, r.prompt))
        passes = cheapest_cuts([row.length for row in own], fits, _OVERHEAD)
        for start, end in passes:
            found.extend(_divided(own[start:end], scored))
    return found


def _divided(rows: list[PackedRow], scored: int | None) -> Iterator[list[PackedRow]]:
    """`rows` in parts of at most `scored` positions, or of one row."""
    first = positions = 0
    for i, row in enumerate(rows):
        if scored is not None and i > first and positions + row.scored > scored:
            yield rows[first:i]
            first, positions = i, 0
        positions += row.scored
    yield rows[first:]


def attention_mask(
    rows: Sequence[PackedRow], width: int, kept: int, dtype: torch.dtype
) -> torch.Tensor | None:
    """Additive attention mask (B or 1, 1, T, P + T): 0 where seen, the dtype's lowest number elsewhere;
    None where plain causal attention is right. A padding token sees itself, so that no row of the
    softmax is empty.
    """
    if all(row.is_causal for row in rows):
        if not kept:
            return None
        seen = torch.ones(width, width, dtype=torch.bool).tril()[None]
    else:
        seen = _branches_seen(rows, width)
    mask = torch.zeros(seen.shape[0], width, kept + width, dtype=dtype)
    mask[:, :, kept:].masked_fill_(~seen, torch.finfo(dtype).min)
    return mask[:, None]


def _branches_seen(rows: Sequence[PackedRow], width: int) -> torch.Tensor:
    """(B, T, T): whether a token of a row sees another one of it."""
    seen = torch.zeros(len(rows), width, width, dtype=torch.bool)
    seen.diagonal(dim1=1, dim2=2).fill_(True)
    causal = torch.ones(width, width, dtype=torch.bool).tril()
    for i, row in enumerate(rows):
        n = row.prompt_length
        seen[i, :n, :n] = causal[:n, :n]
        for branch in row.branches:
            start, end = branch.start, branch.start + len(branch.continuation) - 1
            seen[i, start:end, :n] = True
            seen[i, start:end, start:end] = causal[: end - start, : end - start]
    return seen
