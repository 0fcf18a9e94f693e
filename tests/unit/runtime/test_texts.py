"""Tokenizers that put tokens of their own around a text: an answer stands behind the prompt, never behind
what ends a text; in scoring, training and generation.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import BertProcessing, RobertaProcessing, TemplateProcessing
from transformers import AutoModelForCausalLM, LlamaTokenizer, PreTrainedTokenizerFast

from harness.contracts import Example
from harness.errors import UsageError
from harness.runtime.evaluators.choice import predict
from harness.runtime.scoring.scorer import Scorer
from harness.runtime.tokens.rows import encode
from harness.runtime.tokens.texts import Encoder
from harness.runtime.training.token_cache import TokenCache

PROMPT = "Question: Which organ secretes insulin?\nAnswer:"
Examples = Callable[..., tuple[Example, ...]]


def processed(tokenizer: Any, processor: Any) -> Any:
    other = copy.deepcopy(tokenizer)
    other.backend_tokenizer.post_processor = processor
    return other


def template(single: str) -> TemplateProcessing:
    return TemplateProcessing(single=single, special_tokens=[("<s>", 1), ("</s>", 2)])


AROUND: dict[str, tuple[Any, Any]] = {
    # what the tokenizer adds, and the same without what it puts behind the text
    "eos": (template("$A </s>"), template("$A")),
    "bos and eos": (template("<s> $A </s>"), template("<s> $A")),
    "two behind": (template("<s> $A </s> </s>"), template("<s> $A")),
    "bert": (BertProcessing(("</s>", 2), ("<s>", 1)), template("<s> $A")),
    "roberta": (RobertaProcessing(("</s>", 2), ("<s>", 1), trim_offsets=False, add_prefix_space=False), template("<s> $A")),
    "bos": (template("<s> $A"), template("<s> $A")),
    "nothing": (template("$A"), template("$A")),
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> Any:
    found = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32).eval()
    for weight in found.parameters():
        if weight.ndim > 1:
            weight.data = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)) * 0.15
    return found


@pytest.fixture(params=AROUND)
def both(request: pytest.FixtureRequest, tokenizer: Any) -> tuple[Any, Any]:
    whole, plain = AROUND[request.param]
    return processed(tokenizer, whole), processed(tokenizer, plain)


def requests(pairs: list[tuple[Any, Any]], kind: str = "loglikelihood") -> list[Instance]:
    return [Instance(kind, {}, pair, i) for i, pair in enumerate(pairs)]


PAIRS = [
    (PROMPT, " Pancreas"),
    (PROMPT, " B"),
    (PROMPT, " the left kidney"),
    ("Answer: ", "Liver"),  # the space moves to the answer
    ("", " Liver and Heart"),
    ("<s>Which?", " Liver, yes"),
    ("A text that ends a text</s>", " Liver"),
    ("Abstract: Patients with hyper", "tension were treated"),  # merges across the border
]


def test_answers_are_hflms_without_what_ends_a_text(both: Any, model: Any) -> None:
    tokenizer, plain = both
    ours = Scorer(model, tokenizer, max_length=512, batch_tokens=1024)
    reference = HFLM(pretrained=model, tokenizer=plain, batch_size=3, max_length=512)
    found = ours.loglikelihood(requests(PAIRS), disable_tqdm=True)
    expected = reference.loglikelihood(requests(PAIRS), disable_tqdm=True)
    assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], abs=1e-4)
    assert [greedy for _, greedy in found] == [bool(greedy) for _, greedy in expected]
    assert len({value for value, _ in found[:3]}) == 3


def test_rolling_and_generated_texts_are_hflms_without_what_ends_a_text(both: Any, model: Any) -> None:
    tokenizer, plain = both
    ours = Scorer(model, tokenizer, max_length=512, batch_tokens=1024)
    reference = HFLM(pretrained=model, tokenizer=plain, batch_size=1, max_length=512)
    rolling = requests([(PROMPT,), ("Liver",)], "loglikelihood_rolling")
    assert ours.loglikelihood_rolling(rolling) == pytest.approx(
        reference.loglikelihood_rolling(rolling, disable_tqdm=True), abs=1e-3
    )
    asked = requests([(PROMPT, {"until": ["\n\n"], "max_gen_toks": 8})], "generate_until")
    assert ours.generate_until(asked) == reference.generate_until(asked, disable_tqdm=True)


def test_trained_rows_are_those_without_what_ends_a_text(both: Any, cache: Path) -> None:
    tokenizer, plain = both
    pairs = [(PROMPT, "Pancreas"), (PROMPT, "B"), ("Which?", "the left kidney")]
    expected = [encode(plain, *pair, 200) for pair in pairs]
    assert [encode(tokenizer, *pair, 200) for pair in pairs] == expected
    for _ in range(2):  # made, and read again
        assert TokenCache("sample", pytest.fail).encode_pairs(tokenizer, pairs, 200) == expected
    assert [tokenizer.decode(row.ids[row.answer_start :]) for row in expected] == [f" {a}" for _, a in pairs]


@pytest.mark.parametrize("scoring", ["letter", "cloze"])
def test_choices_do_not_all_score_the_same(
    scoring: Any, both: Any, model: Any, toy: Any, examples: Examples
) -> None:
    scorer = Scorer(model, both[0], max_length=512, batch_tokens=1024)
    found, _ = predict(scorer, toy, examples(6), [], scoring)
    assert all(len(set(prediction.logprobs)) > 1 for prediction in found)
    assert len({prediction.predicted for prediction in found}) > 1


def test_llamas_own_tokenizer_with_an_end_of_text(tmp_path: Path) -> None:
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, "▁": 3, "A": 4, "▁A": 5, "n": 6}
    made = LlamaTokenizer(vocab=vocabulary, merges=[("▁", "A")], add_bos_token=True, add_eos_token=True)
    encoder = Encoder(made)
    assert (encoder.prefix, encoder.suffix) == ((1,), (2,))
    assert encoder.encoded(["nA", "n A"]) == [[1, 3, 6, 4], [1, 3, 6, 5]]


def word_pieces() -> PreTrainedTokenizerFast:
    """As BERT's: no BOS and no end of text by name, but [CLS] and [SEP] around every text."""
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    made.train_from_iterator(
        [PROMPT, "the left kidney", "A B C D"],
        trainers.WordPieceTrainer(vocab_size=200, special_tokens=special),
    )
    made.post_processor = BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def test_word_pieces_are_cut_behind_the_prompt() -> None:
    tokenizer = word_pieces()
    encoder = Encoder(tokenizer)
    assert (encoder.prefix, encoder.suffix) == ((2,), (3,))
    row = encode(tokenizer, PROMPT, "the left kidney", 200)
    assert tokenizer.decode(row.ids[row.answer_start :]) == "the left kidney"
    assert row.ids[0] == 2
    assert 3 not in row.ids
    with pytest.raises(UsageError, match="neither a first nor a last token"):
        _ = encoder.prefix_token
