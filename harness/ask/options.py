"""The options of `compare` and `check`, and what option values must be. Only the standard library here: `--help` must not wait."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.io.paths import cut, path_problem

if TYPE_CHECKING:
    from harness.ask.filters import Filters

COMPARE_EXAMPLES = """examples:
  python -m harness compare medqa-lora-smollm2-135m-s0-1a2b3c4d medqa-full-smollm2-135m-s0-5e6f7a8b
  python -m harness compare lora full --task medqa
  python -m harness compare --strategy lora,full --model smollm2-135m --scoring cloze
"""
CHECK_EXAMPLES = """examples:
  python -m harness check --save baseline.json.gz --candidate lora --task medqa
  python -m harness check --baseline baseline.json.gz --candidate my-lora --format github
  python -m harness check --baseline baseline.json.gz --candidate my-lora --anchor lora
"""
CHECK_EXIT_CODES = "exit codes: 0 pass, 1 it got worse, 2 asked wrongly, 4 cannot tell"
MOST_DIGITS = 18
MOST_ITEMS = 10**12
MOST_TRIALS = 100
MOST_PARALLEL = 256
MOST_PROCESSES = 1024
GATES = ("quality", "environment", "memory", "throughput", "trainable")

AddResults = Callable[[argparse._ActionsContainer], None]


def add_compare(commands: Any, add_results: AddResults) -> None:
    parser = commands.add_parser(
        "compare",
        help="two runs, or two strategies over their seeds: is the difference real?",
        description="Compare two runs, or two strategies over the seeds they share, item by item.",
        epilog=COMPARE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "groups",
        nargs="*",
        metavar="RUN|STRATEGY",
        help="a run's name, its start or hash; several seeds with commas; or a strategy",
    )
    parser.add_argument("--strategy", action="append", default=[], metavar="NAME", help="give it twice")
    parser.add_argument(
        "--all-pairs", action="store_true", help="take more than two, and compare every two of them"
    )
    _add_filters(parser)
    _add_margin(parser)
    add_seed_sd(parser)
    add_results(parser)
    _add_format(parser, ("text", "json", "markdown"))


def add_check(commands: Any, add_results: AddResults) -> None:
    parser = commands.add_parser(
        "check",
        help="did it get worse? A gate for CI",
        description="Check a candidate against a baseline: quality, memory, speed and size.",
        epilog=f"{CHECK_EXAMPLES}\n{CHECK_EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    what = parser.add_argument_group("what to check")
    kinds = "a run's name, several seeds with commas, a strategy"
    what.add_argument("--candidate", required=True, metavar="C", help=f"{kinds}, or a saved file")
    what.add_argument("--baseline", metavar="B", help=f"{kinds}, or a file written with --save")
    what.add_argument(
        "--save", type=path, metavar="FILE", help="write the candidate as a baseline (.json, .json.gz)"
    )
    what.add_argument(
        "--anchor",
        metavar="NAME",
        help="a method of the baseline's time, run again now: separates a changed environment from a changed "
        "method; with --save: keep it in the file",
    )
    _add_filters(parser)
    limits = parser.add_argument_group("what is allowed")
    _add_margin(limits)
    add_seed_sd(limits)
    limits.add_argument("--confidence", type=_confidence, default=0.95, metavar="SHARE", help="default: 0.95")
    for name, default in (("max-memory", 1.1), ("min-throughput", 0.9), ("max-trainable", 1.05)):
        limits.add_argument(
            f"--{name}-ratio",
            type=_ratio,
            default=default,
            metavar="X",
            help=f"candidate / baseline; default: {default}",
        )
    limits.add_argument(
        "--gates",
        type=_gates,
        default=GATES,
        metavar="NAMES",
        help=f"which decide the exit code; the others are only shown; default: {','.join(GATES)}",
    )
    add_results(parser)
    _add_format(parser, ("text", "github", "junit", "json"))


def _add_filters(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("which runs of a strategy")
    for name, metavar in (("task", "NAME"), ("model", "NAME"), ("data", "SOURCE")):
        group.add_argument(f"--{name}", metavar=metavar)
    group.add_argument("--scoring", choices=("letter", "cloze"))
    group.add_argument("--shots", type=whole_number(0, MOST_ITEMS), metavar="K")
    group.add_argument(
        "--limit", type=whole_number(1, MOST_ITEMS), metavar="N", help="runs made with this --limit"
    )
    group.add_argument("--seed", type=_seeds, default=(), metavar="NUMBERS")


def _add_margin(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--margin",
        type=_points,
        default=0.02,
        metavar="POINTS",
        help="points of accuracy too few to matter; default: 2",
    )


def add_seed_sd(parser: argparse._ActionsContainer) -> None:
    """Add the option that lets one run speak of its method, at a price that is said."""
    parser.add_argument(
        "--assume-seed-sd",
        type=_points,
        metavar="POINTS",
        help="take a method with one run to vary by this standard deviation over seeds; without it one run says "
        "nothing of its method",
    )


def _add_format(parser: argparse.ArgumentParser, choices: tuple[str, ...]) -> None:
    parser.add_argument("--format", choices=choices, default="text", help="default: text")


def filters_of(args: argparse.Namespace) -> Filters:
    """The filters asked for."""
    from harness.ask.filters import Filters

    return Filters(args.task, args.model, args.data, args.scoring, args.shots, args.limit, args.seed)


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """The type of an option that takes a whole number from `least` to `most`."""

    def read(text: str) -> int:
        written = text.strip().removeprefix("+")
        # Counted before it is read: Python itself refuses thousands of digits with a ValueError.
        value = (
            int(written) if written.isascii() and written.isdigit() and len(written) <= MOST_DIGITS else -1
        )
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"'{cut(text)}' is not a whole number from {least} to {most}")
        return value

    return read


def path(text: str) -> Path:
    """An option's path. Nothing is looked for."""
    if problem := path_problem(text):
        raise argparse.ArgumentTypeError(f"'{cut(text)}': {problem}")
    return Path(text)


def positive_seconds(text: str) -> float:
    """An option's seconds, above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"'{cut(text)}' is not a number of seconds above 0")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _points(text: str) -> float:
    """Points of accuracy, as a fraction."""
    value = _number(text)
    if not 0 < value < 100:
        raise argparse.ArgumentTypeError(f"'{cut(text)}' is not a number of points between 0 and 100")
    return value / 100


def _confidence(text: str) -> float:
    value = _number(text)
    if not 0.5 < value < 1:
        raise argparse.ArgumentTypeError(f"'{cut(text)}' is not a share between 0.5 and 1, such as 0.95")
    return value


def _ratio(text: str) -> float:
    value = _number(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"'{cut(text)}' is not a ratio above 0, such as 1.1")
    return value


def _seeds(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isascii() and part.isdigit() and len(part) <= MOST_DIGITS for part in parts):
        raise argparse.ArgumentTypeError(f"'{cut(text)}' is not a list of seeds, such as 0,1,2")
    return tuple(map(int, parts))


def _gates(text: str) -> tuple[str, ...]:
    from harness.errors import unknown_name

    parts = [part.strip() for part in text.split(",") if part.strip()]
    for part in parts:
        if part not in GATES:
            raise argparse.ArgumentTypeError(unknown_name("gate", part, GATES))
    if not parts:
        raise argparse.ArgumentTypeError(f"no gate is named (known: {', '.join(GATES)})")
    return tuple(parts)
