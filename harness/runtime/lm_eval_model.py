"""Our LM under lm-eval's own command line and library, as model `medtune`, for any of its tasks.

Importing this module registers it; lm-eval 0.4.13 has no entry points for models of others.
"""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Any, cast, get_args

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
from harness.runtime.precision import slow_products
from harness.runtime.scorer import Scorer
from harness.spec import AUTO, Dtype, ModelSpec

NAME = "medtune"


@register_model(NAME)
class MedtuneLM(Scorer):
    """`pretrained` is what `--model` of a run may be; `peft` a folder with an adapter (a run's `adapter`).

    `dtype`: bfloat16, float16, float32, or auto: the weights' own, and for 16-bit ones of which the device
    has no products another that it has. With an adapter that is float32 on a 16-bit model, scoring runs
    under autocast, as in a run. `batch_tokens` bounds a forward pass
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
        # lm-eval asks for cuda:0 where nothing was asked; HFLM takes the CPU then, if there is no GPU.
        given = device is not None and (torch.cuda.is_available() or not device.startswith("cuda"))
        where = torch.device(device) if device is not None and given else run_device()
        spec = spec.model_copy(update={"dtype": _dtype(located, dtype, where)})
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


def _dtype(located: Located, asked: str, device: torch.device) -> Dtype:
    found = asked
    if asked == AUTO:
        found = str(AutoConfig.from_pretrained(located.folder, local_files_only=True).dtype or "float32")
    found = found.removeprefix("torch.")
    if found not in get_args(Dtype):
        raise UsageError(
            f"dtype {asked} ({found}) is not supported", f"Give dtype={' or dtype='.join(get_args(Dtype))}."
        )
    own = cast(Dtype, found)
    slow = slow_products(device, own)
    if slow is None:
        return own
    chosen: Dtype = own if asked != AUTO else "float32" if device.type == "cpu" else "float16"
    logging.getLogger("lm_eval").warning("%s: %s; computed in %s", NAME, slow, chosen)
    return chosen


def _with_adapter(model: Any, folder: str) -> Any:
    from peft import PeftModel

    if not (Path(folder) / "adapter_config.json").is_file():
        raise UsageError(
            f"peft={folder} holds no adapter_config.json", "Give the folder `adapter` of a run that made one."
        )
    return PeftModel.from_pretrained(model, folder)
