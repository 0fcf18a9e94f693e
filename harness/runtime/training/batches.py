"""Examples into token ids and batches, the same for every strategy.

Tokenisation is lm-eval's: prompt and answer are encoded together and split after the prompt's
tokens, so that what is trained is what is scored.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler
from transformers import PreTrainedTokenizerBase

from harness.contracts import Example, Scoring, Task
from harness.errors import UsageError
from harness.runtime.scoring.cuts import alike, cheapest_cuts, filled_rows
from harness.runtime.scoring.texts import Encoder, with_spaces_moved

IGNORED = -100

_TOKENISED_AT_ONCE = 512
"""Texts given to the tokenizer together, which it shares among the cores; bounds its memory."""


@dataclass(frozen=True, slots=True)
class Row:
    """One training example: token ids, and where in them the answer starts (at least 1).

    cut: tokens of its prompt that did not fit and are left out.
    """

    ids: tuple[int, ...]
    answer_start: int
    cut: int = 0


class RowError(UsageError):
    """An example that cannot be trained on: the `index`-th given, from 0."""

    def __init__(self, message: str, remedy: str, index: int) -> None:
        super().__init__(message, remedy)
        self.index = index


def encode(tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str, max_length: int) -> Row:
    """`encode_pairs` of one."""
    return encode_pairs(tokenizer, [(prompt, answer)], max_length)[0]


def encode_pairs(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]], max_length: int
) -> list[Row]:
    """Each (prompt, answer) as the ids of `prompt`, a space, `answer`: at most `max_length` of them.

    A long prompt loses its beginning, but not the token that the tokenizer puts before every text.
    Raises RowError when an answer alone does not fit, or has no token of its own.
    """
    encoder = Encoder(tokenizer)
    rows: list[Row] = []
    for start in range(0, len(pairs), _TOKENISED_AT_ONCE):
        part = pairs[start : start + _TOKENISED_AT_ONCE]
        texts = [with_spaces_moved(prompt, f" {answer}") for prompt, answer in part]
        prompts = encoder.encoded([prompt for prompt, _ in texts])
        wholes = encoder.encoded([prompt + answer for prompt, answer in texts])
        for (_, answer), prompt_ids, ids in zip(part, prompts, wholes, strict=True):
            answer_length = len(ids) - len(prompt_ids)
            try:
                rows.append(_row(ids, encoder.first(ids), answer_length, answer, max_length))
            except UsageError as error:
                raise RowError(error.message, error.remedy, len(rows)) from error
    return rows


def _row(ids: list[int], first: int, answer_length: int, answer: str, max_length: int) -> Row:
    """A row of `ids`, of which `first` are the tokenizer's own and the last `answer_length` the answer's."""
    if answer_length < 1:
        raise UsageError(
            f"an answer of {len(answer)} characters has no tokens of its own",
            "It is empty, or its text merges with the prompt's end into one token.",
        )
    if answer_length >= max_length:
        raise UsageError(
            f"an answer has {answer_length} tokens, but train.max_length is {max_length}",
            f"Raise it: --set train.max_length={answer_length * 2}",
        )
    cut = max(0, len(ids) - max_length)
    if cut:
        first = min(first, max_length - answer_length - 1)  # one token is the prompt's
        ids = ids[:first] + ids[first + cut :]
    return Row(tuple(ids), len(ids) - answer_length, cut)


def refuse_outside(tokenizer: PreTrainedTokenizerBase, rows: Iterable[Row], vocabulary: int) -> None:
    """Raises RowError for a token that an embedding of `vocabulary` lines has none for."""
    encoder = Encoder(tokenizer)
    if not encoder.outside(vocabulary):
        return
    for index, row in enumerate(rows):
        try:
            encoder.refuse_outside(row.ids, vocabulary)
        except UsageError as error:
            raise RowError(error.message, error.remedy, index) from error


def padding_id(tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> int:
    """The tokenizer's padding token where the embedding has a line for it; never attended to, so that any
    other does as well.
    """
    own = tokenizer.pad_token_id
    return int(own) if own is not None and own < vocabulary else 0


def text_pairs(task: Task, examples: Sequence[Example], scoring: Scoring) -> list[tuple[str, str]]:
    """Prompt and answer of each example."""
    return [(task.prompt(e, scoring), task.target(e, scoring)) for e in examples]


def encode_all(
    task: Task,
    examples: Sequence[Example],
    scoring: Scoring,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
) -> list[Row]:
    return encode_pairs(tokenizer, text_pairs(task, examples, scoring), max_length)


def set_seed(seed: int) -> None:
    """Seed every generator of this process: Python's, numpy's, and torch's on all devices.

    transformers has the same function, in a module that takes PEFT and bitsandbytes to import.
    """
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


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
