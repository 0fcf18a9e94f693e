"""The one place where a process is seeded."""

from __future__ import annotations

import random

import numpy as np
import torch


def set_seed(seed: int) -> None:
    """Seed every generator of this process: Python's, numpy's, and torch's on all devices.

    transformers has the same function, in a module that takes PEFT and bitsandbytes to import.
    """
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
