"""The options of `report`. Only the standard library here: `--help` must not wait."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from harness.ask.options import add_seed_sd, path

FORMATS = ("text", "markdown", "html", "csv", "latex", "json")
EXAMPLES = """examples:
  python -m harness report
  python -m harness report --out report.html
  python -m harness report --task medqa --reference lora --format latex --out medqa.tex
"""


def add_report(commands: Any, add_results: Callable[[argparse._ActionsContainer], None]) -> None:
    """Add `report` to the command line."""
    parser = commands.add_parser(
        "report",
        help="all runs as one comparison",
        description="Strategies down, tasks across: accuracy with 95%% intervals, verdicts, costs, audit, failures.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--format", choices=FORMATS, help="default: by the ending of --out, else text")
    parser.add_argument("--out", type=path, metavar="FILE", help="default: standard output")
    parser.add_argument("--task", metavar="NAMES", help="only these; default: all")
    parser.add_argument("--model", metavar="NAMES", help="only these; default: all")
    parser.add_argument(
        "--reference",
        metavar="STRATEGY",
        help="what the others are held against; default: full, else lora, else the first that trains",
    )
    parser.add_argument(
        "--margin",
        type=float,
        default=2.0,
        metavar="POINTS",
        help="accuracy within which two strategies count as equivalent; default: 2",
    )
    add_seed_sd(parser)
    parser.add_argument(
        "--all-pairs", action="store_true", help="compare every two strategies, not only with the reference"
    )
    parser.add_argument(
        "--no-verdicts",
        dest="verdicts",
        action="store_false",
        help="leave the per-item outcomes unread: quick over very many runs, and without tests",
    )
    add_results(parser)
