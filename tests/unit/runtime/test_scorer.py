"""Scorer against lm-eval's own HFLM, in float32: the same requests must have the same answers."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from peft import (
    AdaptionPromptConfig,
    LoraConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    get_peft_model,
)
from tiny import SIZE
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

from harness.contracts import Example
from harness.errors import DataError, UsageError
from harness.runtime.evaluators.choice import predict, worked_examples
from harness.runtime.scoring import scorer as scorer_module
from harness.runtime.scoring.rows import batches, packed_rows
from harness.runtime.scoring.scorer import Progress, Scorer

GPT2 = {"vocab_size": 512, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512}
KINDS: dict[str, tuple[str, dict[str, Any], bool]] = {
    # name: (architecture, configuration, whether options may share their prompt's row)
    "llama": ("llama", SIZE, True),
    "gpt2": ("gpt2", GPT2, True),
    "gemma": ("gemma", {**SIZE, "head_dim": 16}, True),
    "qwen2": ("qwen2", SIZE, True),
    "mistral": ("mistral", {**SIZE, "sliding_window": None}, True),
    # a window shorter than the prompts: distance must count along the text, not along the row
    "mistral-window": ("mistral", {**SIZE, "sliding_window": 16}, False),
    "gpt-neo-window": (
        "gpt_neo",
        {
            "vocab_size": 512,
            "hidden_size": 64,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 16,
        },
        False,
    ),
    # positions by ALiBi: from the mask's shape (crashes on ours) and from the row (silently wrong)
    "bloom": ("bloom", {"vocab_size": 512, "hidden_size": 64, "n_layer": 2, "n_head": 4}, False),
    "mpt": ("mpt", {"vocab_size": 512, "d_model": 64, "n_layers": 2, "n_heads": 4}, False),
    "mamba": (
        "mamba",
        {"vocab_size": 512, "hidden_size": 64, "num_hidden_layers": 2, "state_size": 8},
        False,
    ),
}
COMMON = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def build(kind: str) -> Any:
    """A model with weights large enough that answers differ."""
    architecture, settings, _ = KINDS[kind]
    config = AutoConfig.for_model(architecture, **settings, **COMMON)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).float().eval()
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.data.normal_(0, 0.15)
    return model


@pytest.fixture(scope="module")
def models() -> Callable[[str], Any]:
    made: dict[str, Any] = {}

    def get(kind: str) -> Any:
        if kind not in made:
            made[kind] = build(kind)
        return made[kind]

    return get


def adapter(model: Any, config: Any) -> Any:
    """A copy of `model` with an adapter whose weights do something."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        adapted = get_peft_model(copy.deepcopy(model), config)
        for weight in adapted.parameters():
            if weight.requires_grad:
                weight.data.normal_(0, 0.2)
    return adapted.eval()


def ours(model: Any, tokenizer: Any, max_length: int = 512, batch_tokens: int = 1024, **more: Any) -> Scorer:
    return Scorer(model, tokenizer, max_length=max_length, batch_tokens=batch_tokens, **more)


def theirs(model: Any, tokenizer: Any, max_length: int = 512) -> HFLM:
    return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=3, max_length=max_length)


def requests(pairs: Sequence[tuple[Any, Any]], kind: str = "loglikelihood") -> list[Instance]:
    return [Instance(kind, {}, pair, i) for i, pair in enumerate(pairs)]


def assert_same(found: Sequence[tuple[float, bool]], expected: Sequence[tuple[float, bool]]) -> None:
    assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], abs=1e-3)
    assert [greedy for _, greedy in found] == [bool(greedy) for _, greedy in expected]


