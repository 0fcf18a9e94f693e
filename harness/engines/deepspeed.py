"""DeepSpeed ZeRO, on GPUs and on a CPU, in one process or more (Rajbhandari et al. 2020, arXiv 1910.02054)."""

from __future__ import annotations

import importlib
import os
import socket
from typing import TYPE_CHECKING, Any

from harness.contracts import Engine
from harness.errors import UsageError, error_line
from harness.spec import RunSpec

if TYPE_CHECKING:
    import torch

_CPU_BUCKET = 4_000_000
"""Gradients reduced at a time, in numbers: memory that is used again and again."""


class DeepSpeed(Engine):
    """ZeRO's stages share optimiser state, gradients and weights among the processes."""

    name = "deepspeed"
    summary = "DeepSpeed ZeRO: processes share optimiser state, gradients and weights"
    source = "arXiv 1910.02054"
    packages = ("deepspeed",)
    settings = frozenset({"zero_stage", "offload"})
    # ZeRO scales a loss only for weights that are float16 themselves, and here trained weights are float32.
    trains_in_float16 = False
    forkable = False  # its process group is not for forking
    keeps_weights = True
    synchronises = True
    backward_arguments = {"scale_wrt_gas": False}  # noqa: RUF012 (never written to)

    def check(self, spec: RunSpec) -> None:
        if spec.train.compile and spec.engine.zero_stage == 3:
            raise UsageError(
                "train.compile does not work with ZeRO stage 3: its hooks exchange the weights of each layer.",
                "Use --set engine.zero_stage=2, or leave train.compile out.",
            )

    def prepare(self, spec: RunSpec) -> None:
        from accelerate.utils import imports, other

        ensure_process_group_environment()
        _without_compiler()
        other.is_deepspeed_available = imports.is_deepspeed_available

    def trainer_arguments(self, spec: RunSpec) -> dict[str, Any]:
        return {"deepspeed": zero_configuration(spec)}

    def whole_weights(self, model: torch.nn.Module, spec: RunSpec) -> dict[str, torch.Tensor] | None:
        from transformers.integrations.deepspeed import unset_hf_deepspeed_config

        weights = gathered_weights(model) if spec.engine.zero_stage == 3 else None
        unset_hf_deepspeed_config()  # transformers loads models the ordinary way again
        return weights


def zero_configuration(spec: RunSpec) -> dict[str, Any]:
    """The ZeRO configuration of a run.

    No bf16 section: weights and optimiser state stay float32 (the precision rule), and the forward
    pass runs under our autocast as in the plain engine. Clipping is DeepSpeed's.
    """
    import torch

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


def gathered_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The trained weights of a model that ZeRO-3 has sharded, whole, on the CPU, in the first process.

    Other processes take part and get an empty dict. One weight at a time is gathered, so that a
    GPU never holds the whole model.
    """
    import deepspeed
    import torch

    first = torch.distributed.get_rank() == 0
    state: dict[str, torch.Tensor] = {}
    for name, weight in model.named_parameters(remove_duplicate=False):
        if not weight.requires_grad:
            continue
        with deepspeed.zero.GatheredParameters([weight]):
            if first:
                state[name] = weight.detach().cpu().clone()
    return state
