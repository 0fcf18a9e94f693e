"""Examples into ids and batches: what is trained on, in which order, in how many pieces."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain, pairwise
from typing import Any

import pytest
from accelerate import skip_first_batches
from lm_eval.api.model import TemplateLM
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerBase

from harness.contracts import Example
from harness.errors import DataError, UsageError
from harness.items import check_choices, data_fingerprint
from harness.runtime.tokens.rows import Row, RowError, encode, encode_all, encode_pairs
from harness.runtime.tokens.texts import Encoder
from harness.runtime.training.batches import (
    IGNORED,
    Cut,
    StepBatches,
    StepLoader,
    collate,
    micro_batches,
    shuffled,
    split_fold,
)

PROMPT = "Question: Which organ secretes insulin?\nAnswer:"
Steps = list[list[list[int]]]


@pytest.fixture
def with_bos(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A tokenizer that puts <s> in front by itself, as Llama's does."""
    import copy

    other = copy.deepcopy(tokenizer)
    other.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", other.bos_token_id)]
    )
    return other


def test_the_answer_and_only_the_answer_is_trained(tokenizer: Any) -> None:
    row = encode(tokenizer, PROMPT, "the Pancreas", 200)
    assert tokenizer.decode(row.ids) == f"{PROMPT} the Pancreas"
    assert tokenizer.decode(row.ids[row.answer_start :]) == " the Pancreas"


def test_a_long_prompt_loses_its_beginning_and_never_its_answer(tokenizer: Any) -> None:
    whole = encode(tokenizer, PROMPT, "Pancreas", 200)
    cut = encode(tokenizer, PROMPT, "Pancreas", 7)
    assert len(cut.ids) == 7 < len(whole.ids)
    assert cut.ids == whole.ids[-7:]
    assert tokenizer.decode(cut.ids[cut.answer_start :]) == " Pancreas"


def test_an_answer_that_does_not_fit_is_refused(tokenizer: Any) -> None:
    answer = "the Left atrium of the heart"
    length = len(tokenizer.encode(f" {answer}"))
    row = encode(tokenizer, PROMPT, answer, length + 1)
    assert row.answer_start == 1  # one token of the prompt is left to predict it from
    with pytest.raises(UsageError, match=f"{length} tokens, but train.max_length is {length}"):
        encode(tokenizer, PROMPT, answer, length)