LONG = "Question: A 54-year-old woman comes to the physician because of chest pain, that began two hours ago."
PAIRS = [
    (f"{LONG}\nAnswer:", " the left kidney and more of it"),
    (f"{LONG}\nAnswer:", " Pancreas"),
    (f"{LONG}\nAnswer:", " Pancreas"),  # the same option twice
    (f"{LONG}\nAnswer:", " Pancreas and Liver"),  # begins as another option does
    (f"{LONG}\nAnswer:", " B"),  # one token
    (f"{LONG}\nAnswer:", " C"),
    ("Answer:", " Pancreas of it"),
    ("Answer: ", "Liver, no"),  # the space moves to the answer
    ("", " Liver and Heart"),  # no context
    ("", "<s> Liver"),  # begins with the very token that stands for no context
    ("<s>Which?", " Liver, yes"),  # the tokenizer's own first token is in the text
    ("Abstract: Patients with hyper", "tension were treated"),  # merges across the border
    ("Question: Which vit", "amin deficiency causes scurvy, no, maybe"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_hflms(kind: str, models: Any, tokenizer: Any) -> None:
    model = models(kind)
    scorer = ours(model, tokenizer)
    assert scorer.likelihood.branching == KINDS[kind][2]
    assert any("a question's prompt" in note for note in scorer.notes) != KINDS[kind][2]
    expected = theirs(model, tokenizer).loglikelihood(requests(PAIRS), disable_tqdm=True)
    assert_same(scorer.loglikelihood(requests(PAIRS), disable_tqdm=True), expected)


@pytest.mark.parametrize("window", [64, 100])
@pytest.mark.parametrize("virtual", [0, 8])
def test_rows_longer_than_a_window_are_not_shared(window: int, virtual: int, tokenizer: Any) -> None:
    """Some of these fit in the window and some do not; distance counts along the text, not along the row."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = AutoConfig.for_model("mistral", **{**SIZE, "sliding_window": window}, **COMMON)
        model = AutoModelForCausalLM.from_config(config).float().eval()
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.data.normal_(0, 0.15)
    if virtual:
        model = adapter(model, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=virtual))
    scorer = ours(model, tokenizer)
    assert scorer.likelihood.branching
    shots = few_shot(4) + few_shot(4, LONG * 4)
    lengths = [len(tokenizer.encode(context)) for context, _ in (*PAIRS, *shots)]
    assert min(lengths) < window < max(lengths)
    pairs = [*PAIRS, *shots]
    expected = theirs(model, tokenizer).loglikelihood(requests(pairs), disable_tqdm=True)
    assert_same(scorer.loglikelihood(requests(pairs), disable_tqdm=True), expected)


def few_shot(questions: int, shots: str = LONG * 3) -> list[tuple[str, str]]:
    """Options of several questions behind the same worked examples."""
    return [
        (f"{shots}\nAnswer: Liver\n\nQuestion: {'Why? ' * n}Which?\nAnswer:", f" {option}")
        for n in range(questions)
        for option in ("Pancreas", "the left kidney", "B")
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("budget", [1, 90, 1024])
def test_worked_examples_are_scored_as_hflm_does(kind: str, budget: int, models: Any, tokenizer: Any) -> None:
    """Two sets of them, beside questions without; computed once where the model can."""
    model = models(kind)
    pairs = few_shot(5) + PAIRS + few_shot(4, f"The following are. {LONG * 3}")
    scorer = ours(model, tokenizer, batch_tokens=budget)
    fed: list[int] = []
    hook = model.register_forward_pre_hook(
        lambda module, args, kwargs: fed.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    found = scorer.loglikelihood(requests(pairs), disable_tqdm=True)
    hook.remove()
    assert_same(found, theirs(model, tokenizer).loglikelihood(requests(pairs), disable_tqdm=True))
    if budget == 1:  # no padding: what is fed can be counted
        prompts = {context: len(tokenizer.encode(context)) for context, _ in pairs}
        assert (sum(fed) < 0.7 * sum(prompts.values())) == scorer.likelihood.keeping
        assert scorer.likelihood.keeping or not KINDS[kind][2]


def test_greedy_is_not_always_false(models: Any, tokenizer: Any) -> None:
    """The comparisons above would not tell else."""
    model = models("llama")
    ids = tokenizer.encode(LONG)
    for _ in range(2):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    prompt, both = ids[:-2], ids[-2:]
    scorer = ours(model, tokenizer)
    other = [both[0], (both[1] + 1) % 512]
    found = scorer._loglikelihood_tokens(
        [(None, prompt, both), (None, prompt, other), (None, prompt, both[:1])]
    )
    assert [greedy for _, greedy in found] == [True, False, True]


@pytest.fixture
def with_bos(tokenizer: Any) -> Any:
    """A tokenizer that puts <s> in front by itself, as Llama's does."""
    other = copy.deepcopy(tokenizer)
    other.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", other.bos_token_id)]
    )
    return other


def test_a_first_token_is_put_where_hflm_puts_it(models: Any, with_bos: Any) -> None:
    model = models("llama")
    scorer, reference = ours(model, with_bos), theirs(model, with_bos)
    for text in ("Which?", "<s>Which?"):
        assert scorer.tok_encode(text) == reference.tok_encode(text)
    expected = reference.loglikelihood(requests(PAIRS), disable_tqdm=True)
    assert_same(scorer.loglikelihood(requests(PAIRS), disable_tqdm=True), expected)


@pytest.mark.parametrize("max_length", [20, 30])
def test_a_prompt_longer_than_the_context_is_cut_as_hflm_cuts_it(
    max_length: int, models: Any, tokenizer: Any
) -> None:
    for kind in ("llama", "gpt2"):
        model = models(kind)
        expected = theirs(model, tokenizer, max_length).loglikelihood(requests(PAIRS), disable_tqdm=True)
        scorer = ours(model, tokenizer, max_length)
        assert_same(scorer.loglikelihood(requests(PAIRS), disable_tqdm=True), expected)


@pytest.mark.parametrize("scoring", ["letter", "cloze"])
@pytest.mark.parametrize("shots", [0, 2])
@pytest.mark.parametrize("kind", ["llama", "mistral-window"])
def test_predictions_are_hflms(
    kind: str, shots: int, scoring: Any, models: Any, tokenizer: Any, toy: Any, examples: Any
) -> None:
    same = Example("twice", "Which one?", ("Liver", "Liver", "Heart", "Left atrium of the heart"), 1, "s0")
    train, test = examples(30), (*examples(8, 40), same)
    chosen = worked_examples(train, shots, 0)
    model = models(kind)
    found, _ = predict(ours(model, tokenizer), toy, test, chosen, scoring)
    expected, _ = predict(theirs(model, tokenizer), toy, test, chosen, scoring)
    assert [p.example_id for p in found] == [e.id for e in test]
    for own, other in zip(found, expected, strict=True):
        assert own.logprobs == pytest.approx(other.logprobs, abs=1e-3)
        assert (own.predicted, own.predicted_norm) == (other.predicted, other.predicted_norm)
    if scoring == "cloze":
        assert found[-1].logprobs[0] == found[-1].logprobs[1]
        assert found[-1].predicted == 1  # the first of equals has the right one's text
    assert len({p.predicted for p in found}) > 1


ADAPTERS = {
    "lora": LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear"),
    "prefix": PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5),
    "prompt": PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5),
    "adaption-prompt": AdaptionPromptConfig(task_type="CAUSAL_LM", adapter_len=4, adapter_layers=2),
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters_are_active_and_scored_as_hflm_does(name: str, models: Any, tokenizer: Any) -> None:
    model = adapter(models("llama"), copy.deepcopy(ADAPTERS[name]))
    scorer = ours(model, tokenizer)
    if name != "adaption-prompt":
        assert scorer.likelihood.branching
        assert scorer.likelihood.keeping
    pairs = [*PAIRS, *few_shot(4)]
    found = scorer.loglikelihood(requests(pairs), disable_tqdm=True)
    assert_same(found, theirs(model, tokenizer).loglikelihood(requests(pairs), disable_tqdm=True))
    base = ours(models("llama"), tokenizer).loglikelihood(requests(pairs), disable_tqdm=True)
    assert max(abs(own[0] - plain[0]) for own, plain in zip(found, base, strict=True)) > 0.1


