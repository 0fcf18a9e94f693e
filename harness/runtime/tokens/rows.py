"""Examples as rows of token ids to train on.

Tokenisation is lm-eval's: prompt and answer are encoded together and split after the prompt's
tokens, so that what is trained is what is scored.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from harness.contracts import Example, Scoring, Task
from harness.errors import UsageError
from harness.runtime.tokens.texts import Encoder, with_spaces_moved

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
