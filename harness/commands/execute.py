"""`exec` and `warm`: the process of a run, which no user starts.

It is tied to its launcher before anything large is imported: importing takes up to a minute.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from harness.io.tie import PARENT, end_with_parent, take_tie


def execute(folder: Path, processes: int) -> int:
    """Execute the run of `folder` in this process, or in several that torchrun starts from it."""
    take_tie().watch()
    if processes > 1:
        return _start(folder, processes)
    from harness.runtime.execute import main

    return main(folder)


def _start(folder: Path, processes: int) -> int:
    """torchrun's agent. Its workers look whether it lives; it looks whether the launcher does."""
    os.environ[PARENT] = str(os.getpid())
    from torch.distributed.run import main

    words = ["--standalone", "--nproc-per-node", str(processes)]
    main([*words, "-m", "harness", "exec", str(folder)])
    return 0


def serve_warm(descriptor: int) -> int:
    """The process that warm runs are forked from. It starts no thread, and hands its tie on to each run."""
    tie = take_tie()
    end_with_parent(signal.SIGTERM)
    from harness.runtime.warm import main

    return main(descriptor, tie.pipe)
