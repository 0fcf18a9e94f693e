"""Requests as texts into pairs of token ids that fit the model's context.

What does not fit is counted. lm-eval cuts each pair from the left, whatever is lost. Told of the worked
examples that contexts begin with, whole ones are left out instead, the first first, so that those
nearest to the question stay; all continuations of a context then see the same of it.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from harness.errors import UsageError
from harness.runtime.scoring.rows import Ids, clip
from harness.runtime.tokens.texts import Encoder, with_spaces_moved

_TOKENIZED_AT_ONCE = 512

Pair = tuple[Ids, Ids]


@dataclass(frozen=True, slots=True)
class Cut:
    """What a context lost: tokens, and worked examples (whole ones)."""

    tokens: int
    examples: int = 0


class UnscorableError(UsageError):
    """A request that cannot be scored: the `index`-th asked; known by `document` and `choice`, from 0."""

    document: int | None = None
    choice: int = 0
    reason: str = ""

    def __init__(self, message: str, remedy: str, index: int) -> None:
        super().__init__(message, remedy)
        self.index = index

    def of(self, request: Any) -> UnscorableError:
        """The same, said of an lm-eval request."""
        where = f"document {request.doc_id}" + (f" of {request.task_name}" if request.task_name else "")
        found = UnscorableError(f"{where}, choice {request.idx + 1}: {self.message}", self.remedy, self.index)
        found.document, found.choice, found.reason = request.doc_id, request.idx, self.message
        return found


class Prompts:
    """Encodes and cuts requests for a context of `max_length` tokens and `vocabulary` embeddings.

    examples: the worked examples (texts) that every context begins with; None for lm-eval's own way of
    cutting. cuts: contexts that lost something, so far.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int, vocabulary: int) -> None:
        self.encoder = Encoder(tokenizer)
        self.max_length = max_length
        self.vocabulary = vocabulary
        self._may_be_outside = self.encoder.outside(vocabulary)
        self.examples: tuple[str, ...] | None = None
        self.cuts: dict[str, Cut] = {}

    @contextlib.contextmanager
    def beginning_with(self, examples: tuple[str, ...]) -> Iterator[None]:
        """While open, whole worked examples are left out of contexts that do not fit. Counts anew."""
        self.examples, self.cuts = examples, {}
        try:
            yield
        finally:
            self.examples = None

    def pairs(self, texts: Sequence[tuple[str, str]]) -> list[Pair]:
        """Prompt and continuation ids of each, encoded as lm-eval does it for HFLM: together, then split
        behind the context's tokens; spaces at the context's end go to the continuation. Raises
        UnscorableError.
        """
        moved = [with_spaces_moved(context, continuation) for context, continuation in texts]
        contexts = list(dict.fromkeys(context for context, _ in moved if context))
        prompts = dict(zip(contexts, map(tuple, self._encoded(contexts)), strict=True))
        wholes = iter(self._encoded([c + d for c, d in moved if c]))
        alone = iter(self._encoded([d for c, d in moved if not c], special=False))
        pairs: list[Pair] = []
        for index, (context, _) in enumerate(moved):
            if context:
                prompt = prompts[context]
                pair: Pair = prompt, tuple(next(wholes)[len(prompt) :])
            else:
                pair = self._without_context(tuple(next(alone)))
            try:
                if self._may_be_outside:
                    self.refuse_outside(pair[0] + pair[1])
                clip(*pair, self.max_length)
            except UsageError as error:
                raise UnscorableError(error.message, error.remedy, index) from error
            pairs.append(pair)
        return self._fitting([context for context, _ in moved], [own for _, own in moved], pairs)

    def refuse_outside(self, ids: Sequence[int]) -> None:
        """Raises UsageError for a token that the embedding has no line for."""
        if self._may_be_outside:
            self.encoder.refuse_outside(ids, self.vocabulary)

    def _encoded(self, texts: Sequence[str], special: bool | None = None) -> Iterator[list[int]]:
        for start in range(0, len(texts), _TOKENIZED_AT_ONCE):
            yield from self.encoder.encoded(texts[start : start + _TOKENIZED_AT_ONCE], special)

    def _fitting(
        self, contexts: Sequence[str], continuations: Sequence[str], pairs: list[Pair]
    ) -> list[Pair]:
        """`pairs`, with those of contexts that are too long for one of their continuations cut."""
        long: dict[str, list[int]] = {}
        for i, (prompt, continuation) in enumerate(pairs):
            if len(prompt) + len(continuation) > self.max_length + 1:
                long[contexts[i]] = []
        if not long:
            return pairs
        for i, context in enumerate(contexts):
            if context in long:
                long[context].append(i)
        for context, own in long.items():
            if self.examples is None:
                cut, lost = self._from_the_left([pairs[i] for i in own])
            else:
                cut, lost = self._by_whole_examples(
                    context, [continuations[i] for i in own], [pairs[i] for i in own]
                )
            self.cuts[context] = lost
            for i, pair in zip(own, cut, strict=True):
                pairs[i] = pair
        return pairs

    def _from_the_left(self, pairs: list[Pair]) -> tuple[list[Pair], Cut]:
        """As lm-eval's HFLM cuts: each for itself, the first tokens first, BOS too."""
        cut = [clip(*pair, self.max_length) for pair in pairs]
        return cut, Cut(max(len(a[0]) - len(b[0]) for a, b in zip(pairs, cut, strict=True)))

    def _by_whole_examples(
        self, context: str, continuations: list[str], pairs: list[Pair]
    ) -> tuple[list[Pair], Cut]:
        """Without the first worked examples; where the question alone is too long, without its beginning
        but with the tokenizer's own first token.
        """
        assert self.examples is not None
        before, left_out = len(pairs[0][0]), 0
        starts = list(itertools.accumulate(map(len, self.examples), initial=0))
        if context.startswith("".join(self.examples)):
            while self._room(pairs) < 0 and left_out < len(self.examples):
                left_out += self._surely_too_many(pairs, left_out)
                rest = context[starts[left_out] :]
                (prompt,) = self.encoder.encoded([rest])
                wholes = self.encoder.encoded([rest + continuation for continuation in continuations])
                pairs = [(tuple(prompt), tuple(whole[len(prompt) :])) for whole in wholes]
        lost = before - len(pairs[0][0])
        if (excess := -self._room(pairs)) > 0:
            first = min(self.encoder.first(pairs[0][0]), len(pairs[0][0]) - excess - 1)
            pairs = [(own[:first] + own[first + excess :], continuation) for own, continuation in pairs]
            lost += excess
        return pairs, Cut(lost, left_out)

    def _room(self, pairs: list[Pair]) -> int:
        """Tokens that are left over beside the longest of these pairs; the last one is not fed."""
        return self.max_length + 1 - max(len(prompt) + len(continuation) for prompt, continuation in pairs)

    def _surely_too_many(self, pairs: list[Pair], left_out: int) -> int:
        """How many more worked examples must go at least: one, or more by their own tokens, of which an
        example among others has a few less or more.
        """
        assert self.examples is not None
        missing = -self._room(pairs)
        lengths = [len(ids) for ids in self._encoded(self.examples[left_out:], special=False)]
        for count, length in enumerate(lengths, start=1):
            missing -= length + 2
            if missing <= 0:
                return count
        return len(lengths)

    def _without_context(self, ids: Ids) -> Pair:
        """A continuation behind the token that stands for no context, unless it begins with it."""
        prefix_token = (self.encoder.prefix_token,)
        if ids[:1] == prefix_token:
            return ids[:1], ids[1:]
        return prefix_token, ids
