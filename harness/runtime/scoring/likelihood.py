"""Log-likelihoods of continuations by a model in memory: what can be shared, and in which passes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from harness.runtime.models.positions import base_model, vocabulary_size
from harness.runtime.models.prompt_learning import is_prompt_learning, virtual_count
from harness.runtime.models.rotary import rotary_of
from harness.runtime.scoring.cuts import alike
from harness.runtime.scoring.passes import Answers, Passes
from harness.runtime.scoring.rows import Ids, PackedRow, batches, packed_rows, shared_beginnings
from harness.runtime.scoring.shared_keys import Kept, row_limit
from harness.runtime.scoring.side_by_side import passes_at_a_time, side_by_side

_CPU_TOKENS = 2048
"""Larger passes are no faster on two cores with smollm2-135m (200 to 268 GFLOP/s at 400 to 4,000 tokens,
without order) and need more memory.
"""

_CPU_TOKENS_BESIDE = 1024
"""Of each pass where they run side by side: 296 GFLOP/s together, 304 with 2,000 tokens each."""

_GPU_TOKENS = 65_536
"""More makes no product of matrices faster."""

_CPU_LOGITS = 64 * 2**20
_GPU_LOGITS = 2**30
"""Bytes of one pass's logits: with a large vocabulary they are most of what scoring needs."""

# What models raise that do not take the masks, positions or caches given to them.
REFUSALS = (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError)


@dataclass(frozen=True, slots=True)
class Done:
    """How far scoring is: rows of `of_rows`, and of the tokens fed to the model those of these rows."""

    rows: int
    of_rows: int
    tokens: int
    of_tokens: int


