"""Packed rows: they train what padded ones do, hold no padding, and are used only where they can be."""

from __future__ import annotations

import copy
import functools
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AdaptionPromptConfig, LoraConfig, PromptTuningConfig, get_peft_model
from tiny import SIZE
from transformers import AutoConfig, AutoModelForCausalLM

from harness.contracts import Strategy
from harness.errors import UsageError
from harness.runtime.scoring.cuts import filled_rows
from harness.runtime.scoring.likelihood import Likelihood
from harness.runtime.tokens.rows import Row
from harness.runtime.training import packing
from harness.runtime.training.batches import IGNORED, Cut, StepBatches, collate
from harness.runtime.training.packing import packed_cut
from harness.runtime.training.trainer import StepTrainer
from strategies.full import Full
from strategies.lora import Lora
from strategies.prefix import Prefix

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning"),  # PEFT mends it itself
]

Train = Callable[..., Any]
CPU = torch.device("cpu")
WINDOW = {**SIZE, "head_dim": 16, "sliding_window": 16}  # shorter than most rows
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", SIZE),
    # learned positions, of which there are fewer than tokens in a packed row
    "gpt2": (
        "gpt2",
        {"vocab_size": 512, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128}
        | dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
    ),
    "gemma3": ("gemma3_text", {**WINDOW, "layer_types": ["sliding_attention", "full_attention"]}),
    "mistral": ("mistral", WINDOW),
    "bloom": ("bloom", {"vocab_size": 512, "hidden_size": 64, "n_layer": 2, "n_head": 4}),
    "mpt": ("mpt", {"vocab_size": 512, "d_model": 64, "n_layers": 2, "n_heads": 4}),
    # every other layer remembers what stands before an example, of which little shows
    "jamba": (
        "jamba",
        {**SIZE, "num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1},
    ),
    "mamba": ("mamba", {"vocab_size": 512, "hidden_size": 64, "num_hidden_layers": 2, "state_size": 8}),
}
PACKABLE = ("llama", "gpt2", "gemma3", "mistral")
COMMON = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def build(kind: str, attention: str | None = None) -> Any:
    architecture, settings = KINDS[kind]
    config = AutoConfig.for_model(architecture, **settings, **COMMON)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    return model.float()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("models")

    def get(kind: str) -> Path:
        if not (root / kind).exists():
            build(kind).save_pretrained(root / kind)
        return root / kind

    return get