def test_a_four_bit_model_is_scored_as_hflm_does(tiny_model_dir: Path, tokenizer: Any) -> None:
    pytest.importorskip("bitsandbytes")
    model = AutoModelForCausalLM.from_pretrained(
        tiny_model_dir,
        dtype=torch.float32,
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
        ),
    ).eval()
    found = ours(model, tokenizer).loglikelihood(requests(PAIRS), disable_tqdm=True)
    assert_same(found, theirs(model, tokenizer).loglikelihood(requests(PAIRS), disable_tqdm=True))


@pytest.mark.parametrize("kind", KINDS)
def test_the_batch_size_changes_no_answer(kind: str, models: Any, tokenizer: Any) -> None:
    model, expected, asked = models(kind), None, requests([*PAIRS, *few_shot(3)])
    for tokens in (1, 64, 300, 100_000):
        found = ours(model, tokenizer, batch_tokens=tokens).loglikelihood(asked, disable_tqdm=True)
        expected = expected or found
        assert_same(found, expected)


@pytest.mark.parametrize("scored", [None, 1, 7])
@pytest.mark.parametrize("budget", [1, 50, 200, 10_000])
def test_batches_keep_to_the_budget_and_lose_nothing(budget: int, scored: int | None, tokenizer: Any) -> None:
    pairs = [
        (tuple(tokenizer.encode(prompt)) or (1,), tuple(tokenizer.encode(answer))) for prompt, answer in PAIRS
    ]
    rows = packed_rows(pairs, branching=True)
    made = batches(rows, budget, scored=scored)
    assert sorted(id(row) for batch in made for row in batch) == sorted(id(row) for row in rows)
    for batch in made:
        assert len(batch) == 1 or max(row.length for row in batch) * len(batch) <= budget
        positions = sum(len({c for b in row.branches for c in row.columns(b)}) for row in batch)
        assert scored is None or len(batch) == 1 or positions <= scored
    assert {(r.prompt, b.continuation) for r in rows for b in r.branches} == set(pairs)


