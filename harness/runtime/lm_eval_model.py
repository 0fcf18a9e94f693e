"""Our LM under lm-eval's own command line and library, as model `medtune`, for any of its tasks.

Importing this module registers it; lm-eval 0.4.13 has no entry points for models of others.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.registry import register_model
from transformers import AutoConfig

from harness.errors import UsageError
from harness.runtime.device import run_device
from harness.runtime.models import (
    Base,
    Located,
    autocast,
    context_length,
    load_tokenizer,
    locate,
    one_dtype,
)
from harness.runtime.scorer import Scorer
from harness.spec import ModelSpec

NAME = "medtune"


@register_model(NAME)
class MedtuneLM(Scorer):
    """`pretrained` is what `--model` of a run may be; `peft` a folder with an adapter (a run's `adapter`).

    `dtype`: auto (the weights' own), bfloat16 or float32; with an adapter that is float32 on a
    bfloat16 model, scoring runs under autocast, as in a run. `batch_tokens` bounds a forward pass
    (default: by the free memory); lm-eval's batch sizes are taken and have no effect.
    """

    def __init__(
        self,
        pretrained: str,
        peft: str | None = None,
        dtype: str = "auto",
        revision: str | None = None,
        max_length: int | None = None,
        batch_tokens: int | None = None,
        device: str | None = None,
        batch_size: Any = None,
        max_batch_size: Any = None,
    ) -> None:
        spec = ModelSpec(name=str(pretrained), revision=revision, max_length=max_length)
        located = locate(spec)
        spec = spec.model_copy(update={"dtype": _dtype(located, dtype)})
        # lm-eval asks for cuda:0 where nothing was asked; HFLM takes the CPU then, if there is no GPU.
        given = device is not None and (torch.cuda.is_available() or not device.startswith("cuda"))
        where = device if given else run_device()
        model: Any = Base(located, spec, str(where)).load()
        if peft is not None:
            model = _with_adapter(model, peft)
        model.eval()
        super().__init__(
            model,
            load_tokenizer(located, spec),
            max_length=context_length(model, spec),
            batch_tokens=batch_tokens,
            autocast=functools.partial(autocast, model.device, "float32" if one_dtype(model) else spec.dtype),
        )


def _dtype(located: Located, asked: str) -> str:
    found = asked
    if asked == "auto":
        found = str(AutoConfig.from_pretrained(located.folder, local_files_only=True).dtype or "float32")
    found = found.removeprefix("torch.")
    if found not in ("bfloat16", "float32"):
        raise UsageError(f"dtype {asked} ({found}) is not supported", "Give dtype=bfloat16 or dtype=float32.")
    return found


def _with_adapter(model: Any, folder: str) -> Any:
    from peft import PeftModel

    if not (Path(folder) / "adapter_config.json").is_file():
        raise UsageError(
            f"peft={folder} holds no adapter_config.json", "Give the folder `adapter` of a run that made one."
        )
    return PeftModel.from_pretrained(model, folder)
