"""Generated text against lm-eval's own HFLM, greedy, in float32: every stop, tokenizer and end of text."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tiny import SIZE
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from harness.runtime.scoring.scorer import Scorer

TEXT = (
    "Question: Which organ secretes insulin?\nA. Liver\nB. Pancreas\n\nAnswer: the left kidney, no; maybe.",
    "The patient (54) came with chest pain: two hours ago? Yes!\n\n\tStop here.",
)
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
PROMPTS = ("Question: Which organ secretes insulin?\nAnswer:", "The patient", "B. Pancreas\n\n", "Answer: ")
VOCABULARY = 512


def byte_level() -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False))  # fmt: skip
    return made


def metaspace() -> Tokenizer:
    """As sentencepiece's: spaces are part of a word, and the first word has one too."""
    made = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    made.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=SPECIAL, show_progress=False))  # fmt: skip
    made.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return made


def word_pieces() -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="<unk>"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.train_from_iterator(TEXT, trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=SPECIAL, show_progress=False))  # fmt: skip
    return made


TOKENIZERS: dict[str, tuple[Callable[[], Tokenizer], dict[str, str]]] = {
    "bytes": (byte_level, {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}),
    "bytes, no pad": (byte_level, {"eos_token": "</s>"}),
    "bytes, pad is eos": (byte_level, {"eos_token": "</s>", "pad_token": "</s>"}),
    "metaspace": (metaspace, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}),
    "word pieces": (word_pieces, {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}),
    "eos is a word": (byte_level, {"eos_token": "\n", "pad_token": "<pad>"}),
}
ENDS: dict[str, tuple[Any, Any]] = {
    # end of text in config.json and in generation_config.json; the tokenizer's is 2
    "the same": (2, 2),
    "another": (300, 300),
    "none": (None, None),
    "generation config only": (2, 5),
    "several": (2, [2, 9]),
}


@pytest.fixture(scope="module")
def tokenizers() -> Callable[[str], PreTrainedTokenizerFast]:
    def get(name: str) -> PreTrainedTokenizerFast:
        build, special = TOKENIZERS[name]
        return PreTrainedTokenizerFast(tokenizer_object=build(), **special)

    return get


def model_with(end: str) -> Any:
    """Writes its ends of text now and then, and hardly ever the same token twice in a row."""
    own, generation = ENDS[end]
    config = AutoConfig.for_model("llama", **SIZE, bos_token_id=1, eos_token_id=own, pad_token_id=0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).float().eval()
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.data.normal_(0, 0.15)
        model.lm_head.weight.data[2] *= 2.5
        model.lm_head.weight.data[len(TEXT[0]) :] *= 0.2  # rarely what no tokenizer here knows
    model.generation_config.eos_token_id = generation
    return model


def pair(model: Any, tokenizer: Any, batch_size: int = 1) -> tuple[HFLM, Scorer]:
    reference = HFLM(
        pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=batch_size, max_length=80
    )
    return reference, Scorer(model, tokenizer, max_length=80, batch_tokens=1024)


def requests(settings: dict[str, Any], prompts: tuple[str, ...] = PROMPTS) -> list[Instance]:
    return [
        Instance("generate_until", {}, (prompt, copy.deepcopy(settings)), i)
        for i, prompt in enumerate(prompts)
    ]


def untils(whole: list[str], eos: str) -> list[list[str]]:
    """Stops that are met: in the middle of a token, over several, at a space, after the prompt's end."""
    text = max(whole, key=len)
    middle = len(text) // 2
    found = [
        [],
        [eos],
        ["\n", "\n\n"],
        [" "],
        [""],
        [text[middle : middle + 1]],
        [text[middle : middle + 2], "never"],
        [text[middle : middle + 7]],
        [text[1:3], text[2:9]],
        ["never in any text at all"],
        [f"{PROMPTS[0][-1]}{text[:1]}", f"{PROMPTS[1][-2:]}{text[:2]}"],  # begins in the prompt
        [PROMPTS[0][-4:], PROMPTS[1]],  # is in the prompt
        [f" {text[middle : middle + 3]}", f"\t{text[:1]}"],
    ]
    return found if text else [stops for stops in found if all(stops)]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("name", TOKENIZERS)
def test_text_is_hflms_for_every_stop(name: str, end: str, tokenizers: Any) -> None:
    model, tokenizer = model_with(end), tokenizers(name)
    reference, ours = pair(model, tokenizer)
    free = {"until": [], "max_gen_toks": 14, "do_sample": False}
    whole = reference.generate_until(requests(free), disable_tqdm=True)
    assert any(whole)
    cut = 0
    for until in untils(whole, tokenizer.eos_token):
        asked = {"until": until, "max_gen_toks": 14, "do_sample": False}
        expected = reference.generate_until(requests(asked), disable_tqdm=True)
        assert ours.generate_until(requests(asked)) == expected, until
        cut += expected != whole
    assert cut >= 3


@pytest.mark.parametrize("name", ["bytes", "metaspace", "word pieces"])
def test_text_is_hflms_of_padded_batches(name: str, tokenizers: Any) -> None:
    """HFLM pads prompts of different lengths on the left."""
    model, tokenizer = model_with("the same"), tokenizers(name)
    tokenizer.pad_token = "<pad>"
    reference, ours = pair(model, tokenizer, batch_size=4)
    for until in ([], ["\n"], ["."], ["an", "e"]):
        asked = {"until": until, "max_gen_toks": 10}
        assert ours.generate_until(requests(asked)) == reference.generate_until(
            requests(asked), disable_tqdm=True
        )


SETTINGS: list[dict[str, Any]] = [
    {"until": "\n", "max_new_tokens": 5},
    {"until": ["\n"], "max_tokens": 3, "temperature": 0.0},
    {"until": ["."], "max_gen_toks": 6, "do_sample": False, "temperature": 0.7},
    {"until": ["."], "max_length": 40, "max_gen_toks": 20},
    {"max_gen_toks": 4},
    {"until": ["."], "max_gen_toks": 8, "repetition_penalty": 1.3},
    {"until": ["."], "max_gen_toks": 6, "num_beams": 2},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_settings_are_taken_as_hflm_takes_them(settings: dict[str, Any], tokenizers: Any) -> None:
    reference, ours = pair(model_with("another"), tokenizers("bytes"))
    expected = reference.generate_until(requests(settings), disable_tqdm=True)
    assert ours.generate_until(requests(settings)) == expected


def test_the_models_own_limit_on_new_tokens_is_as_in_hflm(tokenizers: Any) -> None:
    model = model_with("none")
    model.generation_config.max_new_tokens = 3
    reference, ours = pair(model, tokenizers("bytes"))
    asked = {"until": ["never"], "max_gen_toks": 12}
    assert ours.generate_until(requests(asked)) == reference.generate_until(
        requests(asked), disable_tqdm=True
    )


def test_where_hflm_raises_there_is_a_text(tokenizers: Any) -> None:
    """A tokenizer without an end of text, and no stops at all; an empty prompt."""
    model, tokenizer = model_with("the same"), tokenizers("bytes")
    expected = pair(model, tokenizer)[1].generate_until(requests({"until": [], "max_gen_toks": 5}))
    tokenizer.eos_token = None
    ours = Scorer(model, tokenizer, max_length=80, batch_tokens=1024)
    assert ours.generate_until(requests({"until": None, "max_gen_toks": 5})) == expected
    assert ours.generate_until(requests({"max_gen_toks": 5}, ("",)))
    with pytest.raises(TypeError):
        HFLM(pretrained=model, tokenizer=tokenizer, max_length=80).generate_until(
            requests({"max_gen_toks": 5})
        )
