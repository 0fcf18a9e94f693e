"""An lm-eval `LM` over a model in memory, adapters active: the same requests and answers as
lm-eval's HFLM. What makes it fast is in harness.runtime.likelihood.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import nn
from transformers import PreTrainedTokenizerBase

from harness.runtime.generation import generated_text
from harness.runtime.likelihood import Likelihood
from harness.runtime.passes import Answer
from harness.runtime.rows import Ids, clip

_CHUNK_CHARACTERS = 8_000_000
"""Text that is in memory as tokens at one time."""

_TOKENIZED_AT_ONCE = 512


class Scorer(TemplateLM):  # type: ignore[misc]
    """Scores continuations with `model`, which stays as it is (not merged, not cast).

    `batch_tokens` bounds the padded tokens of a forward pass (None: by the free memory); it is halved
    when the GPU runs out of memory. `on_progress(answered)`: the requests answered so far, over all calls.
    """

    backend = "causal"

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int,
        batch_tokens: int | None = None,
        autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
        on_progress: Callable[[int], None] = lambda answered: None,
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.likelihood = Likelihood(
            model, max_length=max_length, batch_tokens=batch_tokens, autocast=autocast
        )
        self._autocast = autocast
        self._on_progress = on_progress
        self._answered = 0

    @property
    def model(self) -> nn.Module:
        return self.likelihood.model

    @property
    def notes(self) -> tuple[str, ...]:
        """What the model cannot do that makes scoring slower."""
        return self.likelihood.notes

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        bos = self.tokenizer.bos_token_id
        return int(bos if bos is not None else self.eot_token_id)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        return self._encoded([string], add_special_tokens)[0]

    def _encoded(self, texts: Sequence[str], special: bool | None = None) -> list[list[int]]:
        """Token ids of each text; where `special` is None, with the tokenizer's own first token unless
        the text begins with it.
        """
        bos = self.tokenizer.bos_token
        if special is None and bos and any(text.startswith(bos) for text in texts):
            return [self.tokenizer.encode(t, add_special_tokens=not t.startswith(bos)) for t in texts]
        options = {} if special is None else {"add_special_tokens": special}
        ids: list[list[int]] = self.tokenizer(list(texts), return_attention_mask=False, **options)[
            "input_ids"
        ]
        return ids

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[Answer]:
        """(summed log-likelihood in nats, greedy?) of each (context, continuation).

        Longest contexts first, a bounded amount of text at a time: memory does not grow with the requests.
        """
        texts: list[tuple[str, str]] = [request.args for request in requests]
        answers: list[Answer | None] = [None] * len(texts)
        with self.likelihood.open():
            for chunk in _chunks(texts):
                pairs = self._pairs([texts[i] for i in chunk])
                found = self.likelihood.score(pairs, self._progress(len(chunk)))
                self._answered += len(chunk)
                for i, pair in zip(chunk, pairs, strict=True):
                    answers[i] = found[pair]
        return answers  # type: ignore[return-value]

    def _progress(self, requests: int) -> Callable[[int, int], None]:
        before = self._answered
        return lambda done, of: self._on_progress(before + requests * done // of)

    def _pairs(self, texts: Sequence[tuple[str, str]]) -> list[tuple[Ids, Ids]]:
        """Prompt and continuation ids of each, encoded and cut as lm-eval does it for HFLM: together,
        then split behind the context's tokens; spaces at the context's end go to the continuation.
        """
        moved = [_with_spaces_moved(context, continuation) for context, continuation in texts]
        contexts = list(dict.fromkeys(context for context, _ in moved if context))
        ids = dict(zip(contexts, self._encoded_in_parts(contexts), strict=True))
        alone = [continuation for context, continuation in moved if not context]
        wholes = iter(self._encoded_in_parts([c + d for c, d in moved if c]))
        without_context = iter(self._encoded_in_parts(alone, special=False))
        prompts = {context: tuple(own) for context, own in ids.items()}
        pairs: list[tuple[Ids, Ids]] = []
        for context, _ in moved:
            if context:
                pair: tuple[Sequence[int], Sequence[int]] = (
                    prompts[context], next(wholes)[len(prompts[context]) :]
                )  # fmt: skip
            else:
                pair = self._without_context(next(without_context))
            pairs.append(clip(*pair, self.max_length))
        return pairs

    def _without_context(self, ids: list[int]) -> tuple[list[int], list[int]]:
        """A continuation behind the token that stands for no context, unless it begins with it."""
        if ids and ids[0] == self.prefix_token_id:
            return ids[:1], ids[1:]
        return [self.prefix_token_id], ids

    def _encoded_in_parts(self, texts: Sequence[str], special: bool | None = None) -> Iterator[list[int]]:
        for start in range(0, len(texts), _TOKENIZED_AT_ONCE):
            yield from self._encoded(texts[start : start + _TOKENIZED_AT_ONCE], special)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **kwargs: Any
    ) -> list[Answer]:
        """(summed log-likelihood in nats, greedy?) of each (text, prompt ids, continuation ids)."""
        pairs = [clip(prompt, continuation, self.max_length) for _, prompt, continuation in requests]
        answers = self.likelihood.score(pairs)
        return [answers[pair] for pair in pairs]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts, in windows of the context's length (lm-eval's rule)."""
        totals = []
        for (text,) in (request.args for request in requests):
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            pairs = [(None, *make_disjoint_window(window)) for window in windows]
            totals.append(sum(logprob for logprob, _ in self._loglikelihood_tokens(pairs)))
        return totals

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Greedy or sampled text of each (prompt, settings), cut before the first stop string."""
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.inference_mode(), self._autocast():
                return [
                    generated_text(
                        self.model, self.tokenizer, self.tok_encode(prompt), settings, self.max_length
                    )
                    for prompt, settings in (request.args for request in requests)
                ]
        finally:
            self.model.train(was_training)


def _chunks(texts: Sequence[tuple[str, str]]) -> Iterator[list[int]]:
    """Indices of `texts`, longest contexts first and equal ones together, a bounded amount at a time."""
    chunk: list[int] = []
    characters = 0
    for i in sorted(range(len(texts)), key=lambda i: (-len(texts[i][0]), texts[i][0])):
        if chunk and characters > _CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
        chunk.append(i)
        characters += sum(map(len, texts[i]))
    if chunk:
        yield chunk


def _with_spaces_moved(context: str, continuation: str) -> tuple[str, str]:
    kept = context.rstrip()
    return kept, context[len(kept) :] + continuation
