"""One forward pass of a batch of rows: what it is fed, and what is read off its logits.

Legend: B rows, T tokens, N scored positions, V vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from harness.runtime.models.positions import Positions, base_model, chosen_positions, float32_head
from harness.runtime.models.prompt_learning import is_prompt_learning, virtual_count
from harness.runtime.models.rotary import forgetting
from harness.runtime.scoring.rows import Ids, PackedRow, attention_mask
from harness.runtime.scoring.shared_keys import Kept, virtual_tokens

_PARTS = 16
"""Into which a pass's logits are divided to be summed up, which makes a copy of each part."""

Answer = tuple[float, bool]
Answers = dict[tuple[Ids, Ids], Answer]


class Passes:
    """Forward passes of `model`, without gradients; it must be open for them: see `open`."""

    def __init__(
        self, model: nn.Module, autocast: Callable[[], contextlib.AbstractContextManager[Any]]
    ) -> None:
        self.model = model
        self.device = base_model(model).get_input_embeddings().weight.device
        self._autocast = autocast
        self._positions: Positions | None = None
        self._virtual: Kept | None = None

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """No dropout, a float32 output layer at chosen positions; all put back at the end.

        Nested calls change nothing: kept open over much work, the output layer is converted once.
        """
        if self._positions is not None:
            yield
            return
        was_training = self.model.training
        self.model.eval()
        try:
            with (
                forgetting(self.model),
                float32_head(self.model),
                chosen_positions(self.model) as self._positions,
            ):
                yield
        finally:
            self._positions = self._virtual = None
            self.model.train(was_training)

    @torch.inference_mode()  # of each thread for itself
    def virtual(self) -> Kept | None:
        """What the text sees of virtual tokens; None for a model that has none."""
        if self._virtual is None and is_prompt_learning(self.model):
            count = virtual_count(self.model)
            self._choose([(0, count - 1)], count)
            with self._autocast():
                self._virtual = virtual_tokens(self.model)
        return self._virtual

    @torch.inference_mode()
    def extended(self, kept: Kept | None, piece: Ids) -> Kept:
        """Keys and values of `kept` and of `piece` behind it."""
        cache = (kept or Kept(())).growing()
        self._choose([(0, len(piece) - 1)], len(piece))
        self._call([PackedRow(piece)], len(piece), kept, cache)
        return Kept.of(cache)

    @torch.inference_mode()
    def answers(self, batch: list[PackedRow], kept: Kept | None) -> Answers:
        """Those of rows of at most the first one's length, which stand behind `kept`."""
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


def _token_scores(
    logits: torch.Tensor, lines: list[int], targets: list[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability (float64, on the CPU) and greedy match of each target token at its line."""
    line = torch.tensor(lines, device=logits.device)
    target = torch.tensor(targets, device=logits.device)
    parts = logits.chunk(_PARTS)
    normaliser = torch.cat([part.float().logsumexp(dim=-1) for part in parts])  # (N,)
    best = torch.cat([part.argmax(dim=-1) for part in parts])  # (N,)
    logprobs = logits[line, target].float() - normaliser[line]
    greedy = best[line] == target
    return logprobs.double().cpu(), greedy.cpu()