@pytest.fixture
def shapes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Of the input of each forward pass."""
    found: list[tuple[int, int]] = []
    plain = StepTrainer._nll

    def noted(self: Any, model: Any, micro: Any) -> Any:
        found.append(tuple(micro["input_ids"].shape))
        return plain(self, model, micro)

    monkeypatch.setattr(StepTrainer, "_nll", noted)
    return found


def assert_same_training(found: Any, expected: Any) -> None:
    assert found.losses == pytest.approx(expected.losses, abs=1e-5)
    assert found.losses[0] != pytest.approx(found.losses[-1], abs=1e-2)
    assert [step["tokens"] for step in found.steps] == [step["tokens"] for step in expected.steps]
    assert found.throughput.examples == expected.throughput.examples
    assert found.throughput.answer_tokens == expected.throughput.answer_tokens
    theirs = dict(expected.model.named_parameters())
    for name, weight in found.model.named_parameters():
        torch.testing.assert_close(weight, theirs[name], atol=1e-4, rtol=0)


@pytest.mark.parametrize("strategy", [Lora(r=4), Full()], ids=["lora", "full"])
@pytest.mark.parametrize(
    ("kind", "attention"),
    [("llama", "sdpa"), ("llama", "eager"), ("gpt2", "sdpa"), ("gemma3", "sdpa"), ("mistral", "eager")],
)
def test_packed_rows_train_what_padded_ones_do(
    kind: str,
    attention: str,
    strategy: Strategy,
    run_training: Train,
    folders: Callable[[str], Path],
    shapes: list[tuple[int, int]],
) -> None:
    more = {"base": folders(kind), "attention": attention}
    padded = run_training(strategy, packing="off", **more)
    assert any(rows > 1 for rows, _ in shapes)
    shapes.clear()
    packed = run_training(strategy, packing="on", **more)
    assert all(rows == 1 for rows, _ in shapes)
    assert sum(tokens for _, tokens in shapes) == packed.throughput.tokens  # no padding
    assert len(shapes) < packed.throughput.examples / 2
    assert_same_training(packed, padded)


def test_a_smaller_token_budget_changes_nothing(run_training: Train, shapes: list[tuple[int, int]]) -> None:
    large = run_training(Lora(r=4), packing="on")
    few = len(shapes)
    small = run_training(Lora(r=4), packing="on", micro_batch_tokens=60)
    assert len(shapes) - few > few
    assert all(tokens <= 60 for _, tokens in shapes[few:])
    assert small.losses == pytest.approx(large.losses, abs=1e-5)


def test_a_row_is_no_longer_than_the_models_context(
    run_training: Train, folders: Callable[[str], Path], shapes: list[tuple[int, int]]
) -> None:
    run_training(Lora(r=4), packing="on", base=folders("gpt2"), micro_batch_tokens=4096)
    assert max(tokens for _, tokens in shapes) <= 128


def test_recomputed_activations_are_the_same(run_training: Train) -> None:
    both = [run_training(Lora(r=4), packing="on", gradient_checkpointing=on) for on in (False, True)]
    assert both[1].losses == pytest.approx(both[0].losses, abs=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # dynamo, on its own reads
def test_compiled_layers_are_the_same(run_training: Train, traced_only: list[torch.nn.Module]) -> None:
    torch._dynamo.reset()
    plain = run_training(Lora(r=4), packing="on", max_steps=2)
    found = run_training(Lora(r=4), packing="on", max_steps=2, compile=True)
    assert len(traced_only) == 2
    assert found.losses == pytest.approx(plain.losses, abs=1e-5)


def test_the_validation_loss_is_the_same(run_training: Train, rows: list[Row]) -> None:
    packed, padded = (
        run_training(Lora(r=4), validation_rows=rows[:8], evaluation_steps=2, packing=way)
        for way in ("on", "off")
    )
    assert list(packed.validation) == [2, 4, 6]
    assert list(packed.validation.values()) == pytest.approx(list(padded.validation.values()), abs=1e-5)


@pytest.mark.parametrize("kind", PACKABLE)
def test_what_stands_before_an_example_does_not_change_its_loss(kind: str, rows: list[Row]) -> None:
    model = build(kind)
    for weight in model.parameters():  # so that what is attended to matters
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.15)

    def loss(*packed: Row, drop: bool = False) -> float:
        batch = collate(packed, 0, packed=True)
        batch["labels"][0, : -len(packed[-1].ids)] = IGNORED  # the last example's alone
        given = ("input_ids", "labels") if drop else ("input_ids", "labels", "position_ids")
        with torch.no_grad():
            return float(model(**{name: batch[name] for name in given}, use_cache=False).loss)

    own, *others = rows[:4]
    alone = loss(own, drop=True)
    assert loss(own) == pytest.approx(alone, abs=1e-5)
    for before in ((others[0],), (others[1],), (others[0], others[2])):
        assert loss(*before, own) == pytest.approx(alone, abs=1e-5)
    short = rows[5]
    if kind != "gpt2":  # which has no positions for two rows without them
        assert loss(others[0], short, drop=True) != pytest.approx(loss(others[0], short), abs=1e-3)


# ---- rows


def test_a_packed_row_is_its_examples_one_after_the_other() -> None:
    batch = collate([Row((5, 6, 7, 8), 2), Row((9, 10), 1), Row((3, 4, 5), 1)], pad_id=0, packed=True)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9, 10, 3, 4, 5]]
    assert batch["labels"].tolist() == [[IGNORED, IGNORED, 7, 8, IGNORED, 10, IGNORED, 4, 5]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1, 0, 1, 2]]
    assert (int(batch["tokens"]), int(batch["examples"])) == (9, 3)


def test_an_empty_packed_micro_batch_has_one_token_and_no_label() -> None:
    batch = collate([], pad_id=3, packed=True)
    assert batch["input_ids"].tolist() == [[3]]
    assert batch["labels"].tolist() == [[IGNORED]]
    assert (int(batch["tokens"]), int(batch["examples"])) == (0, 0)


@pytest.mark.parametrize("budget", [1, 27, 60, 100, 10_000])
def test_rows_are_filled(budget: int) -> None:
    lengths = {i: 5 + i * 7 % 23 for i in range(3, 40)}
    found = filled_rows(lengths, budget)
    assert sorted(itertools.chain.from_iterable(found)) == sorted(lengths)
    tokens = [sum(lengths[i] for i in row) for row in found]
    assert all(own <= budget or len(row) == 1 for own, row in zip(tokens, found, strict=True))
    assert all(a + b > budget for a, b in itertools.combinations(tokens, 2))  # no two could be one
    if budget >= max(lengths.values()):
        assert len(found) <= math.ceil(sum(lengths.values()) / budget) * 11 / 9 + 1
    assert filled_rows(dict(reversed(lengths.items())), budget) == found


def test_no_examples_fill_no_row() -> None:
    assert filled_rows({}, 100) == []


@pytest.mark.parametrize("world", [1, 2, 3, 16])
def test_every_process_has_as_many_packed_rows(world: int) -> None:
    lengths = [5 + i * 7 % 23 for i in range(45)]
    cut = Cut(40, packed=True)
    processes = [
        list(StepBatches(lengths, seed=0, batch_size=8, cut=cut, rank=rank, world=world))
        for rank in range(world)
    ]
    for own in zip(*processes, strict=True):
        assert len({len(micros) for micros in own}) == 1
    flat = [i for process in processes for step in process for micro in step for i in micro]
    assert sorted(flat) == list(range(len(lengths)))


# ---- where they are used


@pytest.fixture
def notices() -> list[str]:
    return []


def decided(model: Any, spec: Any, notices: list[str]) -> Cut | None:
    return packed_cut(model, spec, CPU, notices.append)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_model_is_asked_and_not_its_configuration(
    kind: str, dtype: str, make_spec: Any, notices: list[str]
) -> None:
    model = build(kind).to(getattr(torch, dtype))
    spec = make_spec(dtype, attention="flex_attention")
    found = decided(model, spec, notices)
    if kind in PACKABLE:
        assert found == Cut(128 if kind == "gpt2" else 512, packed=True)
        assert notices == []
        return
    assert found is None
    (notice,) = notices
    assert notice.startswith("rows are padded and not packed: ")
    assert type(model).__name__ in notice
    with pytest.raises(UsageError, match="packing=on: ") as error:
        decided(model, make_spec(dtype, packing="on"), notices)
    assert "train.packing=off" in error.value.remedy


@pytest.mark.parametrize("attention", ["flash_attention_2", "flex_attention", "sdpa", "eager"])
@pytest.mark.parametrize("asked", ["auto", "on", "off"])
def test_auto_is_on_where_attention_skips_what_is_not_seen(
    attention: str, asked: str, make_spec: Any, notices: list[str]
) -> None:
    found = decided(build("llama"), make_spec(attention=attention, packing=asked), notices)
    packed = asked == "on" or (asked == "auto" and attention in ("flash_attention_2", "flex_attention"))
    assert (found is not None) == packed
    assert notices == []


def test_nothing_is_tried_out_where_nothing_is_packed(make_spec: Any, notices: list[str]) -> None:
    model = build("llama")
    model.forward = None  # a call would fail
    assert decided(model, make_spec(), notices) is None
    assert decided(model, make_spec(attention="flex_attention", packing="off"), notices) is None


@pytest.mark.parametrize("config", ["prefix", "prompt"])
def test_virtual_tokens_are_not_packed(
    config: str, run_training: Train, make_spec: Any, notices: list[str]
) -> None:
    if config == "prefix":
        model = run_training.adapted(Prefix(num_virtual_tokens=4), "float32", 0)  # type: ignore[attr-defined]
    else:
        model = get_peft_model(
            build("llama"), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
        )
    assert decided(model, make_spec(attention="flex_attention"), notices) is None
    assert len(notices) == 1
    assert "virtual tokens" in notices[0]
    with pytest.raises(UsageError, match="virtual tokens"):
        decided(model, make_spec(packing="on"), notices)


def test_a_run_says_why_its_rows_are_padded(
    run_training: Train, monkeypatch: pytest.MonkeyPatch, shapes: list[tuple[int, int]]
) -> None:
    monkeypatch.setattr(packing, "SKIPPING", ("sdpa",))
    found = run_training(Prefix(num_virtual_tokens=4))
    events = [json.loads(line) for line in (found.folder / "events.jsonl").read_text().splitlines()]
    (notice,) = [event["text"] for event in events if event["event"] == "notice"]
    assert "virtual tokens" in notice
    assert any(rows > 1 for rows, _ in shapes)
    with pytest.raises(UsageError, match="virtual tokens"):
        run_training(Prefix(num_virtual_tokens=4), packing="on")


def test_extra_prompts_inside_the_layers_are_tried_out(make_spec: Any, notices: list[str]) -> None:
    """LLaMA-Adapter's prompts are seen from every position alike, so that rows can be packed."""
    config = AdaptionPromptConfig(task_type="CAUSAL_LM", adapter_len=4, adapter_layers=1)
    model = get_peft_model(build("llama", "eager"), config)
    assert decided(model, make_spec(packing="on"), notices) == Cut(512, packed=True)