def test_a_prompt_is_computed_once_for_its_options(models: Any, tokenizer: Any) -> None:
    prompt = tuple(tokenizer.encode(LONG))
    rows = packed_rows([(prompt, (5, 6, 7)), (prompt, (8,)), (prompt, (9, 10))], branching=True)
    assert [row.length for row in rows] == [len(prompt) + 2 + 0 + 1]
    assert len(packed_rows([(prompt, (5,)), (prompt, (6,)), (prompt, (5,))], branching=False)) == 1
    assert len(packed_rows([(prompt, (5, 6)), (prompt, (7, 8))], branching=False)) == 2


def test_out_of_memory_makes_the_batch_smaller(models: Any, tokenizer: Any) -> None:
    model = copy.deepcopy(models("llama"))
    expected = ours(model, tokenizer).loglikelihood(requests(PAIRS), disable_tqdm=True)
    forward, shapes = model.forward, []

    def small(*args: Any, **kwargs: Any) -> Any:
        shapes.append(tuple(kwargs["input_ids"].shape))
        if kwargs["input_ids"].shape[0] > 2:
            raise torch.OutOfMemoryError("made up")
        return forward(*args, **kwargs)

    model.forward = small
    progress: list[Progress] = []
    scorer = ours(model, tokenizer, on_progress=progress.append)
    scorer.likelihood.workers = 1  # as on a GPU
    for _ in range(2):
        assert_same(scorer.loglikelihood(requests(PAIRS), disable_tqdm=True), expected)
    assert any(rows > 2 for rows, _ in shapes)
    assert [done.answered for done in progress] == sorted(done.answered for done in progress)
    last = progress[-1]
    assert last.answered == last.known == 2 * len(PAIRS)
    assert last.tokens == last.of_tokens > 0


def test_out_of_memory_on_one_row_is_told(models: Any, tokenizer: Any) -> None:
    model = copy.deepcopy(models("llama"))
    scorer = ours(model, tokenizer)
    scorer.likelihood.workers = 1  # as on a GPU

    def none(*args: Any, **kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("made up")

    model.forward = none
    with pytest.raises(torch.OutOfMemoryError):
        scorer.loglikelihood(requests(PAIRS[:2]), disable_tqdm=True)


def test_the_model_is_left_as_it_was(models: Any, tokenizer: Any) -> None:
    """Its mode, its output layer and its logits at every position; also after an error."""
    model = copy.deepcopy(models("llama")).bfloat16().train()
    head, ids = model.get_output_embeddings(), torch.tensor([[5, 6, 7]])
    scorer = ours(model, tokenizer)
    scorer.loglikelihood(requests(PAIRS), disable_tqdm=True)
    model.forward, forward = lambda **_: 1 / 0, model.forward
    with contextlib.suppress(ZeroDivisionError):
        scorer.loglikelihood(requests(PAIRS), disable_tqdm=True)
    model.forward = forward
    assert model.training
    assert model.get_output_embeddings() is head
    assert head.weight.dtype == torch.bfloat16
    assert model(ids).logits.shape == (1, 3, 512)


def test_dropout_is_off_while_scoring_and_generating(models: Any, tokenizer: Any) -> None:
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", lora_dropout=0.9)
    model = adapter(models("llama"), config)
    expected = ours(model, tokenizer).loglikelihood(requests(PAIRS), disable_tqdm=True)
    asked = requests([(LONG, {"max_gen_toks": 12})], "generate_until")
    text = ours(model, tokenizer).generate_until(asked)
    model.train()
    assert ours(model, tokenizer).loglikelihood(requests(PAIRS), disable_tqdm=True) == expected
    assert ours(model, tokenizer).generate_until(asked) == text
    assert model.training


def test_logits_of_a_bfloat16_model_are_not_rounded(models: Any, tokenizer: Any) -> None:
    """Steps of 0.06 between bfloat16 logits would make ties of near answers."""
    model = copy.deepcopy(models("llama")).bfloat16()
    ids = torch.tensor([tokenizer.encode(LONG)])
    with torch.inference_mode():
        hidden = model.model(ids).last_hidden_state[0, -1].float()
        exact = (model.lm_head.weight.float() @ hidden).log_softmax(-1)
    found = ours(model, tokenizer)._loglikelihood_tokens([(None, ids[0].tolist(), [t]) for t in range(20)])
    assert [value for value, _ in found] == pytest.approx(exact[:20].tolist(), abs=1e-4)


def test_rolling_is_hflms(models: Any, tokenizer: Any) -> None:
    texts = [(LONG * 3,), ("Liver",), (LONG,), ("",)][:3]
    for max_length in (512, 17):
        for kind in ("llama", "mistral-window"):
            model = models(kind)
            asked = requests(texts, "loglikelihood_rolling")
            expected = theirs(model, tokenizer, max_length).loglikelihood_rolling(asked, disable_tqdm=True)
            found = ours(model, tokenizer, max_length).loglikelihood_rolling(asked, disable_tqdm=True)
            assert found == pytest.approx(expected, abs=1e-2)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "lora"])
