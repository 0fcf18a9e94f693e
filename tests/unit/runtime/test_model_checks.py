"""A model that is not what its name says is refused, by name and with what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from harness.errors import MissingDependencyError, UsageError
from harness.runtime.models.loading import Base, Located, locate, model_info
from harness.spec import ModelSpec
from strategies.full import Full
from strategies.lora import Lora
from strategies.qlora import QLora

IDS = {"vocab_size": 512, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SIZE = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 128, "max_position_embeddings": 512,
}  # fmt: skip

pytestmark = pytest.mark.filterwarnings("ignore:.*gemm_4bit.*")


@pytest.fixture
def folder(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that may be spoiled."""
    return Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))


def base_of(folder: Path, dtype: Any = "float32", attention: Any = "sdpa") -> Base:
    spec = ModelSpec(name=str(folder), dtype=dtype, attention=attention)
    return Base(locate(spec), spec, "cpu")


def made(model_class: Any, config: Any, folder: Path) -> Path:
    torch.manual_seed(0)
    model_class(config).save_pretrained(folder)
    return folder


def configured(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return change


def refused(folder: Path, *parts: str, **options: Any) -> None:
    with pytest.raises(UsageError) as caught:
        base_of(folder, **options).load()
    assert "\n" not in caught.value.message
    assert str(folder) in caught.value.message
    assert caught.value.remedy
    for part in parts:
        assert part in str(caught.value)


def test_a_checkpoint_without_an_output_layer_is_refused(tmp_path: Path) -> None:
    config = hf.LlamaConfig(**IDS, **SIZE, tie_word_embeddings=False)
    refused(made(hf.LlamaForSequenceClassification, config, tmp_path / "m"), "lm_head.weight", "at random")


def test_layers_that_a_checkpoint_lacks_are_named(folder: Path) -> None:
    configured(num_hidden_layers=3)(folder)
    refused(folder, "model.layers.2.input_layernorm.weight", "and 5 more", "at random")


def test_weights_that_a_model_has_no_place_for_are_named(folder: Path) -> None:
    configured(num_hidden_layers=1)(folder)
    refused(folder, "model.layers.1.input_layernorm.weight", "no place")


def test_weights_of_another_size_are_refused(folder: Path) -> None:
    configured(vocab_size=600)(folder)
    refused(folder, "other shapes than its config.json says")


def test_tied_weights_and_buffers_of_older_checkpoints_are_no_fault(folder: Path) -> None:
    """The tiny model's output layer is tied; old checkpoints hold rotary frequencies, GPT-2's its masks."""
    weights = load_file(folder / "model.safetensors")
    for i in range(2):
        weights[f"model.layers.{i}.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert base_of(folder).load().lm_head.weight.shape == (512, 64)
    config = hf.GPT2Config(vocab_size=512, n_embd=64, n_layer=1, n_head=4, bos_token_id=1, eos_token_id=2)
    old = made(hf.GPT2LMHeadModel, config, folder.parent / "gpt2")
    weights = load_file(old / "model.safetensors")
    weights = {name.removeprefix("transformer."): weight for name, weight in weights.items()}
    weights["h.0.attn.masked_bias"] = torch.tensor(-1e4)
    weights["h.0.attn.bias"] = torch.ones(1, 1, 1024, 1024)
    save_file(weights, old / "model.safetensors", metadata={"format": "pt"})
    assert base_of(old).load().lm_head.weight.shape == (512, 64)


def adapter_in(folder: Path, base: Path) -> None:
    model = hf.AutoModelForCausalLM.from_pretrained(base)
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(folder)


def test_a_folder_with_a_model_and_an_adapter_is_refused(folder: Path, tiny_model_dir: Path) -> None:
    adapter_in(folder, tiny_model_dir)
    refused(folder, "holds a model and an adapter", "merge")


def test_a_folder_with_an_adapter_alone_names_its_base(tmp_path: Path, tiny_model_dir: Path) -> None:
    adapter_in(tmp_path / "adapter", tiny_model_dir)
    refused(tmp_path / "adapter", f"is an adapter for {tiny_model_dir}", "--model_args pretrained=")


def four_bit(folder: Path, kind: str, twice: bool) -> Path:
    """`folder`'s model stored in four bits, as unsloth/*-bnb-4bit are."""
    pytest.importorskip("bitsandbytes")
    settings = hf.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_use_double_quant=twice, bnb_4bit_compute_dtype="float16"
    )  # fmt: skip
    model = hf.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, quantization_config=settings
    )
    model.save_pretrained(folder.parent / kind)
    return folder.parent / kind