def test_the_trial_leaves_no_trace(make_spec: Any, notices: list[str]) -> None:
    model: Any = get_peft_model(
        build("llama"), LoraConfig(task_type="CAUSAL_LM", r=4, lora_dropout=0.5, target_modules=["q_proj"])
    )
    model.train()
    model.base_model.model.model.layers[0].eval()  # modes are each module's own
    gradient = torch.ones(())
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in trained:
        weight.grad = gradient.expand_as(weight).clone()
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    generator = torch.get_rng_state()
    assert decided(model, make_spec(packing="on"), notices) is not None
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(bool((weight.grad == 1).all()) for weight in trained)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_the_trial_changes_no_loss(run_training: Train) -> None:
    """Dropout draws the same numbers with a trial before it as without."""
    strategy = Lora(r=4, dropout=0.3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "_obstacle", lambda *given: None)
        untried = run_training(strategy, packing="on")
    assert run_training(strategy, packing="on").losses == untried.losses


# ---- flex attention


def test_flex_attention_is_refused_for_training_on_a_cpu(run_training: Train) -> None:
    with pytest.raises(UsageError, match="does not train on a CPU") as error:
        run_training(Lora(r=4), attention="flex_attention")
    assert "model.attention=sdpa" in error.value.remedy


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_flex_attention_scores_as_sdpa_does_and_can_be_packed(
    make_spec: Any, notices: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # PyTorch's own C++ for it takes a minute to compile; traced, it computes the same by other means.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    models = {attention: build("llama", attention) for attention in ("flex_attention", "sdpa")}
    spec = make_spec(attention="flex_attention")
    assert decided(models["flex_attention"], spec, notices) == Cut(512, packed=True)
    assert notices == []
    prompt = tuple(7 * i % 512 for i in range(1, 65))
    pairs = [(prompt, (5, 6, 7)), (prompt, (8, 9)), (prompt, (10,)), (prompt[::-1], (14, 15))]
    flex, sdpa = (Likelihood(model, max_length=512) for model in models.values())
    found, expected = flex.score(pairs), sdpa.score(pairs)
    for pair in pairs:
        assert found[pair][0] == pytest.approx(expected[pair][0], abs=1e-4)
    assert len(flex.notes) == 2  # it would drop a mask of ours: nothing is shared, and that is said
    assert sdpa.notes == ()


# ---- flash attention, with PyTorch's own in place of its kernels: none of them runs on a CPU


@pytest.fixture
def lengths_seen(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Where examples begin and end, as each call of flash attention is told; empty for a whole row."""
    found: list[list[int]] = []

    def whole(q: Any, k: Any, v: Any, **given: Any) -> Any:
        """(B, T, H, D), causal."""
        found.append([])
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return torch.nn.functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, enable_gqa=True
        ).transpose(1, 2)

    def by_lengths(q: Any, k: Any, v: Any, *, cu_seqlens_q: Any, cu_seqlens_k: Any, **given: Any) -> Any:
        """(T, H, D), causal in each example."""
        ends = cu_seqlens_q.tolist()
        parts = [whole(q[None, a:b], k[None, a:b], v[None, a:b])[0] for a, b in itertools.pairwise(ends)]
        del found[-len(parts) :]
        found.append(ends)
        return torch.cat(parts)

    functions = ((whole, by_lengths, None, None, None), (lambda **given: {}, None))
    monkeypatch.setattr(
        "transformers.modeling_flash_attention_utils.lazy_import_flash_attention", lambda name: functions
    )
    return found


def test_flash_attention_is_told_where_examples_begin(
    lengths_seen: list[list[int]], make_spec: Any, notices: list[str], rows: list[Row]
) -> None:
    model = build("llama")
    packed = collate(rows[:3], 0, packed=True)
    with torch.no_grad():
        expected = model(packed["input_ids"], position_ids=packed["position_ids"], use_cache=False).logits
    assert lengths_seen == []
    model.config._attn_implementation = "flash_attention_2"  # from_pretrained would ask for the package
    with torch.no_grad():
        found = model(packed["input_ids"], position_ids=packed["position_ids"], use_cache=False).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    ends = list(itertools.accumulate((len(row.ids) for row in rows[:3]), initial=0))
    assert lengths_seen == [ends, ends]  # two layers
    assert decided(model, make_spec(attention="flash_attention_2"), notices) == Cut(512, packed=True)
    assert notices == []


def test_flash_attention_that_is_not_told_is_found_out(
    lengths_seen: list[list[int]], make_spec: Any, notices: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a model that does not hand positions on to its attention."""
    monkeypatch.setattr(
        "transformers.modeling_flash_attention_utils._is_packed_sequence", lambda *given: False
    )
    model = build("llama")
    model.config._attn_implementation = "flash_attention_2"
    assert decided(model, make_spec(attention="flash_attention_2"), notices) is None
    assert notices == [
        "rows are padded and not packed: LlamaForCausalLM does not keep the examples of a row apart"
    ]
