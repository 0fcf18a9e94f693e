"""Our LM as lm-eval makes it: its arguments, its chat template, and what it says of prompts that do not fit."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import AutoConfig, AutoModelForCausalLM

from harness.errors import UsageError
from harness.runtime.scoring.lm_eval_model import MedtuneLM

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' and strict %}{{ raise_exception('no system') }}"
    "{% endif %}[{{ m.role }}] {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
CHAT = [
    {"role": "system", "content": "You are brief."},
    {"role": "user", "content": "Which organ secretes insulin?"},
]


def made(folder: Path, **more: Any) -> MedtuneLM:
    return MedtuneLM(pretrained=str(folder), dtype="float32", device="cpu", **more)


def requests(pairs: list[tuple[Any, Any]], kind: str = "loglikelihood") -> list[Instance]:
    return [Instance(kind, {}, pair, i) for i, pair in enumerate(pairs)]


@pytest.fixture
def without_sdpa(tmp_path: Path, tokenizer: Any) -> Path:
    config = AutoConfig.for_model("mpt", vocab_size=512, d_model=64, n_layers=1, n_heads=4, max_seq_len=256)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "mpt")
    tokenizer.save_pretrained(tmp_path / "mpt")
    return tmp_path / "mpt"


def test_attention_can_be_chosen(without_sdpa: Path, tiny_model_dir: Path) -> None:
    with pytest.raises(UsageError, match="no sdpa attention") as refused:
        made(without_sdpa)
    assert refused.value.remedy == "Use attention=eager in --model_args."
    ours = made(without_sdpa, attention="eager")
    reference = HFLM(pretrained=str(without_sdpa), dtype="float32", device="cpu", attn_implementation="eager")
    pairs = [("Question: Which organ?\nAnswer:", " Liver"), ("Question: Which organ?\nAnswer:", " B")]
    found, expected = (lm.loglikelihood(requests(pairs), disable_tqdm=True) for lm in (ours, reference))
    assert [a for a, _ in found] == pytest.approx([a for a, _ in expected], abs=1e-4)
    assert made(tiny_model_dir, attention="eager").model.config._attn_implementation == "eager"


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ({"batch_tokenz": 3}, "unknown argument of medtune 'batch_tokenz'; did you mean 'batch_tokens'"),
        ({"trust_remote_code": True}, "unknown argument of medtune 'trust_remote_code'"),
        ({"attention": "flash"}, "attention=flash: Input should be 'sdpa'"),
        ({"max_length": "long"}, "max_length=long"),
        ({"max_length": 2}, "max_length=2"),
        ({"batch_tokens": "many"}, "batch_tokens=many"),
        ({"batch_tokens": 0}, "batch_tokens=0"),
    ],
)
def test_arguments_that_cannot_be_are_one_line(
    argument: dict[str, Any], told: str, tiny_model_dir: Path
) -> None:
    with pytest.raises(UsageError) as refused:
        made(tiny_model_dir, **argument)
    assert told in refused.value.message
    assert "\n" not in refused.value.message


def test_prompts_that_do_not_fit_are_cut_as_hflm_cuts_them_and_counted(
    tiny_model_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ours = made(tiny_model_dir, max_length=40)
    reference = HFLM(pretrained=str(tiny_model_dir), dtype="float32", device="cpu", max_length=40)
    long = "Question: Which organ secretes insulin? " * 9
    pairs = [(f"{long}\nAnswer:", " Liver"), (f"{long}\nAnswer:", " the left kidney"), ("Answer:", " B")]
    with caplog.at_level(logging.WARNING, "lm_eval"):
        found = ours.loglikelihood(requests(pairs), disable_tqdm=True)
        told = [record.getMessage() for record in caplog.records if "medtune" in record.getMessage()]
    expected = reference.loglikelihood(requests(pairs), disable_tqdm=True)
    assert [a for a, _ in found] == pytest.approx([a for a, _ in expected], abs=1e-4)
    assert len(told) == 1
    assert "1 prompts do not fit the context of 40 tokens" in told[0]
    caplog.clear()
    asked = requests(
        [(long, {"until": ["\n"], "max_gen_toks": 8}), ("B", {"until": [], "max_gen_toks": 4})],
        "generate_until",
    )
    with caplog.at_level(logging.WARNING, "lm_eval"):
        texts = ours.generate_until(asked)
    assert texts == reference.generate_until(asked, disable_tqdm=True)
    assert any("1 prompts do not fit" in record.getMessage() for record in caplog.records)
    caplog.clear()
    ours.loglikelihood(requests(pairs[2:]), disable_tqdm=True)
    assert not [record for record in caplog.records if "do not fit" in record.getMessage()]


@pytest.mark.parametrize("strict", [False, True], ids=["", "no system messages"])
def test_a_chat_template_makes_hflms_text(strict: bool, tiny_model_dir: Path, tokenizer: Any) -> None:
    ours = made(tiny_model_dir)
    reference = HFLM(pretrained=str(tiny_model_dir), dtype="float32", device="cpu")
    for lm in (ours, reference):
        lm.tokenizer.chat_template = TEMPLATE.replace("and strict", "" if strict else "and false")
    answered = [*CHAT, {"role": "assistant", "content": "The"}]
    for prompt, chat in ((True, CHAT), (False, answered)):
        assert ours.apply_chat_template(chat, prompt) == reference.apply_chat_template(chat, prompt)
    assert ours.chat_template(True) == reference.chat_template(True)
    assert ours.tokenizer_name == reference.tokenizer_name
    context = ours.apply_chat_template(CHAT)
    assert context.startswith("<s>")
    pairs = [(context, "Pancreas"), (context, "Liver")]
    found, expected = (lm.loglikelihood(requests(pairs), disable_tqdm=True) for lm in (ours, reference))
    assert [a for a, _ in found] == pytest.approx([a for a, _ in expected], abs=1e-4)


def test_a_tokenizer_without_a_chat_template_is_one_line(tiny_model_dir: Path) -> None:
    with pytest.raises(UsageError, match="has no chat template"):
        made(tiny_model_dir).apply_chat_template(CHAT)
