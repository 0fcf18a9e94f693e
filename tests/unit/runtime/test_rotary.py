"""A row is computed as it would be alone, whatever stands in its pass or came before: in scoring and training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from tiny import SIZE
from transformers import AutoConfig, AutoModelForCausalLM

from harness.runtime.models.positions import chosen_positions
from harness.runtime.models.rotary import forgetting, rotary_of
from harness.runtime.scoring.scorer import Scorer
from harness.runtime.tokens.rows import Row
from harness.runtime.training.batches import Cut, collate, micro_batches
from harness.runtime.training.losses import answer_losses
from harness.runtime.training.packing import _examples_are_apart

COMMON = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SWITCH = 70
LONG = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8,
        "long_factor": [1.0, 2.0, 3.0, 6.0, 8.0, 9.0, 12.0, 16.0],
        "original_max_position_embeddings": SWITCH}  # fmt: skip
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
PLAIN = {"rope_type": "default", "rope_theta": 1e4}
BY_LAYER = {
    **SIZE,
    "head_dim": 16,
    "sliding_window": 512,
    "layer_types": ["sliding_attention", "full_attention"],
}
KINDS: dict[str, tuple[str, dict[str, Any], bool]] = {
    # name: (architecture, configuration, whether its encoding depends on the longest row)
    "longrope": ("phi3", {**SIZE, "sliding_window": None, "original_max_position_embeddings": SWITCH, "rope_parameters": LONG}, True),
    "phimoe": (
        "phimoe",
        {**SIZE, "sliding_window": None, "num_local_experts": 2, "num_experts_per_tok": 1,
         "rope_parameters": {**LONG, "short_mscale": 1.0, "long_mscale": 1.3}},
        True,
    ),
    "dynamic": ("llama", {**SIZE, "max_position_embeddings": SWITCH, "rope_parameters": DYNAMIC}, True),
    "by layer": (
        "gemma3_text",
        {**BY_LAYER, "max_position_embeddings": SWITCH, "rope_parameters": {"full_attention": DYNAMIC, "sliding_attention": PLAIN}},
        True,
    ),
    "yarn": ("llama", {**SIZE, "rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 128}}, False),
    "linear": ("llama", {**SIZE, "rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}}, False),
    "plain": ("llama", SIZE, False),
}  # fmt: skip


def build(kind: str) -> Any:
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
        return copy.deepcopy(made[kind])  # as it was before any pass

    return get


def made_up(length: int, seed: int, beginning: Sequence[int] = ()) -> tuple[int, ...]:
    return (*beginning, *((5 + (seed * 31 + i * i * 7) % 500) for i in range(length - len(beginning))))


SHOTS = made_up(66, 3)
"""What several prompts begin with: with a question behind it, some are below the switch and some above."""
PAIRS = [
    *(
        (made_up(length, length), made_up(tokens, 100 + tokens))
        for length in (4, 40, 66, 68, 69, 70, 71, 72, 90, 131)
        for tokens in (1, 2, 5)
    ),
    *(
        (made_up(length, length, SHOTS), made_up(tokens, tokens))
        for length in (67, 68, 69, 70, 71, 75, 100)
        for tokens in (1, 2, 4)
    ),
]


def alone(model: Any, pair: tuple[Sequence[int], Sequence[int]]) -> float:
    """What a model that has computed nothing before says of one pair, without padding."""
    fresh, (prompt, answer) = copy.deepcopy(model), pair
    ids = torch.tensor([[*prompt, *answer]])
    with torch.no_grad():
        logits = fresh(input_ids=ids[:, :-1], use_cache=False).logits[0, -len(answer) :].float()
    return float(logits.log_softmax(-1).gather(1, ids[0, -len(answer) :, None]).sum())


def scored(model: Any, tokenizer: Any, budget: int, pairs: Sequence[Any] = PAIRS) -> list[float]:
    scorer = Scorer(model, tokenizer, max_length=512, batch_tokens=budget)
    asked = [(None, list(prompt), list(answer)) for prompt, answer in pairs]
    return [value for value, _ in scorer._loglikelihood_tokens(asked)]


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_configuration_says_is_found(kind: str, models: Any) -> None:
    rotary = rotary_of(models(kind))
    assert rotary.steady == (SWITCH if KINDS[kind][2] else None)
    assert (rotary.kind(SWITCH) == rotary.kind(SWITCH + 1)) == (not KINDS[kind][2])


@pytest.mark.parametrize("budget", [1, 150, 400, 100_000])
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_scores_as_it_would_alone(kind: str, budget: int, models: Any, tokenizer: Any) -> None:
    model = models(kind)
    expected = [alone(model, pair) for pair in PAIRS]
    found = scored(model, tokenizer, budget)
    assert found == pytest.approx(expected, abs=2e-4)
    assert scored(model, tokenizer, budget, PAIRS[::-1])[::-1] == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize("method", ["prompt", "prefix", "lora"])
@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_with_an_adapter_too(kind: str, method: str, models: Any, tokenizer: Any) -> None:
    """Virtual tokens count: they stand before the row."""
    config: Any = {
        "prompt": PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=6),
        "prefix": PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=6),
        "lora": LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear"),
    }[method]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = get_peft_model(models(kind), config).eval()
        for weight in model.parameters():
            if weight.requires_grad:
                weight.data.normal_(0, 0.2)
    expected = [alone(model, pair) for pair in PAIRS]
    assert scored(model, tokenizer, 600) == pytest.approx(expected, abs=2e-4)
    assert rotary_of(model).steady == SWITCH - (0 if method == "lora" else 6)


@pytest.mark.parametrize("kind", KINDS)
def test_texts_of_either_side_score_the_same_whatever_stands_beside(
    kind: str, models: Any, tokenizer: Any
) -> None:
    text = "Question: Which organ secretes insulin, and why does it do so?\nAnswer:"
    pairs = [
        (f"{'Why? ' * n}{text}", f" {option}") for n in range(0, 30, 3) for option in ("B", "the left kidney")
    ]
    requests = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
    lengths = {len(tokenizer.encode(context)) for context, _ in pairs}
    assert min(lengths) < SWITCH < max(lengths)
    model = models(kind)
    together = Scorer(model, tokenizer, max_length=512, batch_tokens=100_000).loglikelihood(requests)
    for request, answer in zip(requests, together, strict=True):
        single = Scorer(model, tokenizer, max_length=512, batch_tokens=1).loglikelihood([request])
        assert answer[0] == pytest.approx(single[0][0], abs=2e-4)


ROWS = [Row(made_up(length, length), length - 3) for length in (20, 60, 69, 70, 71, 72, 72, 90, 140)]


def losses(model: Any, rows: Sequence[Row], *, packed: bool = False) -> list[float]:
    with torch.no_grad(), chosen_positions(model) as positions:
        batch = collate(rows, 0, packed=packed)
        found = answer_losses(model, batch, positions, torch.device("cpu"), "float32", "none")
    return [float(own.sum()) for own in found.view(len(rows), -1)]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_is_trained_as_it_would_be_alone(kind: str, packed: bool, models: Any, make_spec: Any) -> None:
    model = models(kind)
    if packed and not _examples_are_apart(model, make_spec(), torch.device("cpu")):
        pytest.skip("no packed rows for this one")
    expected = [losses(copy.deepcopy(model), [row])[0] for row in ROWS]
    cut = Cut(100_000, 10_000, packed=packed, kind=rotary_of(model).kind)
    made = micro_batches({i: len(row.ids) for i, row in enumerate(ROWS)}, cut)
    assert sorted(i for batch in made for i in batch) == list(range(len(ROWS)))
    assert (len(made) == 1) == (not KINDS[kind][2])
    found = [0.0] * len(ROWS)
    for passes in (made, made[::-1]):  # the longest first, and last
        with forgetting(model):
            for batch in passes:
                for i, loss in zip(
                    batch, losses(model, [ROWS[i] for i in batch], packed=packed), strict=True
                ):
                    found[i] = loss
        assert found == pytest.approx(expected, abs=2e-4)


def test_forgetting_leaves_no_hook_behind(models: Any) -> None:
    model = models("dynamic")
    with forgetting(model):
        losses(model, ROWS[-1:])
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("micro_batch_tokens", [16, 4096])
def test_training_does_not_depend_on_the_passes(
    micro_batch_tokens: int, models: Any, tmp_path_factory: pytest.TempPathFactory, run_training: Any, registry: Any, tokenizer: Any
) -> None:  # fmt: skip
    folder = tmp_path_factory.mktemp("longrope")
    models("longrope").save_pretrained(folder)
    strategy = registry.strategy("lora")()
    expected = run_training(
        strategy, train_rows=ROWS, base=folder, max_steps=2, micro_batch_tokens=256, max_length=512
    )
    found = run_training(
        strategy,
        train_rows=ROWS,
        base=folder,
        max_steps=2,
        micro_batch_tokens=micro_batch_tokens,
        max_length=512,
    )
    assert found.losses == pytest.approx(expected.losses, abs=1e-4)
