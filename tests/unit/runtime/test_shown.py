"""What does not fit, what is there twice and what ties: right where it can be, counted and said."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from fixed_lm import Fixed
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM

from harness.contracts import Example, Prediction
from harness.errors import UsageError
from harness.record import Inputs
from harness.runtime.evaluators.choice import predict
from harness.runtime.models.positions import vocabulary_size
from harness.runtime.scoring.scorer import Scorer
from harness.runtime.scoring.scores import all_scores
from harness.runtime.scoring.shown import example_texts, scored_inputs, trained_inputs
from harness.runtime.tokens.rows import Row, encode, padding_id, refuse_outside
from harness.store.inputs import scoring_sentences, training_sentences

Examples = Callable[..., tuple[Example, ...]]


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> Any:
    found = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(0)
    for weight in found.parameters():
        if weight.ndim > 1:
            weight.data = torch.randn(weight.shape, generator=generator) * 0.15
    return found


@pytest.fixture(params=[False, True], ids=["no BOS", "BOS"])
def used(request: pytest.FixtureRequest, tokenizer: Any) -> Any:
    other = copy.deepcopy(tokenizer)
    if request.param:
        other.backend_tokenizer.post_processor = TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 1)]
        )
    return other


def fed(scorer: Scorer) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """What the scorer is asked, from now on."""
    asked: list[Any] = []
    score = scorer.likelihood.score

    def kept(pairs: Any, *more: Any) -> Any:
        asked.extend(pairs)
        return score(pairs, *more)

    scorer.likelihood.score = kept  # type: ignore[method-assign]
    return asked


@pytest.mark.parametrize("scoring", ["letter", "cloze"])
@pytest.mark.parametrize("max_length", [75, 90, 120, 150, 200])
def test_worked_examples_that_do_not_fit_are_left_out_whole(
    max_length: int, scoring: Any, used: Any, model: Any, toy: Any, examples: Examples
) -> None:
    test, shots = examples(5), examples(6, 50)
    scorer = Scorer(model, used, max_length=max_length, batch_tokens=1024)
    asked = fed(scorer)
    predictions, _ = predict(scorer, toy, test, shots, scoring)
    blocks = example_texts(toy, shots, scoring)
    expected, seen, lost = set(), [], 0
    for example in test:
        prompt = toy.prompt(example, scoring)
        longest = max(len(used.encode(f"{prompt} {c}")) for c in toy.choices(example, scoring)) - len(
            used.encode(prompt)
        )
        # as many of the nearest as leave room for every choice, of whose tokens the last is not fed
        kept = next(
            k for k in range(len(shots), -1, -1)
            if len(used.encode("".join(blocks[len(shots) - k :]) + prompt)) + longest <= max_length + 1 or k == 0
        )  # fmt: skip
        context = "".join(blocks[len(shots) - kept :]) + prompt
        seen.append(kept)
        ids = used.encode(context)
        lost += len(used.encode("".join(blocks) + prompt)) - len(ids)
        assert len(ids) + longest <= max_length + 1, "the question alone fits in this test"
        expected |= {
            (tuple(ids), tuple(used.encode(f"{context} {choice}")[len(ids) :]))
            for choice in toy.choices(example, scoring)
        }
    assert set(asked) == expected
    found = scored_inputs(toy, test, shots, scoring, predictions, scorer.prompts.cuts)
    assert (found.shots_min, found.shots_mean) == (min(seen), pytest.approx(sum(seen) / len(seen)))
    assert found.truncated_items == sum(k < len(shots) for k in seen)
    assert found.truncated_item_tokens == lost
    notices = scoring_sentences(found, len(test), len(shots))
    assert any("do not fit the context" in notice for notice in notices) == (min(seen) < len(shots))


def test_a_question_too_long_keeps_the_first_token_and_its_end(model: Any, used: Any, toy: Any) -> None:
    item = Example("long", "Why? " * 60, ("Liver", "Left atrium of the heart", "Spleen", "Heart"), 0)
    scorer = Scorer(model, used, max_length=40, batch_tokens=1024)
    asked = fed(scorer)
    predictions, _ = predict(scorer, toy, [item], [], "cloze")
    whole = used.encode(toy.prompt(item, "cloze"))
    (prompt,) = {prompt for prompt, _ in asked}  # the same for each choice
    longest = max(len(continuation) for _, continuation in asked)
    assert len(prompt) == 41 - longest
    first = 1 if whole[0] == 1 else 0
    assert prompt == tuple(whole[:first] + whole[first + len(whole) - len(prompt) :])
    found = scored_inputs(toy, [item], [], "cloze", predictions, scorer.prompts.cuts)
    assert (found.truncated_items, found.truncated_item_tokens) == (1, len(whole) - len(prompt))
    assert (found.shots_min, found.shots_mean) == (None, None)


def test_where_all_fits_nothing_is_counted_or_said(
    model: Any, used: Any, toy: Any, examples: Examples
) -> None:
    scorer = Scorer(model, used, max_length=512, batch_tokens=1024)
    test, shots = examples(5), examples(2, 50)
    predictions, _ = predict(scorer, toy, test, shots, "cloze")
    found = scored_inputs(toy, test, shots, "cloze", predictions, scorer.prompts.cuts)
    assert found == Inputs(shots_min=2, shots_mean=2.0)
    assert scoring_sentences(found, 5, 2) == []


def test_a_cut_training_prompt_keeps_the_first_token_and_is_counted(used: Any) -> None:
    whole = encode(used, "Question: " + "Why? " * 30 + "\nAnswer:", "the left kidney", 500)
    row = encode(used, "Question: " + "Why? " * 30 + "\nAnswer:", "the left kidney", 30)
    first = 1 if whole.ids[0] == 1 else 0
    assert len(row.ids) == 30
    assert row.ids == whole.ids[:first] + whole.ids[len(whole.ids) - 30 + first :]
    assert row.ids[row.answer_start :] == whole.ids[whole.answer_start :]
    assert (whole.cut, row.cut) == (0, len(whole.ids) - 30)
    counts = trained_inputs([whole, row, row])
    assert counts == Inputs(truncated_rows=2, truncated_row_tokens=2 * row.cut)
    assert training_sentences(trained_inputs([whole]), 1) == []
    assert training_sentences(counts, 3)[0].startswith("2 of 3 training examples do not fit")


TWICE = (
    Example("second", "Which?", ("Liver", "Heart", "Liver", "Spleen"), 2),
    Example("spaces", "Which?", ("Heart", " Liver", "Spleen", "Liver "), 3),
    Example("others", "Which?", ("Heart", "Heart", "Spleen", "Liver"), 3),
    Example("apart", "Which?", ("Heart", "Liver", "Spleen", "Kidney"), 1),
)


def answered(scoring: Any, values: dict[str, float], toy: Any, items: Sequence[Example] = TWICE) -> Any:
    found, _ = predict(Fixed(lambda _, c: values[c.strip()]), toy, items, [], scoring)
    return found


def test_the_same_text_as_the_right_one_is_right(toy: Any) -> None:
    found = answered("cloze", {"Liver": -1.0, "Heart": -2.0, "Spleen": -3.0, "Kidney": -4.0}, toy)
    assert [p.correct for p in found] == [True, True, True, True]
    assert [p.predicted for p in found] == [2, 3, 3, 1]
    letters = answered("letter", {"A": -1.0, "B": -2.0, "C": -3.0, "D": -4.0}, toy)
    assert [p.correct for p in letters] == [True, False, False, False]
    assert [p.predicted for p in letters] == [2, 0, 0, 0]


def test_one_text_has_one_probability(toy: Any) -> None:
    """Asked twice it counts once; two letters of one text add up."""
    values = {"Liver": -1.0, "Heart": -2.0, "Spleen": -3.0, "Kidney": -4.0}
    (item,) = answered("cloze", values, toy, TWICE[:1])
    weight = {name: math.exp(value) for name, value in values.items()}
    total = weight["Liver"] + weight["Heart"] + weight["Spleen"]
    scores = all_scores(toy, [item], [])
    assert scores["nll"].value == pytest.approx(-math.log(weight["Liver"] / total))
    assert scores["chance_accuracy"].value == 0.5
    letters = {"A": -1.0, "B": -2.0, "C": -3.0, "D": -4.0}
    (item,) = answered("letter", letters, toy, TWICE[:1])
    p = {name: math.exp(value) for name, value in letters.items()}
    right = (p["A"] + p["C"]) / sum(p.values())
    scores = all_scores(toy, [item], [])
    assert scores["nll"].value == pytest.approx(-math.log(right))
    others = (p["B"] ** 2 + p["D"] ** 2) / sum(p.values()) ** 2
    assert scores["brier"].value == pytest.approx((1 - right) ** 2 + others)
    assert scores["ece"].value == pytest.approx(1 - right)


def test_items_with_the_right_text_twice_are_counted_and_others_stay_as_they_were(toy: Any) -> None:
    found = answered("cloze", {"Liver": -1.0, "Heart": -2.0, "Spleen": -3.0, "Kidney": -4.0}, toy)
    inputs = scored_inputs(toy, TWICE, [], "cloze", found, {})
    assert inputs.repeated_gold_items == 2
    assert "2 of 4 items have the right answer's text more than once" in scoring_sentences(inputs, 4, 0)[0]
    assert (found[3].same_as, found[3].merged) == ((), ())
    assert found[2].same_as == (0, 0, 2, 3)


@pytest.mark.parametrize("tied", [1, 2, 3, 4])
def test_choices_that_all_score_the_same_are_said(tied: int, toy: Any) -> None:
    items = [Example(f"i{n}", f"Which {n}?", ("Liver", "Heart", "Spleen", "Kidney"), 1) for n in range(4)]

    def answer(context: str, choice: str) -> float:
        number = next(n for n in range(4) if f"Which {n}?" in context)
        return -3.0 if number < tied else -float(len(choice)) - ord(choice.strip()[0]) / 100

    found, _ = predict(Fixed(answer), toy, items, [], "cloze")
    inputs = scored_inputs(toy, items, [], "cloze", found, {})
    assert inputs.tied_items == tied
    notices = scoring_sentences(inputs, 4, 0)
    assert bool(notices) == (tied > 2)
    assert all("score exactly the same" in notice for notice in notices)


def test_one_text_in_all_options_is_no_tie(toy: Any) -> None:
    item = Example("same", "Which?", ("Liver",) * 4, 1)
    prediction = Prediction("same", 1, 1, 1, (-1.0,) * 4, same_as=(0, 0, 0, 0))
    assert scored_inputs(toy, [item], [], "cloze", [prediction], {}).tied_items == 0


def test_padding_is_inside_the_embedding(tokenizer: Any, model: Any) -> None:
    size = vocabulary_size(model)
    other = copy.deepcopy(tokenizer)
    other.add_tokens([f"<x{i}>" for i in range(size - len(other))])
    assert len(other) == size
    assert padding_id(other, size) == other.pad_token_id
    other.add_special_tokens({"pad_token": "[PAD]"})
    assert other.pad_token_id == size
    assert padding_id(other, size) == 0
    other.pad_token = None
    assert padding_id(other, size) == 0


def test_training_with_a_padding_token_outside_the_embedding(
    run_training: Any, registry: Any, rows: list[Row], tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    strategy = registry.strategy("lora")()
    expected = run_training(strategy, max_steps=2).losses
    monkeypatch.setattr(type(tokenizer), "pad_token_id", 100_000, raising=False)
    assert run_training(strategy, max_steps=2).losses == expected


def test_a_token_outside_the_embedding_is_refused_by_name(tokenizer: Any, model: Any, toy: Any) -> None:
    other = copy.deepcopy(tokenizer)
    size = vocabulary_size(model)
    other.add_tokens([f"<x{i}>" for i in range(size - len(other))])
    other.add_tokens(["<organ>"])
    text = rf"token {size} \('<organ>'\) of the tokenizer is outside the model's embedding of {size}"
    row = encode(other, "Question: Which <organ>?\nAnswer:", "Liver", 200)
    with pytest.raises(UsageError, match=text):
        refuse_outside(other, [row], size)
    refuse_outside(other, [encode(other, "Question: Which?\nAnswer:", "Liver", 200)], size)
    scorer = Scorer(model, other, max_length=512, batch_tokens=1024)
    item = Example("bad", "Which <organ>?", ("Liver", "Heart", "Spleen", "Kidney"), 1)
    with pytest.raises(UsageError, match=f"item bad, choice 1: {text}"):
        predict(scorer, toy, [item], [], "cloze")
    with pytest.raises(UsageError, match=text):
        scorer._loglikelihood_tokens([(None, [5, size], [6])])


def test_a_letter_that_merges_with_the_prompt_names_its_item(tokenizer: Any, model: Any, toy: Any) -> None:
    class Merging(type(toy)):  # type: ignore[misc]
        def prompt(self, example: Example, scoring: Any) -> str:
            return f"{example.question} vit"

        def choices(self, example: Example, scoring: Any) -> tuple[str, ...]:
            return ("Liver", "Heart")

    items = [Example("fine", "Which?", ("a", "b"), 0), Example("merged", "Which?", ("a", "b"), 0)]
    scorer = Scorer(model, tokenizer, max_length=512, batch_tokens=1024)
    encoded = scorer.prompts.encoder.encoded

    def merged(texts: Sequence[str], special: bool | None = None) -> list[list[int]]:
        # as a tokenizer with a token for the prompt's end and the answer together
        return encoded([text.removesuffix(" Heart") for text in texts], special)

    scorer.prompts.encoder.encoded = merged  # type: ignore[method-assign]
    with pytest.raises(UsageError, match=r"item (fine|merged), choice 2: a continuation without tokens"):
        predict(scorer, Merging(), items, [], "letter")
