"""Texts into token ids, the same for training, scoring and generation."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from harness.errors import UsageError

Ids = tuple[int, ...]

_PROBE = "a"


class Encoder:
    """A tokenizer whose texts can be gone on with.

    prefix, suffix: ids that the tokenizer puts around a text by itself (Llama's <s>; </s> with
    `add_eos_token`, BERT's [CLS] and [SEP]). The suffix is left out of what is encoded here: behind it
    stands no answer, and a text that goes on does not have it there.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.prefix, self.suffix = _around(tokenizer)

    def encoded(self, texts: Sequence[str], special: bool | None = None) -> list[list[int]]:
        """Token ids of each text; where `special` is None, with the tokenizer's own first tokens unless
        the text begins with its BOS, as lm-eval's HFLM does it.
        """
        bos = self.tokenizer.bos_token
        if special is None and bos and any(text.startswith(bos) for text in texts):
            return [self.encoded([text], not text.startswith(bos))[0] for text in texts]
        options = {} if special is None else {"add_special_tokens": special}
        ids: list[list[int]] = self.tokenizer(list(texts), return_attention_mask=False, **options)[
            "input_ids"
        ]
        if not self.suffix or special is False:
            return ids
        return [own[: -len(self.suffix)] for own in ids]

    def first(self, ids: Sequence[int]) -> int:
        """How many of the text's first ids are the tokenizer's own, which a cut prompt keeps."""
        return len(self.prefix) if tuple(ids[: len(self.prefix)]) == self.prefix else 0

    def outside(self, vocabulary: int) -> bool:
        """Whether the tokenizer knows tokens that an embedding of `vocabulary` lines has none for."""
        return max(self.tokenizer.get_vocab().values(), default=0) >= vocabulary

    def refuse_outside(self, ids: Sequence[int], vocabulary: int) -> None:
        """Raises UsageError, naming it, for a token that an embedding of `vocabulary` has no line for."""
        token = max(ids, default=0)
        if token >= vocabulary:
            name = self.tokenizer.convert_ids_to_tokens(token)
            raise UsageError(
                f"token {token} ({name!r}) of the tokenizer is outside the model's embedding of {vocabulary}",
                "Give the tokenizer that the model was made with, or leave that token out of the texts.",
            )

    @property
    def prefix_token(self) -> int:
        """What stands where there is no context: BOS, else the end of text. Raises UsageError without both."""
        for token in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        raise UsageError(
            "a text without a context cannot be scored: the tokenizer has neither a first nor a last token",
            "Set bos_token in tokenizer_config.json.",
        )


def with_spaces_moved(context: str, continuation: str) -> tuple[str, str]:
    """Spaces at the context's end belong to the continuation's first token (lm-eval's rule)."""
    kept = context.rstrip()
    return kept, context[len(kept) :] + continuation


def _around(tokenizer: PreTrainedTokenizerBase) -> tuple[Ids, Ids]:
    """The ids put before and behind a text. Raises UsageError where they cannot be told from its own."""
    whole = tuple(tokenizer(_PROBE)["input_ids"])
    bare = tuple(tokenizer(_PROBE, add_special_tokens=False)["input_ids"])
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return whole[:start], whole[start + len(bare) :]
    raise UsageError(
        f"{type(tokenizer).__name__} encodes '{_PROBE}' as {list(whole)} and, without special tokens, as "
        f"{list(bare)}: what it adds to a text cannot be told from the text",
        "Mend the post-processor in tokenizer.json.",
    )
