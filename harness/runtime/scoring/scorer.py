"""An lm-eval `LM` over a model in memory, adapters active: the same requests and answers as
lm-eval's HFLM. What makes it fast is in harness.runtime.scoring.likelihood.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import nn
from transformers import PreTrainedTokenizerBase

from harness.runtime.models.rotary import forgetting
from harness.runtime.scoring.generation import generated_text
from harness.runtime.scoring.likelihood import Done, Likelihood
from harness.runtime.scoring.passes import Answer
from harness.runtime.scoring.prompts import Cut, Pair, Prompts, UnscorableError
from harness.runtime.scoring.rows import clip

_CHUNK_CHARACTERS = 8_000_000
"""Text that is in memory as tokens at one time."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a scorer is, over all its calls.

    answered: requests, of `known` whose tokens are known so far. tokens: fed to the model, of `of_tokens`
    that the known requests take.
    """

    answered: int = 0
    known: int = 0
    tokens: int = 0
    of_tokens: int = 0


class Scorer(TemplateLM):  # type: ignore[misc]
    """Scores continuations with `model`, which stays as it is (not merged, not cast).

    `batch_tokens` bounds the padded tokens of a forward pass (None: by the free memory); it is halved
    when the GPU runs out of memory. `on_progress` is called after every pass.
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
        on_progress: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.likelihood = Likelihood(
            model, max_length=max_length, batch_tokens=batch_tokens, autocast=autocast
        )
        self.prompts = Prompts(tokenizer, max_length, self.likelihood.vocabulary)
        self._autocast = autocast
        self._on_progress = on_progress
        self._done = Progress()

    @property
    def model(self) -> nn.Module:
        return self.likelihood.model

    @property
    def notes(self) -> tuple[str, ...]:
        """What the model cannot do that makes scoring slower."""
        return self.likelihood.notes

    @property
    def eot_token_id(self) -> int | None:
        return self.tokenizer.eos_token_id  # type: ignore[no-any-return]

    @property
    def prefix_token_id(self) -> int:
        return self.prompts.encoder.prefix_token

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        return self.prompts.encoder.encoded([string], add_special_tokens)[0]

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[Answer]:
        """(summed log-likelihood in nats, greedy?) of each (context, continuation).

        Longest contexts first, a bounded amount of text at a time: memory does not grow with the requests.
        """
        texts: list[tuple[str, str]] = [request.args for request in requests]
        answers: list[Answer | None] = [None] * len(texts)
        with self.likelihood.open():
            for chunk in _chunks(texts):
                pairs = self._pairs([requests[i] for i in chunk])
                found = self.likelihood.score(pairs, self._progress(len(chunk)))
                for i, pair in zip(chunk, pairs, strict=True):
                    answers[i] = found[pair]
        return answers  # type: ignore[return-value]

    def _pairs(self, requests: Sequence[Any]) -> list[Pair]:
        """Raises UnscorableError, naming the request."""
        try:
            return self.prompts.pairs([request.args for request in requests])
        except UnscorableError as error:
            raise error.of(requests[error.index]) from error

    def _progress(self, requests: int) -> Callable[[Done], None]:
        before = self._done

        def show(done: Done) -> None:
            self._done = Progress(
                before.answered + requests * done.rows // done.of_rows, before.known + requests,
                before.tokens + done.tokens, before.of_tokens + done.of_tokens,
            )  # fmt: skip
            self._on_progress(self._done)

        return show

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **kwargs: Any
    ) -> list[Answer]:
        """(summed log-likelihood in nats, greedy?) of each (text, prompt ids, continuation ids)."""
        pairs = [clip(prompt, continuation, self.max_length) for _, prompt, continuation in requests]
        for prompt, continuation in pairs:
            self.prompts.refuse_outside(prompt + continuation)
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
            with torch.inference_mode(), self._autocast(), forgetting(self.model):
                return [self._generated(*request.args) for request in requests]
        finally:
            self.model.train(was_training)

    def _generated(self, prompt: str, settings: dict[str, Any]) -> str:
        ids = self.tok_encode(prompt)
        self.prompts.refuse_outside(ids)

        def cut(tokens: int) -> None:
            self.prompts.cuts[prompt] = Cut(tokens)

        return generated_text(self.model, self.prompts.encoder, ids, settings, self.max_length, cut)


def _chunks(texts: Sequence[tuple[str, str]]) -> Iterator[list[int]]:
    """Indices of `texts`, longest contexts first, a bounded amount at a time; equal contexts stay together."""
    chunk: list[int] = []
    characters = 0
    for i in sorted(range(len(texts)), key=lambda i: (-len(texts[i][0]), texts[i][0])):
        if chunk and characters > _CHUNK_CHARACTERS and texts[i][0] != texts[chunk[-1]][0]:
            yield chunk
            chunk, characters = [], 0
        chunk.append(i)
        characters += sum(map(len, texts[i]))
    if chunk:
        yield chunk
