"""DeepSpeed ZeRO as an engine any strategy can use, on GPUs and on a CPU, in one process or more."""

from __future__ import annotations

import importlib
import os
import socket
from typing import Any

import torch
from torch import nn

from harness.contracts import BaseLoader, Strategy
from harness.errors import UsageError, error_line
from harness.runtime.device import rank
from harness.runtime.models.adapted import adapted
from harness.runtime.seeds import set_seed
from harness.spec import RunSpec

_CPU_BUCKET = 4_000_000
"""Gradients reduced at a time, in numbers: memory that is used again and again."""


def deepspeed_config(spec: RunSpec) -> dict[str, Any]:
    """The ZeRO configuration of a run.

    No bf16 section: weights and optimiser state stay float32 (the precision rule), and the forward
    pass runs under our autocast as in the plain engine. Clipping is DeepSpeed's.
    """
    zero: dict[str, Any] = {"stage": spec.engine.zero_stage, "overlap_comm": torch.cuda.is_available()}
    if not torch.cuda.is_available() and spec.engine.zero_stage < 3 and spec.engine.offload == "none":
        # By default each pass fills new buffers of the size of all gradients, and on a CPU the first
        # writing of new memory is what takes the time: steps took nearly twice as long.
        zero |= {"contiguous_gradients": False, "reduce_bucket_size": _CPU_BUCKET}
    if spec.engine.offload == "cpu":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
        if spec.engine.zero_stage == 3:
            zero["offload_param"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    return {
        "zero_optimization": zero,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": spec.train.max_grad_norm,
        # The strategy's optimiser (torch's AdamW) is used as it is, also where state is offloaded.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


def prepare(spec: RunSpec) -> None:
    """Called before a model is loaded to be trained.

    accelerate imports DeepSpeed, where it is installed, to take any model out of its wrapping; on
    the plain engine no model is wrapped by it.
    """
    from accelerate.utils import imports, other

    if spec.engine.name == "deepspeed":
        ensure_process_group_environment()
        _without_compiler()
        other.is_deepspeed_available = imports.is_deepspeed_available
    else:
        other.is_deepspeed_available = lambda: False


def _without_compiler() -> None:
    """Keep DeepSpeed from compiling its shared-memory operation, which it does in every run on a CPU.

    Only its inference with tensor parallelism uses the operation; training's collectives are
    torch.distributed's, in one process and in several. Raises `UsageError` where DeepSpeed itself
    cannot be imported (on a GPU it may look for CUDA's compiler).
    """
    try:
        # Not `from deepspeed.comm import torch`, which is PyTorch itself.
        backend = importlib.import_module("deepspeed.comm.torch")
    except (ImportError, OSError, RuntimeError) as error:
        raise UsageError(
            f"DeepSpeed cannot be used on this machine: {error_line(error)}", "Use --engine plain."
        ) from error
    vars(backend)["build_shm_op"] = lambda: None


def ensure_process_group_environment() -> None:
    """The variables torch.distributed needs, for a single process that no launcher started."""
    if "RANK" in os.environ:
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ |= {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def whole_model(model: nn.Module, strategy: Strategy, spec: RunSpec, base: BaseLoader) -> nn.Module:
    """The trained model outside the engine; in the first process whole, where ZeRO-3 left each a piece."""
    weights = gathered_weights(model) if spec.engine.zero_stage == 3 else None
    leave_engine()
    if weights is None or rank() != 0:
        return model
    set_seed(spec.seed)  # weights that are drawn and never trained (VeRA's) come out the same
    whole: nn.Module = adapted(strategy, strategy.load(base))
    unknown = whole.load_state_dict(weights, strict=False).unexpected_keys
    if unknown:
        raise RuntimeError(f"trained weights that the model does not have: {unknown[:5]}")
    return whole


def gathered_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """The trained weights of a model that ZeRO-3 has sharded, whole, on the CPU, in the first process.

    Other processes take part and get an empty dict. One weight at a time is gathered, so that a
    GPU never holds the whole model.
    """
    import deepspeed

    first = rank() == 0
    state: dict[str, torch.Tensor] = {}
    for name, weight in model.named_parameters(remove_duplicate=False):
        if not weight.requires_grad:
            continue
        with deepspeed.zero.GatheredParameters([weight]):
            if first:
                state[name] = weight.detach().cpu().clone()
    return state


def leave_engine() -> None:
    """Make transformers load models the ordinary way again after a run under DeepSpeed."""
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()
