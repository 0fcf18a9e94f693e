"""What the record of a failed run says: one line, and never without a remedy."""

from __future__ import annotations

import errno

import pytest
import torch

from harness.errors import HarnessError, NonFiniteLossError
from harness.runtime.failures import failure_of

NINJA = "Error building extension 'op': [1/3] c++ -MMD\n" + "\n".join(
    f"[{i}/30] c++ -o x.o" for i in range(30)
)
ALLOCATOR = (
    "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"
)


@pytest.mark.parametrize(
    ("error", "kind", "message", "remedy"),
    [
        (RuntimeError(NINJA), "error", "RuntimeError: Error building extension 'op'", "compiler"),
        (RuntimeError("\n\n----\n  the cause \nmore"), "error", "RuntimeError: the cause", "log.txt"),
        (KeyError("oops"), "error", "KeyError: 'oops'", "log.txt"),
        (ValueError(), "error", "ValueError", "log.txt"),
        (RuntimeError(ALLOCATOR), "out_of_memory", "RuntimeError: [enforce", "micro_batch_tokens"),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors"), "out_of_memory", "RuntimeError: CUDA", "micro"),
        (torch.OutOfMemoryError("tried to allocate 2 GiB"), "out_of_memory", "OutOfMemoryError: tried", "micro"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out_of_memory", "OSError: [Errno", "micro_batch_tokens"),
        (OSError(errno.ENOSPC, "No space left on device"), "error", "OSError: [Errno", "disk is full"),
        (FloatingPointError("a log-likelihood is nan"), "error", "FloatingPointError: a log", "float32"),
        (NonFiniteLossError("the loss became nan", "Lower it."), "non_finite_loss", "the loss became nan", "Lower it."),
        (HarnessError("it broke"), "error", "it broke", "log.txt"),
    ],
)  # fmt: skip
def test_one_line_and_a_remedy(error: Exception, kind: str, message: str, remedy: str) -> None:
    failure = failure_of(error, "train")
    assert (failure.phase, failure.kind) == ("train", kind)
    assert failure.message.startswith(message)
    assert "\n" not in failure.message
    assert remedy in failure.remedy
    assert str(error).splitlines()[-1:] == [] or str(error).splitlines()[-1] in (failure.traceback or "")


def test_a_very_long_line_is_cut_between_words() -> None:
    failure = failure_of(RuntimeError("word " * 500), "load")
    assert len(failure.message) < 310
    assert failure.message.endswith("word ...")
