"""Why a model could not be loaded: the library's many words as one line, and what to do about it."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from harness.errors import HarnessError, MissingDependencyError, UsageError, first_line

CAUSES = (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError)
"""What transformers and the libraries below it raise for a model that cannot be loaded."""

_PICKLED = ("*.bin", "*.pt", "*.pth", "*.msgpack", "*.h5")
_MODEL_TYPE = re.compile(r"model type `([^`]+)`")
_CONFIG_CLASS = re.compile(r"configuration class <class '(?:\w+\.)*(\w+)'>")
_MACHINE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EIO, errno.EMFILE})
"""System errors that say nothing of the model."""


def not_loaded(name: str, folder: Path, error: Exception) -> HarnessError:
    """The error to raise instead of `error`; raises `error` again where it says nothing of the model."""
    text = str(error)
    if isinstance(error, OSError) and error.errno in _MACHINE:
        raise error
    for fits, told in _KNOWN:
        if fits(error, text):
            return told(name, folder, text)
    if isinstance(error, RuntimeError):
        raise error
    first = first_line(text) or repr(error)
    if isinstance(error, ImportError):
        other = (
            "--set model.attention=sdpa"
            if "attn" in text.lower() or "attention" in text.lower()
            else "a checkpoint that is not quantised"
        )
        return MissingDependencyError(f"model {name}: {first}", f"Install that package, or use {other}.")
    return UsageError(
        f"model {name}: {first}",
        "It must be a causal language model with safetensors weights that transformers knows.",
    )


Told = Callable[[str, Path, str], HarnessError]


def _attention(name: str, folder: Path, text: str) -> HarnessError:
    model = text.split(" ", 1)[0]
    return UsageError(
        f"model {name}: transformers has no sdpa attention for {model}", "Use --set model.attention=eager."
    )


def _unknown_type(name: str, folder: Path, text: str) -> HarnessError:
    found = _MODEL_TYPE.search(text)
    kind = f"'{found.group(1)}'" if found else "of config.json"
    return UsageError(
        f"model {name}: the installed transformers does not know its model type {kind}",
        "Update transformers, or give a model of a type it knows.",
    )


def _no_type(name: str, folder: Path, text: str) -> HarnessError:
    missing = "" if (folder / "config.json").is_file() else ": there is no config.json"
    return UsageError(
        f"model {name}: {folder} does not say what model it holds{missing}",
        "Give a folder as save_pretrained writes it: config.json with model_type, safetensors, tokenizer.",
    )


def _not_causal(name: str, folder: Path, text: str) -> HarnessError:
    found = _CONFIG_CLASS.search(text)
    kind = found.group(1).removesuffix("Config") if found else "its type"
    return UsageError(
        f"model {name}: transformers has no causal language model for {kind}",
        "Give a causal (decoder-only) language model.",
    )


def _remote_code(name: str, folder: Path, text: str) -> HarnessError:
    return UsageError(
        f"model {name} needs Python code of its own (auto_map in config.json), which is never run",
        "Give a model that transformers itself can load.",
    )


def _no_weights(name: str, folder: Path, text: str) -> HarnessError:
    other = sorted(path.name for pattern in _PICKLED for path in folder.glob(pattern))
    if other:
        return UsageError(
            f"model {name}: {folder} has weights as {other[0]} and none as safetensors",
            "Pickled weights are never read; convert them: AutoModelForCausalLM.from_pretrained(...).save_pretrained(...).",
        )
    return UsageError(
        f"model {name}: {folder} has no model.safetensors and no index of several",
        "Give a folder with all of the model's safetensors files.",
    )


def _no_file(name: str, folder: Path, text: str) -> HarnessError:
    file = Path(text.rpartition(": ")[2].strip("'\" ")).name
    return UsageError(
        f"model {name}: {folder} lacks {file}, which its index names", "Download or copy that file too."
    )


def _not_json(name: str, folder: Path, text: str) -> HarnessError:
    return UsageError(f"model {name}: {folder / 'config.json'} is not JSON", "Download or copy it again.")


def _damaged(name: str, folder: Path, text: str) -> HarnessError:
    first = first_line(text)
    return UsageError(
        f"model {name}: a safetensors file in {folder} is damaged or cut off ({first})",
        "Download or copy it again.",
    )


def _sizes(name: str, folder: Path, text: str) -> HarnessError:
    return UsageError(
        f"model {name}: weights in {folder} have other shapes than its config.json says",
        "Give the config.json that belongs to these weights (a changed vocabulary: that of the new size).",
    )


def _other_quantization(name: str, folder: Path, text: str) -> HarnessError:
    found = re.search(r"quantized with (\w+?)(?:Config)? ", text)
    kind = found.group(1) if found else "another method"
    return UsageError(
        f"model {name} is already quantised ({kind}) and cannot be quantised in another way",
        "Give the checkpoint that is not quantised, or use lora on this one.",
    )


def _needs_device(name: str, folder: Path, text: str) -> HarnessError:
    first = first_line(text)
    return UsageError(
        f"model {name}: this machine cannot compute with its quantised weights ({first})",
        "Give the checkpoint that is not quantised, or use another machine.",
    )


def _says(part: str) -> Callable[[Exception, str], bool]:
    return lambda error, text: part in text


_KNOWN: tuple[tuple[Callable[[Exception, str], bool], Told], ...] = (
    (_says("does not support an attention implementation through torch.nn.functional"), _attention),
    (_says("does not recognize this architecture"), _unknown_type),
    (_says("Should have a `model_type` key"), _no_type),
    (_says("for this kind of AutoModel"), _not_causal),
    (_says("contains custom code"), _remote_code),
    (_says("trust_remote_code=True"), _remote_code),
    (_says("no file named"), _no_weights),
    (_says("is not a valid JSON file"), _not_json),
    (_says("ignore_mismatched_sizes"), _sizes),
    (_says("The model is quantized with"), _other_quantization),
    (lambda error, text: isinstance(error, FileNotFoundError) and ".safetensors" in text, _no_file),
    (lambda error, text: isinstance(error, SafetensorError), _damaged),
    (
        lambda error, text: isinstance(error, (RuntimeError, ValueError)) and bool(re.search(r"GPU|CUDA|accelerator", text)),
        _needs_device,
    ),
)  # fmt: skip
