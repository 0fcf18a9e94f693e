"""PyTorch by itself: one process, or DistributedDataParallel over several."""

from __future__ import annotations

from harness.contracts import Engine
from harness.spec import RunSpec


class Plain(Engine):
    """No library between transformers.Trainer and PyTorch."""

    name = "plain"
    summary = "PyTorch by itself; several processes each hold the whole model"
    source = "arXiv 2006.15704"

    def prepare(self, spec: RunSpec) -> None:
        """accelerate imports DeepSpeed, where it is installed, to take any model out of its wrapping; here no
        model is wrapped by it.
        """
        from accelerate.utils import other

        other.is_deepspeed_available = lambda: False
