"""Rows of tokens into batches, the same for every strategy."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader, Sampler

from harness.contracts import Example
from harness.runtime.scoring.cuts import alike, cheapest_cuts, filled_rows
from harness.runtime.tokens.rows import Row

IGNORED = -100


def shuffled(count: int, seed: int, epoch: int) -> list[int]:
    """The order of `count` examples in `epoch`; depends on nothing but its arguments."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    return torch.randperm(count, generator=generator).tolist()


def split_fold(
    train: Sequence[Example], fold: int, folds: int, seed: int
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """(the rest, fold number `fold`) of train, each in its order. The folds are as equal as can be, and the
    items of one cluster are in one fold, so that none is asked what its neighbour was trained on.
    """
    clusters = list(dict.fromkeys(e.cluster or e.id for e in train))
    held = {clusters[i] for i in shuffled(len(clusters), seed, 0)[fold::folds]}
    inside = [(e.cluster or e.id) in held for e in train]
    return (
        tuple(e for e, own in zip(train, inside, strict=True) if not own),
        tuple(e for e, own in zip(train, inside, strict=True) if own),
    )


@dataclass(frozen=True, slots=True)
class Cut:
    """How examples are divided into forward passes, in padded tokens.

    A pass has at most `budget` of them (or one example); and because a further pass costs as much
    as `overhead` tokens (reading all weights, starting every operation), one is only made where it
    saves more padding than that. `packed` passes have no padding to save: there are as few as fit.
    Examples whose lengths are of different `kind` never share a pass.
    """

    budget: int
    overhead: int = 0
    packed: bool = False
    kind: Callable[[int], Hashable] = alike


def micro_batches(lengths: dict[int, int], cut: Cut) -> list[list[int]]:
    """Indices sorted by length and cut where that costs least: a function of the lengths alone."""
    kinds: dict[Hashable, dict[int, int]] = {}
    for i in sorted(lengths, key=lambda i: (-lengths[i], i)):
        kinds.setdefault(cut.kind(lengths[i]), {})[i] = lengths[i]
    return [batch for own in kinds.values() for batch in _of_one_kind(own, cut)]


def _of_one_kind(lengths: dict[int, int], cut: Cut) -> list[list[int]]:
    if cut.packed:
        return filled_rows(lengths, cut.budget)
    order = sorted(lengths, key=lambda i: (-lengths[i], i))
    passes = cheapest_cuts(
        [lengths[i] for i in order], lambda width, rows: width * rows <= cut.budget, cut.overhead
    )
    return [order[start:end] for start, end in passes]


class StepBatches(Sampler[list[list[int]]]):
    """For each optimiser step, this process's micro-batches of example indices.

    Which examples share a step depends only on seed, epoch and batch size: not on the strategy,
    the cut or the number of processes. Every process gets equally many micro-batches
    (collectives need that); an empty one contributes nothing.
    """

    def __init__(
        self, lengths: Sequence[int], *, seed: int, batch_size: int, cut: Cut, rank: int, world: int
    ) -> None:
        self._lengths = lengths
        self._seed = seed
        self._batch_size = batch_size
        self._cut = cut
        self._rank = rank
        self._world = world
        self._epoch = 0

    @property
    def packed(self) -> bool:
        return self._cut.packed

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return math.ceil(len(self._lengths) / self._batch_size)

    def __iter__(self) -> Iterator[list[list[int]]]:
        order = shuffled(len(self._lengths), self._seed, self._epoch)
        for start in range(0, len(order), self._batch_size):
            yield self._share(order[start : start + self._batch_size])

    def _share(self, batch: list[int]) -> list[list[int]]:
        # Dealt out in order of length, so that every process has about the same work.
        dealt = sorted(batch, key=lambda i: (-self._lengths[i], i))
        shares = [
            micro_batches({i: self._lengths[i] for i in dealt[rank :: self._world]}, self._cut)
            for rank in range(self._world)
        ]
        most = max(len(share) for share in shares)
        own = shares[self._rank]
        return own + [[] for _ in range(most - len(own))]


Batch = dict[str, torch.Tensor]


def collate(rows: Sequence[Row], pad_id: int, *, packed: bool = False) -> Batch:
    """Rows as right-padded `input_ids` and `labels`, both (B, T); `tokens` counts non-padding ones.

    Right padding needs no attention mask: a causal model's earlier positions never see it. An
    empty list gives one row of one token without labels, so that every process runs a forward.
    `packed`: all in one row, see `_in_one_row`.
    """
    if packed and rows:
        return _in_one_row(rows)
    width = max((len(row.ids) for row in rows), default=1)
    ids = torch.full((max(len(rows), 1), width), pad_id, dtype=torch.long)
    labels = torch.full_like(ids, IGNORED)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = torch.tensor(row.ids)
        labels[i, row.answer_start : len(row.ids)] = ids[i, row.answer_start : len(row.ids)]
    return {"input_ids": ids, "labels": labels, **_counts(rows)}


def _in_one_row(rows: Sequence[Row]) -> Batch:
    """Rows one after the other, (1, sum of lengths), with `position_ids` that start at 0 for each.

    By these transformers tells the examples apart. No label stands at an example's first token, so
    that it is never predicted from the example before.
    """
    ids = torch.tensor([[token for row in rows for token in row.ids]])
    labels = torch.full_like(ids, IGNORED)
    start = 0
    for row in rows:
        answer, end = start + row.answer_start, start + len(row.ids)
        labels[0, answer:end] = ids[0, answer:end]
        start = end
    positions = torch.cat([torch.arange(len(row.ids)) for row in rows])[None]
    return {"input_ids": ids, "labels": labels, "position_ids": positions, **_counts(rows)}


def _counts(rows: Sequence[Row]) -> Batch:
    return {"tokens": torch.tensor(sum(len(row.ids) for row in rows)), "examples": torch.tensor(len(rows))}


class StepLoader(DataLoader[list[Batch]]):
    """Yields, for each optimiser step, the list of this process's micro-batches.

    The steps are the batch sampler and the micro-batches its items: that is the form in which
    accelerate can skip steps when a run is resumed in the middle of an epoch.
    """

    def __init__(self, rows: Sequence[Row], steps: StepBatches, pad_id: int) -> None:
        self._step_batches = steps
        items = _MicroBatches(rows, pad_id, packed=steps.packed)
        super().__init__(items, batch_sampler=steps, collate_fn=list)  # type: ignore[arg-type]

    def set_epoch(self, epoch: int) -> None:
        self._step_batches.set_epoch(epoch)


class _MicroBatches:
    """Makes a micro-batch of indices into one of tensors."""

    def __init__(self, rows: Sequence[Row], pad_id: int, *, packed: bool) -> None:
        self._rows = rows
        self._pad_id = pad_id
        self._packed = packed

    def __getitem__(self, micro: list[int]) -> Batch:
        return collate([self._rows[i] for i in micro], self._pad_id, packed=self._packed)
