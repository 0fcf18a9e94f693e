"""Forward passes on a CPU side by side, each in a thread with its share of the cores.

One pass spread over all cores waits at the end of every operation for the slowest of them, and its
small operations gain nothing from a second core. Passes of their own do not wait for each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

import torch
from torch import nn

from harness.runtime.models.rotary import rotary_of

Item = TypeVar("Item")
Result = TypeVar("Result")

_MOST = 8
"""Passes at one time, for the memory that each takes; with more cores a pass has several."""

# What keeps nothing from one forward pass to the next. Other methods of PEFT and modules of plugins may:
# X-LoRA hands its scalings over in attributes, LoRA on parameters puts weights in place and back.
_WITHOUT_STATE = (
    "torch.nn.", "transformers.", "bitsandbytes.nn.", "harness.runtime.", "peft.peft_model.",
    "peft.tuners.lora.model.", "peft.tuners.lora.layer.Linear.", "peft.tuners.lora.layer.Embedding.",
    "peft.tuners.lora.bnb.", "peft.tuners.ia3.", "peft.tuners.prefix_tuning.", "peft.tuners.prompt_tuning.",
    "peft.tuners.p_tuning.",
)  # fmt: skip


def passes_at_a_time(model: nn.Module, device: torch.device) -> int:
    """How many passes of `model` may run side by side: 1 on a GPU, on one core, and where a pass could
    change what another one reads.
    """
    if device.type != "cpu" or not all(_keeps_nothing(module) for module in model.modules()):
        return 1
    if rotary_of(model).steady is not None:  # set anew in a forward pass, by its longest row
        return 1
    return min(torch.get_num_threads(), _MOST)


def _keeps_nothing(module: nn.Module) -> bool:
    own = type(module)
    hooked = bool(module._forward_hooks or module._forward_pre_hooks or hasattr(module, "_hf_hook"))
    variant = bool(getattr(module, "lora_variant", None))  # of LoRA: aLoRA sets hooks in each pass
    return not hooked and not variant and f"{own.__module__}.{own.__qualname__}.".startswith(_WITHOUT_STATE)


def side_by_side(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int
) -> Iterator[tuple[Item, Result]]:
    """(item, function(item)) of each, as they are ready; raises what `function` raises.

    Items are taken in order. No further one is begun after an error, or when the caller goes away.
    """
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(
        workers, initializer=torch.set_num_threads, initargs=(max(1, threads // workers),)
    )
    try:
        running = {pool.submit(function, item): item for item in items}
        for future in as_completed(running):
            yield running[future], future.result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # PyTorch keeps the number set last for the whole process
