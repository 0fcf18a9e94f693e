"""One side of a comparison in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from harness.launch.local import LaunchOptions


def figures(words: list[str], *, ours: bool) -> dict[str, Any]:
    """What the Python script and arguments `words` print last, as JSON: ours in the environment that `run`
    gives to its processes, a peer in the user's. Ends with the script's own words where it fails.
    """
    environment = os.environ | (LaunchOptions().child_environment() if ours else {})
    # A process of `run` does not look for modules beside its script; these scripts import their neighbours.
    path = [str(Path(__file__).parent), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(f"{' '.join(words)}: {done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