def test_lora_on_a_quantised_checkpoint_says_so(folder: Path) -> None:
    base = base_of(four_bit(folder, "fp4", False))
    model = Lora().load(base)
    assert any("stored quantised (bitsandbytes 4-bit FP4)" in note for note in base.notes)
    info = model_info(base.located, base.spec, base.notes)
    assert info.quantization == "bitsandbytes 4-bit FP4"
    # It computes as the run does, not as the run that made the checkpoint.
    assert model.model.layers[0].mlp.up_proj.compute_dtype == torch.float32
    assert model.lm_head.weight.dtype == torch.float32
    assert model_info(base_of(folder).located, base.spec).quantization is None


def test_rows_shorter_than_a_block_are_computed(tmp_path: Path) -> None:
    """bitsandbytes quantises 64 numbers together; these layers have 32 in a row."""
    pytest.importorskip("bitsandbytes")
    config = hf.LlamaConfig(**{**IDS, **SIZE, "hidden_size": 32, "intermediate_size": 96})
    folder = made(hf.LlamaForCausalLM, config, tmp_path / "m")
    model: Any = QLora(compute_dtype="float32").load(base_of(folder))
    with torch.no_grad():
        assert torch.isfinite(model.eval()(input_ids=torch.arange(3, 9)[None]).logits).all()


def test_four_bit_layers_compute_in_float32_where_it_is_asked_for(tmp_path: Path) -> None:
    """With gradients and without: bitsandbytes' packed weights are multiplied in bfloat16."""
    pytest.importorskip("bitsandbytes")
    config = hf.LlamaConfig(**{**IDS, **SIZE, "hidden_size": 64, "intermediate_size": 128})
    folder = made(hf.LlamaForCausalLM, config, tmp_path / "m")
    model: Any = QLora(compute_dtype="float32").load(base_of(folder)).eval()
    embedded = model.get_input_embeddings()(torch.arange(3, 35)[None]).detach()
    with_gradients = model(inputs_embeds=embedded.clone().requires_grad_()).logits.detach()
    with torch.no_grad():
        without = model(inputs_embeds=embedded).logits
    assert (with_gradients - without).abs().max() < 1e-5


def test_qlora_is_what_it_says_or_is_refused(folder: Path) -> None:
    fp4 = four_bit(folder, "fp4", False)
    with pytest.raises(UsageError, match=r"bitsandbytes 4-bit FP4.*another way") as caught:
        QLora().load(base_of(fp4))
    assert "bnb_4bit_quant_type fp4, bnb_4bit_use_double_quant False" in caught.value.remedy
    QLora(quant_type="fp4", double_quantization=False).load(base_of(fp4))
    model: Any = QLora(compute_dtype="float32").load(base_of(four_bit(folder, "nf4", True)))
    weight = model.model.layers[0].mlp.up_proj.weight
    assert weight.quant_state.quant_type == "nf4"
    assert weight.quant_state.nested
    assert model.model.layers[0].mlp.up_proj.compute_dtype == torch.float32


def test_full_refuses_a_quantised_checkpoint_in_one_line(folder: Path) -> None:
    strategy = Full()
    model = strategy.load(base_of(four_bit(folder, "nf4", True)))
    with pytest.raises(UsageError, match=r"^full: the checkpoint's weights are stored quantised"):
        strategy.adapt(model)


@pytest.mark.parametrize(
    ("stored", "error", "parts"),
    [
        ({"quant_method": "gptq", "bits": 4}, MissingDependencyError, ("GPTQ", "not quantised")),
        ({"quant_method": "awq", "bits": 4}, MissingDependencyError, ("AWQ",)),
        ({"quant_method": "compressed-tensors"}, MissingDependencyError, ("compressed-tensors",)),
        ({"quant_method": "of-tomorrow"}, UsageError, ("'of-tomorrow'", "does not know")),
    ],
)
def test_quantised_checkpoints_that_cannot_be_loaded_here(
    stored: dict[str, Any], error: type[Exception], parts: tuple[str, ...], folder: Path
) -> None:
    configured(quantization_config=stored)(folder)
    with pytest.raises(error) as caught:
        base_of(folder).load()
    for part in parts:
        assert part in str(caught.value)
    if stored["quant_method"] != "of-tomorrow":
        with pytest.raises(UsageError, match="cannot be quantised again"):
            QLora().load(base_of(folder))


def test_random_weights_of_a_quantised_checkpoint_are_plain(folder: Path) -> None:
    configured(quantization_config={"quant_method": "gptq", "bits": 4})(folder)
    located = Located(folder, "random", None)
    base = Base(located, ModelSpec(name=f"random:{folder}", dtype="float32"), "cpu")
    assert not getattr(base.load().config, "quantization_config", None)
    assert model_info(located, base.spec).quantization is None


ENCODER = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}