class Likelihood:
    """Scores (prompt, continuation) pairs of token ids with `model`, which stays as it is.

    `batch_tokens` bounds the padded tokens of a forward pass (None: by the free memory); it is halved
    when the GPU runs out of memory. branching: whether options share their prompt's row; keeping: whether
    what prompts begin with is computed once. Both are tried out on the model first.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        max_length: int,
        batch_tokens: int | None = None,
        autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    ) -> None:
        self.model = model
        self._passes = Passes(model, autocast)
        self.open = self._passes.open
        self.workers = 1
        self.batch_tokens = batch_tokens or fitting_tokens(model, self._passes.device)
        self.vocabulary = vocabulary_size(model)
        room = _GPU_LOGITS if self._passes.device.type == "cuda" else _CPU_LOGITS
        self._scored = max(1, room // (4 * self.vocabulary))
        self.forward_seconds = 0.0
        self.branching = self.keeping = False
        rotary = rotary_of(model)
        self._kind = rotary.kind if rotary.steady is not None else alike
        self._limit = row_limit(model)
        if self._limit and is_prompt_learning(model):
            self._limit = max(0, self._limit - virtual_count(model))
        if rotary.steady is not None:
            self._limit = rotary.steady if self._limit is None else min(self._limit, rotary.steady)
        if self._limit != 0:
            self._try_out(max_length)
        if self.keeping:  # else a model of its own ways, that may keep something between passes too
            self.workers = passes_at_a_time(model, self._passes.device)
        if self.workers > 1 and batch_tokens is None:
            self.batch_tokens = _CPU_TOKENS_BESIDE
        self.forward_seconds = 0.0  # without the trial

    def score(
        self, pairs: Sequence[tuple[Ids, Ids]], on_done: Callable[[Done], None] = lambda done: None
    ) -> Answers:
        """(summed log-likelihood in nats, greedy?) of each pair; `on_done` is called after every batch.

        Raises torch.OutOfMemoryError where a single row does not fit.
        """
        rows = packed_rows(pairs, branching=self.branching, limit=self._limit, kind=self._kind)
        answers: Answers = {}
        sections = self._sections(rows)
        tokens = sum(row.length for _, members in sections for row in members)
        rows_done = tokens_done = 0
        with self.open():
            for beginning, members in sections:
                kept = None if beginning is None or not members else self._extended(beginning)
                for batch in self._batch_by_batch(members, kept, answers):
                    rows_done += len(batch)
                    tokens_done += sum(row.length for row in batch)
                    on_done(Done(rows_done, len(rows), tokens_done, tokens))
        return answers

    def _sections(self, rows: list[PackedRow]) -> list[tuple[Ids | None, list[PackedRow]]]:
        """The rows by what they stand behind; None where nothing may be kept, not even virtual tokens."""
        if not self.keeping:
            return [(None, rows)]
        alone, groups = shared_beginnings(rows, self._limit)
        far = [row for row in alone if self._limit is not None and row.length > self._limit]
        near = [row for row in alone if self._limit is None or row.length <= self._limit]
        return [(None, far), ((), near), *groups]

    @property
    def notes(self) -> tuple[str, ...]:
        """What could not be shared, and so takes longer than it might."""
        name = type(base_model(self.model)).__name__
        lacking = [
            what
            for what, able in (("a question's prompt", self.branching), ("worked examples", self.keeping))
            if not able
        ]
        return tuple(f"{name} cannot share {what} between answers: each is computed anew" for what in lacking)

    def _try_out(self, max_length: int) -> None:
        """Whether rows score as the same pairs do one by one, on a few made-up ones.

        Models take the mask, the positions and the cache given to them in many ways: ALiBi and recurrent
        ones ignore them without a word, others refuse. What a configuration says does not tell.
        """
        base = base_model(self.model)
        exact = base.dtype == torch.float32
        made_up = [7 * i * i % self.vocabulary for i in range(1, 61)]
        prompt = tuple(made_up[: max(2, min(36, max_length - 3))])
        pairs = [(prompt, tuple(made_up[i : i + 4])) for i in range(36, 60, 4)]
        apart: Answers = {}
        with self.open():
            for _ in self._batch_by_batch(packed_rows(pairs, branching=False), None, apart):
                pass

        def agrees(branching: bool, beginning: Ids) -> bool:
            found: Answers = {}
            rows = [row.without(len(beginning)) for row in packed_rows(pairs, branching=branching)]
            try:
                with self.open():
                    for _ in self._batch_by_batch(rows, self._extended(beginning), found):
                        pass
            except torch.OutOfMemoryError:
                raise
            except REFUSALS:
                return False
            difference = sum(abs(found[pair][0] - apart[pair][0]) for pair in pairs) / (4 * len(pairs))
            # Nats a token. Rounding makes about 1e-6 in float32 and 0.01 to 0.05 in bfloat16.
            return difference < (1e-3 if exact else 0.1)

        self.keeping = agrees(False, prompt[: len(prompt) // 2])
        # Behind virtual tokens a branch is right only where kept keys and values are.
        self.branching = (self.keeping or not is_prompt_learning(self.model)) and agrees(True, ())

    def _extended(self, beginning: Ids) -> Kept | None:
        """Keys and values of `beginning` behind those of the virtual tokens; None where there are neither."""
        kept, done = self._passes.virtual(), 0
        while done < len(beginning):
            piece = beginning[done : done + self.batch_tokens]
            started = time.perf_counter()
            try:
                kept = self._passes.extended(kept, piece)
            except torch.OutOfMemoryError:
                self._halve(len(piece))
                continue
            self.forward_seconds += time.perf_counter() - started
            done += len(piece)
        return kept

    def _halve(self, divisible: int) -> None:
        """Asks for smaller forward passes from now on; for the handler of a torch.OutOfMemoryError, which
        it raises again where what was computed cannot be divided.
        """
        if divisible == 1:
            raise
        torch.cuda.empty_cache()
        self.batch_tokens = max(1, self.batch_tokens // 2)

    def _batch_by_batch(
        self, rows: list[PackedRow], kept: Kept | None, answers: Answers
    ) -> Iterator[list[PackedRow]]:
        """Fills `answers`; yields its rows after every forward pass."""
        waiting = self._batches(rows, kept)
        started = time.perf_counter()
        if self.workers > 1:
            passes = side_by_side(lambda batch: self._passes.answers(batch, kept), waiting, self.workers)
        else:
            passes = self._one_by_one(waiting, kept)
        for batch, found in passes:
            self.forward_seconds += time.perf_counter() - started
            answers |= found
            yield batch
            started = time.perf_counter()

    def _batches(self, rows: list[PackedRow], kept: Kept | None) -> list[list[PackedRow]]:
        return batches(rows, self.batch_tokens, kept.length if kept else 0, self._scored, self._kind)

    def _one_by_one(
        self, waiting: list[list[PackedRow]], kept: Kept | None
    ) -> Iterator[tuple[list[PackedRow], Answers]]:
        while waiting:
            batch = waiting.pop(0)
            try:
                found = self._passes.answers(batch, kept)
            except torch.OutOfMemoryError:
                self._halve(len(batch))
                left = [row for later in (batch, *waiting) for row in later]
                waiting = self._batches(left, kept)
                continue
            yield batch, found


def fitting_tokens(model: nn.Module, device: torch.device) -> int:
    """Tokens of a forward pass without gradients that leave half of the GPU's free memory free, a power of
    two, so that the same machine makes the same batches; on a CPU what stays in its caches.
    """
    if device.type != "cuda":
        return _CPU_TOKENS
    config = base_model(model).config.get_text_config()
    hidden = int(config.hidden_size)
    inner = int(getattr(config, "intermediate_size", None) or 4 * hidden)
    # What one layer holds at a time: input, residual, queries, keys, values, output; the inner layer's four.
    a_token = (10 * hidden + 4 * inner) * base_model(model).dtype.itemsize
    free, _ = torch.cuda.mem_get_info(device)
    tokens = max(1, free // 2 // a_token)
    return int(min(_GPU_TOKENS, 2 ** (tokens.bit_length() - 1)))