def test_the_example_that_cannot_be_trained_on_is_known(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fine, long = (PROMPT, "B"), (PROMPT, "the Left atrium of the heart")
    with pytest.raises(RowError, match=r"tokens, but train\.max_length is 6") as refused:
        encode_pairs(tokenizer, [fine] * 700 + [long, fine], 6)
    assert refused.value.index == 700
    encoded = Encoder.encoded
    # as where a tokenizer has one token for the prompt's end and the answer together
    monkeypatch.setattr(
        Encoder,
        "encoded",
        lambda self, texts: encoded(self, [text.removesuffix(" merged") for text in texts]),
    )
    with pytest.raises(RowError, match="no tokens of its own") as refused:
        encode_pairs(tokenizer, [fine, (PROMPT, "merged"), fine], 200)
    assert refused.value.index == 1


@pytest.mark.parametrize("bos", [False, True])
def test_ids_are_those_lm_eval_scores(tokenizer: Any, with_bos: Any, bos: bool) -> None:
    used = with_bos if bos else tokenizer

    class Pairs(TemplateLM):  # type: ignore[misc]
        backend = "causal"
        eot_token_id = 2
        loglikelihood_rolling = generate_until = _loglikelihood_tokens = None

        def tok_encode(self, string: str, **kwargs: Any) -> list[int]:
            return used.encode(string)  # type: ignore[no-any-return]

    Pairs.__abstractmethods__ = frozenset()
    for answer in ("Pancreas", "B", "the Left atrium"):
        context, continuation = Pairs()._encode_pair(PROMPT, f" {answer}")
        row = encode(used, PROMPT, answer, 200)
        assert list(row.ids) == context + continuation
        assert row.answer_start == len(context)
        assert (row.ids[0] == used.bos_token_id) == bos


def test_encode_all_uses_the_tasks_template(
    toy: Any, examples: Callable[..., tuple[Example, ...]], tokenizer: Any
) -> None:
    example = examples(3)[2]
    letter, cloze = (encode_all(toy, [example], way, tokenizer, 200)[0] for way in ("letter", "cloze"))
    assert tokenizer.decode(letter.ids) == f"{toy.prompt(example, 'letter')} {'ABCD'[example.gold]}"
    assert tokenizer.decode(cloze.ids[cloze.answer_start :]) == f" {example.options[example.gold]}"


def test_an_empty_choice_is_refused_with_its_item(
    toy: Any, examples: Callable[..., tuple[Example, ...]]
) -> None:
    fine = examples(2)
    broken = Example("toy-bad", "Which?", ("Liver", " ", "Heart", "Kidney"), 0)
    check_choices(toy, fine, "cloze")
    check_choices(toy, (*fine, broken), "letter")
    with pytest.raises(DataError, match="item toy-bad: choice 2 is empty"):
        check_choices(toy, (*fine, broken), "cloze")


def test_the_order_depends_on_seed_and_epoch_only() -> None:
    order = shuffled(100, 1, 2)
    assert sorted(order) == list(range(100))
    assert shuffled(100, 1, 2) == order
    assert len({tuple(shuffled(100, seed, epoch)) for seed in range(4) for epoch in range(4)}) == 16


def test_every_example_is_held_out_once_and_never_trained_on_then() -> None:
    train = tuple(Example(f"e{i}", "q", ("a", "b"), 0) for i in range(23))
    parts = [split_fold(train, fold, 5, 7) for fold in range(5)]
    assert sorted(e.id for _, held in parts for e in held) == sorted(e.id for e in train)
    assert [len(held) for _, held in parts] == [5, 5, 5, 4, 4]
    for rest, held in parts:
        assert not set(rest) & set(held)
        assert [e for e in train if e in {*rest, *held}] == list(train)
        assert list(rest) == [e for e in train if e in rest]
    assert parts == [split_fold(train, fold, 5, 7) for fold in range(5)]
    assert parts[0] != split_fold(train, 0, 5, 8)


def test_the_items_of_a_cluster_are_in_one_fold() -> None:
    train = tuple(Example(f"e{i}", "q", ("a", "b"), 0, cluster=f"fact{i // 3}") for i in range(30))
    for fold in range(5):
        rest, held = split_fold(train, fold, 5, 1)
        assert len(held) == 6
        assert not {e.cluster for e in rest} & {e.cluster for e in held}


def test_the_order_does_not_touch_or_use_the_global_generator() -> None:
    import torch

    torch.manual_seed(1)
    first, state = shuffled(50, 0, 0), torch.get_rng_state()
    torch.manual_seed(2)
    assert shuffled(50, 0, 0) == first
    torch.manual_seed(1)
    assert bool((torch.get_rng_state() == state).all())


@pytest.mark.parametrize("budget", [1, 16, 100, 1000])
@pytest.mark.parametrize("overhead", [0, 10, 1000])
def test_micro_batches_partition_within_the_budget(budget: int, overhead: int) -> None:
    lengths = {i: 5 + i * 7 % 23 for i in range(3, 40)}
    found = micro_batches(lengths, Cut(budget, overhead))
    assert sorted(chain.from_iterable(found)) == sorted(lengths)
    for batch in found:
        longest = max(lengths[i] for i in batch)
        assert len(batch) == 1 or longest * len(batch) <= budget
    for one, other in pairwise(found):
        assert lengths[one[-1]] >= lengths[other[0]]
        # two neighbours are apart because one is dearer, or does not fit
        together = lengths[one[0]] * (len(one) + len(other))
        apart = lengths[one[0]] * len(one) + lengths[other[0]] * len(other) + overhead
        assert together > budget or together > apart, (one, other)


def every_cut(order: list[int]) -> list[list[list[int]]]:
    """All ways of cutting `order` into pieces."""
    if not order:
        return [[]]
    return [[order[:first], *rest] for first in range(1, len(order) + 1) for rest in every_cut(order[first:])]


@pytest.mark.parametrize("overhead", [0, 8, 64, 10_000])
def test_no_other_cut_costs_less(overhead: int) -> None:
    lengths = dict(enumerate([120, 118, 90, 61, 60, 60, 31, 30, 12, 5]))
    cut = Cut(400, overhead)

    def cost(batches: list[list[int]]) -> float:
        padded = [lengths[batch[0]] * len(batch) for batch in batches]
        fits = all(p <= cut.budget for p in padded)
        return sum(padded) + overhead * len(batches) if fits else float("inf")

    found = micro_batches(lengths, cut)
    assert cost(found) == min(cost(batches) for batches in every_cut(list(lengths)))


def test_a_pass_is_made_only_where_it_saves_more_padding_than_it_costs() -> None:
    lengths = {0: 100, 1: 100, 2: 60, 3: 60}  # apart, 80 tokens less padding
    assert micro_batches(lengths, Cut(1000, 79)) == [[0, 1], [2, 3]]
    assert micro_batches(lengths, Cut(1000, 81)) == [[0, 1, 2, 3]]
    assert micro_batches(dict.fromkeys(range(4), 50), Cut(1000, 0)) == [[0, 1, 2, 3]]  # nothing to save


def test_no_rows_make_no_micro_batches() -> None:
    assert micro_batches({}, Cut(100, 1)) == []


LENGTHS = [5 + i * 7 % 23 for i in range(45)]


def steps(budget: int = 64, world: int = 1, epoch: int = 0, seed: int = 0, size: int = 8) -> list[Steps]:
    """[process][step][micro-batch][example]"""
    found = []
    for rank in range(world):
        batches = StepBatches(LENGTHS, seed=seed, batch_size=size, cut=Cut(budget, 8), rank=rank, world=world)
        batches.set_epoch(epoch)
        assert len(list(batches)) == len(batches)
        found.append(list(batches))
    return found


def members(processes: list[Steps]) -> list[set[int]]:
    """The examples of each step, over all processes."""
    return [{i for micros in own for micro in micros for i in micro} for own in zip(*processes, strict=True)]


def test_an_epoch_holds_every_example_once() -> None:
    for world in (1, 2, 3, 5):
        flat = [i for process in steps(world=world) for step in process for micro in step for i in micro]
        assert sorted(flat) == list(range(len(LENGTHS)))


def test_who_shares_a_step_depends_on_no_budget_and_no_number_of_processes() -> None:
    expected = members(steps())
    assert [len(step) for step in expected] == [8, 8, 8, 8, 8, 5]
    for budget in (1, 30, 10_000):
        for world in (1, 2, 3, 16):
            assert members(steps(budget, world)) == expected


def test_every_process_has_as_many_micro_batches() -> None:
    for world in (2, 3, 16):
        processes = steps(budget=40, world=world)
        for own in zip(*processes, strict=True):
            assert len({len(micros) for micros in own}) == 1
    assert any(not micro for micro in chain.from_iterable(steps(budget=40, world=16)[15]))


def test_an_epoch_and_a_seed_of_its_own_change_the_steps() -> None:
    first = steps()
    assert steps() == first
    assert steps(epoch=1) != first
    assert steps(seed=1) != first
    assert steps(epoch=1) != steps(seed=1)


def test_collate_pads_on_the_right_and_counts_no_padding() -> None:
    batch = collate([Row((5, 6, 7, 8), 2), Row((9, 10), 1)], pad_id=0)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8], [9, 10, 0, 0]]
    assert batch["labels"].tolist() == [[IGNORED, IGNORED, 7, 8], [IGNORED, 10, IGNORED, IGNORED]]
    assert int(batch["tokens"]) == 6


