"""Where the stand-ins for these tests are, and a command line that uses them."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from harness.cli import make_parser

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PLUGIN = HERE / "stub_plugin.py"
FAKE_CHILD = HERE / "fake_child.py"


def parse(*words: str) -> Namespace:
    """`run`'s options with the stub plugin, the sample and a stub strategy and task unless given."""
    defaults = ["--strategy", "stub-tune", "--task", "stub-task", "--data", "sample"]
    return make_parser().parse_args(["run", "--plugin", str(PLUGIN), *defaults, *words])
