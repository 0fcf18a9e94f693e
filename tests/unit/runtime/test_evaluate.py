"""Predictions, scores and what is written of them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from fixed_lm import Fixed

from harness.contracts import Example, Prediction
from harness.errors import NonFiniteLossError, UsageError
from harness.runtime.evaluators import choice as module
from harness.runtime.evaluators.choice import predict, worked_examples, write_predictions
from harness.runtime.scoring.scores import all_scores, proportion

Examples = Callable[..., tuple[Example, ...]]


def by_length(context: str, continuation: str) -> float:
    """Shorter options are likelier: -1 a character, less half a nat."""
    return -float(len(continuation)) - 0.5


def test_requests_are_prompt_and_spaced_choice(toy: Any, examples: Examples) -> None:
    lm, test = Fixed(by_length), examples(3)
    predict(lm, toy, test, [], "cloze")
    expected = [(toy.prompt(e, "cloze"), f" {option}") for e in test for option in e.options]
    assert sorted(lm.asked) == sorted(expected)


def test_worked_examples_stand_before_the_prompt_with_their_answers(toy: Any, examples: Examples) -> None:
    lm, test, shots = Fixed(by_length), examples(2), examples(2, 50)
    predict(lm, toy, test, shots, "letter")
    shown = "".join(f"{toy.prompt(e, 'letter')} {'ABCD'[e.gold]}\n\n" for e in shots)
    assert {context for context, _ in lm.asked} == {shown + toy.prompt(e, "letter") for e in test}


def test_predictions_follow_likelihood_and_likelihood_a_character(toy: Any) -> None:
    item = Example("x", "Which?", ("Left atria", "It", "Eyes", "Ears"), 0, "s1")
    answers = {" Left atria": -10.0, " It": -2.1, " Eyes": -6.0, " Ears": -7.0}
    (found,), _ = predict(Fixed(lambda _, option: answers[option]), toy, [item], [], "cloze")
    assert found.logprobs == tuple(answers.values())
    assert found.predicted == 1
    # -10/10 before -2.1/2; with the joining space counted it would be -2.1/3 before -10/11
    assert found.predicted_norm == 0
    assert (found.example_id, found.gold, found.subgroup, found.correct) == ("x", 0, "s1", False)


def test_predictions_keep_the_order_of_the_test_items(toy: Any, examples: Examples) -> None:
    test = examples(12)[::-1]
    found, asked = predict(Fixed(by_length), toy, test, [], "cloze", texts=True)
    assert [p.example_id for p in found] == [e.id for e in test]
    for example, prediction, own in zip(test, found, asked, strict=True):
        assert prediction.logprobs == tuple(by_length("", f" {option}") for option in example.options)
        assert own.prompt == toy.prompt(example, "cloze")


def test_a_likelihood_that_is_not_a_number_is_refused(toy: Any, examples: Examples) -> None:
    with pytest.raises(NonFiniteLossError, match=r"item toy-[01]"):
        predict(Fixed(lambda *_: float("nan")), toy, examples(2), [], "cloze")


@pytest.mark.parametrize("metric", ["acc", "acc_norm"])
def test_a_disagreement_with_lm_eval_stops_everything(
    metric: str, toy: Any, examples: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = module.evaluate

    def tampered(*args: Any, **kwargs: Any) -> Any:
        found = original(*args, **kwargs)
        found["results"]["toy"][f"{metric},none"] += 1 / 12
        return found

    predict(Fixed(by_length), toy, examples(12), [], "cloze")
    monkeypatch.setattr(module, "evaluate", tampered)
    with pytest.raises(RuntimeError, match=f"{metric},none: lm-eval says"):
        predict(Fixed(by_length), toy, examples(12), [], "cloze")


def test_worked_examples_are_of_train_and_fixed_by_seed(examples: Examples) -> None:
    train = examples(40)
    chosen = worked_examples(train, 5, 3)
    assert len({e.id for e in chosen}) == 5
    assert set(chosen) <= set(train)
    assert worked_examples(train, 5, 3) == chosen
    assert worked_examples(train, 5, 4) != chosen
    assert worked_examples(train, 3, 3) == chosen[:3]  # more shots add to fewer
    assert worked_examples(train, 0, 3) == []


def test_more_worked_examples_than_there_are_is_refused(examples: Examples) -> None:
    with pytest.raises(UsageError, match="3 worked examples asked, but train has 2"):
        worked_examples(examples(2), 3, 0)


SECRET = "SECRET clinical text"


def secret_items(examples: Examples) -> list[Example]:
    return [dataclasses.replace(e, question=SECRET) for e in examples(6)]


def test_predictions_file_has_the_columns_and_no_text(toy: Any, examples: Examples, tmp_path: Path) -> None:
    predictions, _ = predict(Fixed(by_length), toy, secret_items(examples), [], "cloze")
    write_predictions(predictions, tmp_path, None)
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.parquet"]
    table = pq.read_table(tmp_path / "predictions.parquet")
    kinds = {name: str(table.schema.field(name).type) for name in table.column_names}
    assert kinds == {
        "example_id": "string",
        "gold": "int32",
        "predicted": "int32",
        "predicted_norm": "int32",
        "correct": "bool",
        "logprobs": "list<element: double>",
        "subgroup": "string",
        "cluster": "string",
    }
    assert [p.cluster for p in predictions] == [p.example_id for p in predictions]  # none is named
    assert table.to_pylist() == [
        {name: getattr(p, name) for name in kinds} | {"logprobs": list(p.logprobs)} for p in predictions
    ]
    content = (tmp_path / "predictions.parquet").read_bytes()
    assert SECRET.encode() not in content
    assert b"Liver" not in content


def test_texts_are_written_where_asked(toy: Any, examples: Examples, tmp_path: Path) -> None:
    items = secret_items(examples)
    predictions, asked = predict(Fixed(by_length), toy, items, [], "cloze", texts=True)
    write_predictions(predictions, tmp_path, asked)
    rows = pq.read_table(tmp_path / "predictions.parquet").to_pylist()
    assert [row["prompt"] for row in rows] == [toy.prompt(e, "cloze") for e in items]
    assert [row["choices"] for row in rows] == [[f" {option}" for option in e.options] for e in items]


def test_lm_eval_writes_no_text_to_its_caches(
    toy: Any, examples: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    predict(Fixed(by_length), toy, secret_items(examples), [], "cloze")
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and SECRET.encode() in p.read_bytes()]


def predictions_of(gold: list[int], predicted: list[int], subgroups: list[str]) -> list[Prediction]:
    return [
        Prediction(str(i), g, p, (p + 1) % 3, tuple(-0.5 if k == p else -2.0 - 0.1 * k for k in range(3)), s)
        for i, (g, p, s) in enumerate(zip(gold, predicted, subgroups, strict=True))
    ]


class Three:
    class_names = ("yes", "no", "maybe")


def test_scores_by_hand() -> None:
    found = predictions_of([0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 0, 0], ["a", "a", "b", "b", "", ""])
    train = [Example(str(i), "q", ("a", "b", "c"), gold) for i, gold in enumerate([1, 1, 0])]
    scores = all_scores(Three(), found, train)  # type: ignore[arg-type]
    values = {name: score.value for name, score in scores.items()}
    assert values["accuracy"] == pytest.approx(3 / 6)
    assert values["accuracy_norm"] == pytest.approx(1 / 6)  # the predictions plus one: 1 1 2 2 1 1
    assert values["macro_f1"] == pytest.approx((4 / 7 + 2 / 4 + 0) / 3)
    recalls = {name: values[f"recall_{name}"] for name in Three.class_names}
    assert recalls == pytest.approx({"yes": 2 / 3, "no": 1 / 2, "maybe": 0})
    assert values["accuracy@a"] == 1.0
    assert values["accuracy@b"] == 0.5
    assert scores["accuracy@b"].n == 2
    assert not [name for name in values if name.endswith("@")]
    assert values["chance_accuracy"] == pytest.approx(1 / 3)
    # train's commonest class is 1: right for two of six; F1 of it 2*2/(2+6)
    assert values["majority_accuracy"] == pytest.approx(2 / 6)
    assert values["majority_macro_f1"] == pytest.approx((0 + 4 / 8 + 0) / 3)


def test_no_interval_is_without_width() -> None:
    """All right, and all as sure: what others would come to is not known the better for it."""
    found = predictions_of([1] * 8, [1] * 8, [""] * 8)
    scores = all_scores(Three(), found, [])  # type: ignore[arg-type]
    for name in ("macro_f1", "nll", "brier"):
        assert (scores[name].ci_low, scores[name].ci_high) == (None, None)
    low, high = scores["accuracy"].ci_low, scores["accuracy"].ci_high
    assert low is not None
    assert high is not None
    assert low < high


def test_the_majority_is_of_train_and_not_of_test() -> None:
    found = predictions_of([0] * 9 + [1], [0] * 10, [""] * 10)
    train = [Example("t", "q", ("a", "b", "c"), 1)]
    assert all_scores(Three(), found, train)["majority_accuracy"].value == pytest.approx(0.1)  # type: ignore[arg-type]
    assert "majority_accuracy" not in all_scores(Three(), found, [])  # type: ignore[arg-type]


def test_chance_of_items_with_different_numbers_of_choices() -> None:
    found = [
        Prediction("a", 0, 0, 0, (-1.0, -2.0)),
        Prediction("b", 0, 0, 0, (-1.0, -2.0, -3.0, -4.0)),
    ]
    assert all_scores(Three(), found, [])["chance_accuracy"].value == pytest.approx((1 / 2 + 1 / 4) / 2)  # type: ignore[arg-type]


@pytest.mark.parametrize("n", [1, 2, 3, 50])
def test_every_interval_holds_its_value(n: int) -> None:
    generator = np.random.default_rng(n)
    for _ in range(5):
        gold, predicted = generator.integers(0, 3, n).tolist(), generator.integers(0, 3, n).tolist()
        scores = all_scores(Three(), predictions_of(gold, predicted, [""] * n), [])  # type: ignore[arg-type]
        for name in ("accuracy", "accuracy_norm", "macro_f1"):
            score = scores[name]
            if score.ci_low is None or score.ci_high is None:
                assert name == "macro_f1"
                assert n < 50
                continue
            assert 0 <= score.ci_low <= score.value <= score.ci_high <= 1
            assert score.ci_low < score.ci_high
        for name in ("macro_f1", "nll", "brier"):
            assert (scores[name].ci_low is None) if n == 1 else (n < 50 or scores[name].ci_low is not None)
        assert scores["ece"].ci_low is None
        assert all(score.n > 0 for score in scores.values())
        json.dumps({name: score.model_dump() for name, score in scores.items()}, allow_nan=False)


def test_a_proportion_is_wilsons() -> None:
    score = proportion(np.array([True] * 15 + [False] * 133))
    assert (score.value, score.n) == (pytest.approx(15 / 148), 148)
    assert (score.ci_low, score.ci_high) == pytest.approx((0.0624, 0.1605), abs=5e-5)


def test_lm_eval_holds_a_slice_of_the_items_at_a_time(
    toy: Any, examples: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = examples(11)
    expected, asked = predict(Fixed(by_length), toy, test, [], "cloze", texts=True)
    monkeypatch.setattr(module, "_SLICE", 3)
    lm = Fixed(by_length)
    calls, loglikelihood = [], lm.loglikelihood

    def counted(requests: Any, **more: Any) -> Any:
        calls.append(len(requests))
        return loglikelihood(requests, **more)

    lm.loglikelihood = counted  # type: ignore[method-assign]
    assert predict(lm, toy, test, [], "cloze", texts=True) == (expected, asked)
    assert calls == [12, 12, 12, 8]  # four options each