def test_an_answer_token_like_the_padding_keeps_its_label() -> None:
    batch = collate([Row((5, 0, 0), 1), Row((5, 6, 7, 8), 3)], pad_id=0)
    assert batch["labels"][0].tolist() == [IGNORED, 0, 0, IGNORED]


def test_an_empty_micro_batch_has_one_token_and_no_label() -> None:
    batch = collate([], pad_id=3)
    assert batch["input_ids"].tolist() == [[3]]
    assert batch["labels"].tolist() == [[IGNORED]]
    assert int(batch["tokens"]) == 0


def loader(rows: list[Row], seed: int = 0) -> StepLoader:
    lengths = [len(row.ids) for row in rows]
    return StepLoader(
        rows, StepBatches(lengths, seed=seed, batch_size=4, cut=Cut(120, 8), rank=0, world=1), pad_id=0
    )


def texts(step: list[Any]) -> list[list[list[int]]]:
    return [micro["input_ids"].tolist() for micro in step]


def test_the_loader_yields_the_rows_of_its_steps(rows: list[Row]) -> None:
    found = loader(rows)
    assert len(found) == 6
    order = shuffled(22, 0, 0)
    for number, step in enumerate(found):
        own = [rows[i].ids for i in order[number * 4 : number * 4 + 4]]
        padded = [tuple(line) for micro in step for line in micro["input_ids"].tolist()]
        assert len(padded) == len(own)
        assert all(any(line[: len(ids)] == ids for line in padded) for ids in own)
        assert sum(int(micro["tokens"]) for micro in step) == sum(len(ids) for ids in own)


def test_the_loader_follows_its_epoch(rows: list[Row]) -> None:
    found = loader(rows)
    first = [texts(step) for step in found]
    found.set_epoch(1)
    second = [texts(step) for step in found]
    assert second != first
    found.set_epoch(0)
    assert [texts(step) for step in found] == first


def test_the_loader_can_be_resumed_in_the_middle_of_an_epoch(rows: list[Row]) -> None:
    whole = loader(rows)
    whole.set_epoch(3)
    found = loader(rows)
    found.set_epoch(3)
    resumed = skip_first_batches(found, 2)
    assert [texts(step) for step in resumed] == [texts(step) for step in whole][2:]


def test_the_fingerprint_is_of_what_is_trained_and_scored(
    toy: Any, examples: Callable[..., tuple[Example, ...]]
) -> None:
    import dataclasses

    train, test = examples(4), examples(3, 10)
    base = data_fingerprint(toy, "letter", (train, (), test))
    assert base == data_fingerprint(toy, "letter", (train, (), test))
    other_gold = dataclasses.replace(test[0], gold=(test[0].gold + 1) % 4)
    other_id = dataclasses.replace(test[0], id="other")
    changed = [
        data_fingerprint(toy, "cloze", (train, (), test)),
        data_fingerprint(toy, "letter", (train[:3], (), test)),
        data_fingerprint(toy, "letter", (train[:3], train[3:], test)),
        data_fingerprint(toy, "letter", (train, (), test[::-1])),
        data_fingerprint(toy, "letter", (train, (), (other_gold, *test[1:]))),
        data_fingerprint(toy, "letter", (train, (), (other_id, *test[1:]))),
    ]
    assert len({base, *changed}) == 7