def test_greedy_text_is_hflms(kind: str, models: Any, tokenizer: Any) -> None:
    model = adapter(models("llama"), copy.deepcopy(ADAPTERS["lora"])) if kind == "lora" else models(kind)
    scorer, reference = ours(model, tokenizer, 60), theirs(model, tokenizer, 60)

    def same(settings: dict[str, Any]) -> list[str]:
        asked = requests([(text, settings) for text in (LONG * 3, "Answer:")], "generate_until")
        found = scorer.generate_until(asked)
        assert found == reference.generate_until(asked, disable_tqdm=True)
        return found

    whole = same({"until": [], "max_gen_toks": 16})
    assert all(whole)
    stop = whole[1][len(whole[1]) // 2 :][:2]
    cut = same({"until": [stop, "never"], "max_gen_toks": 16})
    assert cut[1] == whole[1].split(stop)[0]
    same({"until": stop, "max_new_tokens": 16})
    same({"until": ["\n"], "max_gen_toks": 5, "do_sample": False, "temperature": 0.0})


def test_generation_that_leaves_no_room_for_a_prompt_is_refused(models: Any, tokenizer: Any) -> None:
    asked = requests([(LONG, {"max_gen_toks": 60})], "generate_until")
    with pytest.raises(UsageError, match="no room for a prompt"):
        ours(models("llama"), tokenizer, 60).generate_until(asked)


def test_what_cannot_be_scored_is_said(models: Any, tokenizer: Any, toy: Any) -> None:
    scorer = ours(models("llama"), tokenizer, 20)
    with pytest.raises(UsageError, match="continuation without tokens"):
        scorer.loglikelihood(requests([("Answer:", "")]), disable_tqdm=True)
    # "vitamin" is one token and "vit" is three: nothing of the answer is left to predict
    assert len(tokenizer.encode("Which vitamin")) <= len(tokenizer.encode("Which vit"))
    with pytest.raises(UsageError, match="continuation without tokens"):
        scorer.loglikelihood(requests([("Which vit", "amin")]), disable_tqdm=True)
    with pytest.raises(UsageError, match="prompt without tokens"):
        scorer._loglikelihood_tokens([(None, [], [5, 6])])
    with pytest.raises(UsageError, match="does not fit the context of 20"):
        scorer.loglikelihood(requests([("Answer:", " Liver" * 30)]), disable_tqdm=True)
    empty = Example("bad-item", "Which?", ("Liver", "", "Heart", "Kidney"), 0)
    with pytest.raises(DataError, match="item bad-item: choice 2 is empty"):
        predict(scorer, toy, [empty], [], "cloze")


def test_a_bounded_amount_of_text_is_in_memory_as_tokens(
    models: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models("llama")
    asked = PAIRS * 2 + few_shot(8)
    expected = ours(model, tokenizer).loglikelihood(requests(asked), disable_tqdm=True)
    monkeypatch.setattr(scorer_module, "_CHUNK_CHARACTERS", 200)
    scorer = ours(model, tokenizer)
    score, sizes = scorer.likelihood.score, []

    def counted(pairs: Any, *more: Any) -> Any:
        sizes.append(sum(len(prompt) + len(continuation) for prompt, continuation in pairs))
        return score(pairs, *more)

    scorer.likelihood.score = counted  # type: ignore[method-assign]
    found = scorer.loglikelihood(requests(asked), disable_tqdm=True)
    assert_same(found, expected)
    assert len(sizes) > 3
    assert max(sizes) < sum(sizes) / 3
