"""What many tests need: a tiny model with its tokenizer, a loader of it, and the registry."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from harness.registry import Registry, load_registry

VOCABULARY = 512
TEXT = (
    "Question: Which vitamin deficiency causes scurvy?\nA. Vitamin A\nB. Vitamin B1\nC. Vitamin C\nD. Vitamin D\nAnswer: C",
    "Question: Which organ secretes insulin?\nA. Liver\nB. Pancreas\nC. Spleen\nD. Kidney\nAnswer: B",
    "Abstract: Patients with hypertension were treated for six months.\nQuestion: Did the treatment lower mortality?\nAnswer: yes",
    "A 54-year-old woman comes to the physician because of chest pain, no, maybe, that began two hours ago.",
)


def pytest_configure(config: pytest.Config) -> None:
    """Warnings are errors; these are of libraries, about themselves, and not ours to mend."""
    # Started in the background of a shell, or by nohup, where these are ignored, and so in every child:
    # the tests of Ctrl-C and of a closed terminal would wait for ever.
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, usual)
    # Tests whose subject is not precision compute in float32, which every CPU does well: as on a CPU of
    # which oneDNN may use no more than AVX2, `model.dtype=auto` means float32 here and in every process
    # that a test starts. A test of another precision asks for it.
    os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX2"
    # pytest-xdist tells its processes the terminal's width so; a report would be laid out for it.
    os.environ.pop("COLUMNS", None)
    for line in (
        # PEFT asks transformers for an attribute that transformers has renamed.
        "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning",
        # PyTorch's own modules, when its compiler is imported.
        "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning",
    ):
        config.addinivalue_line("filterwarnings", line)


@pytest.fixture(scope="session")
def registry() -> Registry:
    """The built-in strategies and tasks."""
    return load_registry()


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random Llama of 2 layers and width 64 (safetensors) and a byte-level tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny") / "tiny-llama"
    tokenizer = _tokenizer()
    config = LlamaConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=128,
        vocab_size=VOCABULARY,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=512
    )


class FolderLoader:
    """A `harness.contracts.BaseLoader` that loads a folder on the CPU."""

    device = "cpu"

    def __init__(self, folder: Path, dtype: str = "float32") -> None:
        self.folder = folder
        self.dtype = dtype

    def load(self, *, dtype: str | None = None, quantization: Any = None) -> Any:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(
            self.folder, dtype=dtype or self.dtype, quantization_config=quantization
        )


@pytest.fixture
def tiny_loader(tiny_model_dir: Path) -> FolderLoader:
    """Loads the tiny model, frozen weights in float32."""
    return FolderLoader(tiny_model_dir)


@pytest.fixture
def mixed_loader(tiny_model_dir: Path) -> FolderLoader:
    """Loads the tiny model, frozen weights in bfloat16: a cast at the wrong place shows under autocast."""
    return FolderLoader(tiny_model_dir, "bfloat16")
