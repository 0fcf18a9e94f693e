"""Log-likelihoods of continuations by a model in memory: rows into batches into forward passes.

Legend: B rows, T tokens, N scored positions, V vocabulary.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from harness.runtime.kept import Kept, is_prompt_learning, row_limit, virtual_tokens
from harness.runtime.positions import Positions, base_model, chosen_positions, float32_head
from harness.runtime.rows import (
    Ids,
    PackedRow,
    attention_mask,
    batches,
    packed_rows,
    shared_beginnings,
)

Answer = tuple[float, bool]
Answers = dict[tuple[Ids, Ids], Answer]

_CPU_TOKENS = 2048
"""Larger passes are no faster on two cores with smollm2-135m (200 to 268 GFLOP/s at 400 to 4,000 tokens,
without order) and need more memory.
"""

_GPU_TOKENS = 65_536
"""More makes no product of matrices faster."""

# What models raise that do not take the masks, positions or caches given to them.
_REFUSALS = (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError)


class Likelihood:
    """Scores (prompt, continuation) pairs of token ids with `model`, which stays as it is.

    `batch_tokens` bounds the padded tokens of a forward pass (None: by the free memory); it is halved
    when the GPU runs out of memory. branching: whether options share their prompt's row; keeping: whether what prompts begin
    with is computed once. Both are tried out on the model first.
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
        self.device = base_model(model).get_input_embeddings().weight.device
        self.batch_tokens = batch_tokens or fitting_tokens(model, self.device)
        self.forward_seconds = 0.0
        self.branching = self.keeping = False
        self._autocast = autocast
        self._positions: Positions | None = None
        self._virtual: Kept | None = None
        self._limit = row_limit(model)
        if self._limit and is_prompt_learning(model):
            self._limit = max(0, self._limit - _virtual_count(model))
        if self._limit != 0:
            self._try_out(max_length)
        self.forward_seconds = 0.0  # without the trial

    def score(
        self, pairs: Sequence[tuple[Ids, Ids]], on_done: Callable[[int, int], None] = lambda done, of: None
    ) -> Answers:
        """(summed log-likelihood in nats, greedy?) of each pair; `on_done(rows, of)` after every batch.

        Raises torch.OutOfMemoryError where a single row does not fit.
        """
        rows = packed_rows(pairs, branching=self.branching, limit=self._limit)
        answers: Answers = {}
        done = 0
        with self.open():
            for kept, members in self._sections(rows):
                for finished in self._batch_by_batch(members, kept, answers):
                    done += finished
                    on_done(done, len(rows))
        return answers

    def _sections(self, rows: list[PackedRow]) -> Iterator[tuple[Kept | None, list[PackedRow]]]:
        """The rows by what they stand behind."""
        if not self.keeping:
            yield None, rows
            return
        alone, groups = shared_beginnings(rows, self._limit)
        far = [row for row in alone if self._limit is not None and row.length > self._limit]
        yield None, far
        yield self._virtual, [row for row in alone if self._limit is None or row.length <= self._limit]
        for beginning, members in groups:
            yield self._extended(beginning), members

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

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """No gradients, no dropout, a float32 output layer at chosen positions; all put back at the end.

        Kept open over many calls of `score`, the output layer is converted once.
        """
        if self._positions is not None:
            yield
            return
        was_training = self.model.training
        self.model.eval()
        try:
            with (
                torch.inference_mode(),
                float32_head(self.model),
                chosen_positions(self.model) as self._positions,
            ):
                if is_prompt_learning(self.model) and (self.branching or self.keeping):
                    self._virtual = self._virtual_tokens()
                yield
        finally:
            self._positions = self._virtual = None
            self.model.train(was_training)

    def _try_out(self, max_length: int) -> None:
        """Whether rows score as the same pairs do one by one, on a few made-up ones.

        Models take the mask, the positions and the cache given to them in many ways: ALiBi and recurrent
        ones ignore them without a word, others refuse. What a configuration says does not tell.
        """
        base = base_model(self.model)
        vocabulary, exact = len(base.get_input_embeddings().weight), base.dtype == torch.float32
        made_up = [7 * i * i % vocabulary for i in range(1, 61)]
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
                    if is_prompt_learning(self.model):
                        self._virtual = self._virtual_tokens()
                    for _ in self._batch_by_batch(rows, self._extended(beginning), found):
                        pass
            except torch.OutOfMemoryError:
                raise
            except _REFUSALS:
                return False
            difference = sum(abs(found[pair][0] - apart[pair][0]) for pair in pairs) / (4 * len(pairs))
            # Nats a token. Rounding makes about 1e-6 in float32 and 0.01 to 0.05 in bfloat16.
            return difference < (1e-3 if exact else 0.1)

        self.keeping = agrees(False, prompt[: len(prompt) // 2])
        # Behind virtual tokens a branch is right only where kept keys and values are.
        self.branching = (self.keeping or not is_prompt_learning(self.model)) and agrees(True, ())

    def _virtual_tokens(self) -> Kept:
        count = _virtual_count(self.model)
        self._choose([(0, count - 1)], count)
        with self._autocast():
            return virtual_tokens(self.model)

    def _extended(self, beginning: Ids) -> Kept | None:
        """Keys and values of `beginning` behind those of the virtual tokens; None where there are neither."""
        kept, done = self._virtual, 0
        while done < len(beginning):
            piece = beginning[done : done + self.batch_tokens]
            cache = (kept or Kept(())).growing()
            started = time.perf_counter()
            try:
                self._choose([(0, len(piece) - 1)], len(piece))
                self._call([PackedRow(piece)], len(piece), kept, cache)
            except torch.OutOfMemoryError:
                self._halve(len(piece))
                continue
            self.forward_seconds += time.perf_counter() - started
            kept, done = Kept.of(cache), done + len(piece)
        return kept

    def _halve(self, divisible: int) -> None:
        """Asks for smaller forward passes from now on; for the handler of a torch.OutOfMemoryError, which
        it raises again where what was computed cannot be divided.
        """
        if divisible == 1:
            raise
        torch.cuda.empty_cache()
        self.batch_tokens = max(1, self.batch_tokens // 2)

    def _batch_by_batch(self, rows: list[PackedRow], kept: Kept | None, answers: Answers) -> Iterator[int]:
        """Fills `answers`; yields the number of rows after every forward pass."""
        before = kept.length if kept else 0
        waiting = batches(rows, self.batch_tokens, before)
        while waiting:
            batch = waiting.pop(0)
            started = time.perf_counter()
            try:
                answers |= self._forward(batch, kept)
            except torch.OutOfMemoryError:
                self._halve(len(batch))
                left = [row for later in (batch, *waiting) for row in later]
                waiting = batches(left, self.batch_tokens, before)
                continue
            self.forward_seconds += time.perf_counter() - started
            yield len(batch)

    def _forward(self, batch: list[PackedRow], kept: Kept | None) -> Answers:
        width = batch[0].length
        scored = [(i, row, branch) for i, row in enumerate(batch) for branch in row.branches]
        columns = [row.columns(branch) for _, row, branch in scored]
        # Options of one prompt share its last position: one line of logits serves them all.
        places = {
            place: n
            for n, place in enumerate(
                dict.fromkeys((i, c) for (i, _, _), own in zip(scored, columns, strict=True) for c in own)
            )
        }
        self._choose(list(places), width)
        logits = self._call(batch, width, kept, kept.cache(len(batch)) if kept else None)  # (N, V)
        lines = [places[i, c] for (i, _, _), own in zip(scored, columns, strict=True) for c in own]
        targets = [token for _, _, branch in scored for token in branch.continuation]
        logprobs, greedy = _token_scores(logits, lines, targets)
        answers: Answers = {}
        at = 0
        for _, row, branch in scored:
            end = at + len(branch.continuation)
            answers[row.prompt, branch.continuation] = (
                float(logprobs[at:end].sum()),
                bool(greedy[at:end].all()),
            )
            at = end
        return answers

    def _choose(self, places: list[tuple[int, int]], width: int) -> None:
        assert self._positions is not None
        chosen = torch.tensor(places, device=self.device)  # (N, 2)
        self._positions.choose(chosen[:, 0], chosen[:, 1], width)

    def _call(self, batch: list[PackedRow], width: int, kept: Kept | None, cache: Any) -> torch.Tensor:
        """Logits (N, V) at the chosen positions of `batch`, which stands behind `kept`."""
        before = kept.length if kept else 0
        ids = torch.zeros(len(batch), width, dtype=torch.long)
        for i, row in enumerate(batch):
            ids[i, : row.length] = torch.tensor(row.ids())
        inputs: dict[str, Any] = {"input_ids": ids.to(self.device), "use_cache": cache is not None}
        mask = attention_mask(batch, width, before, base_model(self.model).dtype)
        if mask is not None:  # else right-padded and causal: neither mask nor positions are needed
            positions = torch.zeros(len(batch), width, dtype=torch.long)
            for i, row in enumerate(batch):
                positions[i, : row.length] = torch.tensor(row.positions()) + before
            mask = mask.expand(len(batch), -1, -1, -1)
            inputs |= {"attention_mask": mask.to(self.device), "position_ids": positions.to(self.device)}
        # Virtual tokens are in `kept` already: PEFT's own forward would put them in once more.
        model: Any = self.model
        if cache is not None:
            inputs["past_key_values"] = cache
            model = base_model(model) if is_prompt_learning(model) else model
        with self._autocast():
            logits: torch.Tensor = model(**inputs).logits
        return logits


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


def _virtual_count(model: Any) -> int:
    return int(model.active_peft_config.num_virtual_tokens)


def _token_scores(
    logits: torch.Tensor, lines: list[int], targets: list[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability (float64, on the CPU) and greedy match of each target token at its line."""
    line = torch.tensor(lines, device=logits.device)
    target = torch.tensor(targets, device=logits.device)
    logits = logits.float()
    normaliser = logits.logsumexp(dim=-1)  # (N,)
    logprobs = logits[line, target] - normaliser[line]
    greedy = logits.argmax(dim=-1)[line] == target
    return logprobs.double().cpu(), greedy.cpu()