@pytest.mark.filterwarnings("ignore:.*is_decoder.*")
def test_an_encoder_is_refused(tmp_path: Path) -> None:
    config = hf.BertConfig(vocab_size=512, **ENCODER)
    refused(made(hf.BertForMaskedLM, config, tmp_path / "m"), "is an encoder", "causal")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_that_looks_ahead_is_refused(
    dtype: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing in its configuration says so: what it computes does."""
    from transformers.models.llama import modeling_llama

    def everything(config: Any, inputs_embeds: Any = None, **kwargs: Any) -> Any:
        length = inputs_embeds.shape[1]
        return torch.zeros(len(inputs_embeds), 1, length, length, dtype=inputs_embeds.dtype)

    base_of(folder, dtype=dtype).load()
    large = load_file(folder / "model.safetensors")
    save_file({name: weight * (5 if "proj" in name else 1) for name, weight in large.items()},
              folder / "model.safetensors", metadata={"format": "pt"})  # fmt: skip
    base_of(folder, dtype=dtype).load()
    monkeypatch.setattr(modeling_llama, "create_causal_mask", everything)
    refused(folder, "is not causal", dtype=dtype)


def test_a_mixture_of_experts_is_causal(tmp_path: Path) -> None:
    config = hf.MixtralConfig(**IDS, **SIZE, num_local_experts=4, num_experts_per_tok=2)
    folder = made(hf.MixtralForCausalLM, config, tmp_path / "m")
    for dtype in ("float32", "bfloat16"):
        base_of(folder, dtype=dtype).load()


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut_off(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])


def without_a_shard(folder: Path) -> None:
    hf.AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder, max_shard_size="100KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    sorted(folder.glob("model-*.safetensors"))[0].unlink()


@pytest.mark.parametrize(
    ("spoil", "parts"),
    [
        (configured(model_type="of_tomorrow"), ("does not know its model type 'of_tomorrow'", "Update")),
        (configured(model_type="t5"), ("no causal language model for T5",)),
        (
            configured(model_type="own", auto_map={"AutoConfig": "c.C", "AutoModelForCausalLM": "c.M"}),
            ("Python code of its own", "never run"),
        ),
        (without_weights, ("has no model.safetensors",)),
        (pickled, ("pytorch_model.bin", "Pickled")),
        (cut_off, ("damaged or cut off",)),
        (without_a_shard, ("lacks model-00001-of-",)),
        (lambda folder: (folder / "config.json").write_text("{"), ("config.json is not JSON",)),
        (lambda folder: (folder / "config.json").unlink(), ("there is no config.json",)),
    ],
)
def test_each_cause_has_its_own_line(
    spoil: Callable[[Path], Any], parts: tuple[str, ...], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda *asked: "n")
    spoil(folder)
    refused(folder, *parts)


@pytest.mark.parametrize("kind", ["gemma2", "mpt"])
def test_a_model_without_sdpa_names_the_attention_to_ask_for(kind: str, tmp_path: Path) -> None:
    if kind == "gemma2":
        config = hf.Gemma2Config(**IDS, **SIZE, head_dim=16)
        folder = made(hf.Gemma2ForCausalLM, config, tmp_path / "m")
    else:
        mpt = hf.MptConfig(d_model=64, n_heads=4, n_layers=2, max_seq_len=64, vocab_size=512)
        folder = made(hf.MptForCausalLM, mpt, tmp_path / "m")
    refused(folder, "no sdpa attention", "--set model.attention=eager")
    base_of(folder, attention="eager").load()


def test_the_disk_is_not_taken_for_the_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hf.AutoModelForCausalLM, "from_pretrained", full)
    with pytest.raises(OSError, match="No space left"):
        base_of(folder).load()


def test_an_adapter_names_its_base_as_the_hub_does(folder: Path, tmp_path: Path) -> None:
    revision = "0123456789abcdef0123456789abcdef01234567"
    located = Located(folder, "hub", revision, hub_id="org/tiny")
    base = Base(located, ModelSpec(name="org/tiny", dtype="float32"), "cpu")
    assert adapter_base(base, tmp_path / "hub") == ("org/tiny", revision)
    random = Base(Located(folder, "random", None), ModelSpec(name=f"random:{folder}", dtype="float32"), "cpu")
    assert adapter_base(random, tmp_path / "random") == (f"random:{folder}", None)
    assert adapter_base(base_of(folder), tmp_path / "dir") == (str(folder), None)


def adapter_base(base: Base, folder: Path) -> tuple[str, str | None]:
    strategy = Lora(r=2)
    strategy.save(strategy.adapt(strategy.load(base)), folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    return config["base_model_name_or_path"], config["revision"]


def test_quantised_random_weights_do_not_name_a_folder_that_is_gone(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    base = Base(Located(folder, "random", None), ModelSpec(name=f"random:{folder}", dtype="float32"), "cpu")
    strategy = QLora(r=2, compute_dtype="float32")
    strategy.save(strategy.adapt(strategy.load(base)), tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == f"random:{folder}"
