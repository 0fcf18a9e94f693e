"""Commands, options and exit codes. Only the standard library here: `--help` must not wait."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from harness import __version__
from harness.ask.options import (
    MOST_ITEMS,
    MOST_PARALLEL,
    MOST_PROCESSES,
    MOST_TRIALS,
    add_check,
    add_compare,
    path,
    positive_seconds,
    whole_number,
)
from harness.ask.report_options import add_report
from harness.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, HarnessError, UsageError, did_you_mean
from harness.io.terminal import safe_output

# What a shell reports for a program whose reader went away (128 + SIGPIPE): `| head` is no failed run.
EXIT_BROKEN_PIPE = 141
LONGEST_MESSAGE = 1000
LM_EVAL = "lm-eval"
EXEC, WARM = "exec", "warm"
DEFAULT_RESULTS = "results/runs"

RUN_EXAMPLES = """examples:
  python -m harness run --strategy lora --task medqa
  python -m harness run --strategy full,lora --task medqa,pubmedqa --seed 0,1,2
  python -m harness run --strategy lora --task medqa --set strategy.r=8 --set train.learning_rate=1e-4
  python -m harness run --study study.yaml --tune 3 --parallel 2
"""
EXIT_CODES = (
    "exit codes: 0 all good, 1 a run failed, 2 asked wrongly, 3 something is not installed, 130 interrupted"
)


class Parser(argparse.ArgumentParser):
    """argparse whose errors name the nearest option or command."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        shown = message if len(message) <= LONGEST_MESSAGE else f"{message[:LONGEST_MESSAGE]}..."
        print(f"error: {shown}{self._hint(shown)}", file=sys.stderr)
        sys.exit(EXIT_USAGE)

    def _hint(self, message: str) -> str:
        if unknown := re.search(r"unrecognized arguments: (\S+)", message):
            word = unknown[1].partition("=")[0]
            if word.startswith("-"):
                return did_you_mean(word, self._option_strings())
            return f" (a list is written with commas and no spaces: --strategy full,{word})"
        if choice := re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message):
            known = [word.strip(" '") for word in choice[2].split(",")]
            return did_you_mean(choice[1], known)
        return ""

    def _option_strings(self) -> list[str]:
        """The options of this parser and of its commands."""
        found = list(self._option_string_actions)
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                for parser in action.choices.values():
                    found += parser._option_string_actions
        return found


def make_parser() -> Parser:
    """The whole command line."""
    parser = Parser(
        prog="python -m harness",
        description="Train, evaluate and compare ways of fine-tuning medical language models.",
        epilog=EXIT_CODES,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"medtune {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_run(commands)
    _add_list(commands)
    _add_show(commands)
    add_report(commands, _add_results)
    add_compare(commands, _add_results)
    add_check(commands, _add_results)
    commands.add_parser(
        LM_EVAL, add_help=False, help="lm-eval's own command line, with our LM as --model medtune"
    )
    execute = commands.add_parser(EXEC, add_help=False)  # the run's own process; no help: not for users
    execute.add_argument("folder", type=Path)
    execute.add_argument("--processes", type=int, default=1)
    warm = commands.add_parser(WARM, add_help=False)  # what warm runs are forked from; not for users
    warm.add_argument("descriptor", type=int)
    return parser


def _add_run(commands: argparse._SubParsersAction[Parser]) -> None:
    run = commands.add_parser(
        "run",
        help="train and evaluate; comma lists make a grid",
        description="Train and evaluate. A run that is already in the results is not run again.",
        epilog=f"{RUN_EXAMPLES}\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    what = run.add_argument_group("what to run (comma lists make a grid)")
    what.add_argument("--strategy", metavar="NAMES", help="see: list strategies")
    what.add_argument("--task", metavar="NAMES", help="see: list tasks")
    what.add_argument(
        "--model",
        metavar="NAMES",
        help="a name (see: list models), a Hub id, a folder, or random:NAME for random weights; default: smollm2-135m",
    )
    what.add_argument("--seed", metavar="NUMBERS", help="default: 0")
    what.add_argument(
        "--study", type=path, metavar="FILE", help="a YAML file with the grid; options given here override it"
    )
    what.add_argument(
        "--tune",
        type=whole_number(1, MOST_TRIALS),
        metavar="N",
        help="try N learning rates for each strategy that trains, chosen on validation only",
    )
    how = run.add_argument_group("how to run it")
    how.add_argument(
        "--data",
        metavar="SOURCE",
        help="auto (the Hub, else the built-in sample; the default), hub, sample, or a folder",
    )
    how.add_argument("--scoring", choices=("letter", "cloze"), help="default: what suits the model")
    how.add_argument(
        "--shots", type=whole_number(0, MOST_ITEMS), metavar="K", help="worked examples in the prompt"
    )
    how.add_argument(
        "--limit", type=whole_number(1, MOST_ITEMS), metavar="N", help="only the first N test items"
    )
    how.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting, such as train.learning_rate=1e-4, strategy.r=8 or model.dtype=float32; repeatable",
    )
    how.add_argument("--engine", metavar="NAME", help="plain or deepspeed; default: the strategy's own")
    how.add_argument("--probe", metavar="NAMES", help="measure more on the finished model; see list probes")
    how.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="FILE",
        help="more strategies, tasks, probes or engines",
    )
    where = run.add_argument_group("where and when")
    where.add_argument(
        "--processes",
        type=whole_number(1, MOST_PROCESSES),
        default=1,
        metavar="N",
        help="one a GPU; default: 1",
    )
    where.add_argument(
        "--parallel",
        type=whole_number(1, MOST_PARALLEL),
        default=1,
        metavar="N",
        help="runs side by side, each with GPUs of its own (on a CPU: a share of its cores); default: 1",
    )
    where.add_argument(
        "--warm",
        action="store_true",
        help="import the libraries once for all runs of a place; each still has a process of its own",
    )
    _add_results(where)
    where.add_argument("--timeout", type=positive_seconds, metavar="SECONDS", help="for each run")
    where.add_argument("--force", action="store_true", help="run again what is already done")
    where.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="go on from the last checkpoint of an unfinished run (default), or start it anew",
    )
    output = run.add_argument_group("output")
    output.add_argument("--dry-run", action="store_true", help="only say what would be run")
    output.add_argument("--log-samples", action="store_true", help="store question texts beside predictions")
    output.add_argument("--quiet", action="store_true", help="results and errors only")
    output.add_argument("--json", action="store_true", help="records as JSON on stdout")


def _add_list(commands: argparse._SubParsersAction[Parser]) -> None:
    listing = commands.add_parser("list", help="what there is", allow_abbrev=False)
    listing.add_argument(
        "what",
        nargs="?",
        metavar="strategies|tasks|models|probes|runs",
        choices=("strategies", "tasks", "models", "probes", "runs"),
        help="default: strategies, tasks and models",
    )
    listing.add_argument("-v", "--verbose", action="store_true", help="with the settings of each strategy")
    listing.add_argument(
        "--plugin", action="append", default=[], metavar="FILE", help="more strategies or tasks"
    )
    _add_results(listing)
    listing.add_argument("--json", action="store_true")


def _add_show(commands: argparse._SubParsersAction[Parser]) -> None:
    show = commands.add_parser("show", help="one run, with the command that repeats it", allow_abbrev=False)
    show.add_argument("run", metavar="RUN", help="a run's name, the start of it, or the hash at its end")
    show.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="FILE",
        help="the run's own plugin, which is not loaded unless it is named here: for a shorter command",
    )
    _add_results(show)
    show.add_argument("--json", action="store_true", help="the record as it is stored")


def _add_results(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--results",
        type=path,
        default=Path(DEFAULT_RESULTS),
        metavar="DIR",
        help=f"default: {DEFAULT_RESULTS}",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. What is no `HarnessError` is a bug and keeps its traceback."""
    words = sys.argv[1:] if argv is None else argv
    # A run's own process writes to its log, and lm-eval's output is lm-eval's.
    if words and words[0] in (EXEC, WARM, LM_EVAL):
        return _run(words)
    with safe_output():
        try:
            return _run(words)
        except Exception:
            if argv is not None:
                raise
            sys.excepthook(*sys.exc_info())
            return EXIT_FAILED


def _run(words: Sequence[str]) -> int:
    try:
        _check_words(words)
        args = _parse(words)
        code = _dispatch(args)
        sys.stdout.flush()
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Python flushes stdout once more on its way out; that must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    return code


def _check_words(words: Sequence[str]) -> None:
    """Raise `UsageError` for a word that no record could hold: bytes that are no UTF-8, or a NUL."""
    for number, word in enumerate(words, start=1):
        if "\0" in word or not _is_utf8(word):
            raise UsageError(f"word {number} of the command is no UTF-8 text, or holds a NUL: {word[:60]!r}")


def _is_utf8(word: str) -> bool:
    try:
        word.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _parse(words: Sequence[str]) -> argparse.Namespace:
    if words and words[0] == LM_EVAL:  # what follows is lm-eval's
        return argparse.Namespace(command=LM_EVAL, words=words[1:])
    return make_parser().parse_args(words)


def _dispatch(args: argparse.Namespace) -> int:
    if args.command == "run":
        from harness.commands.run import run

        return run(args)
    if args.command == "list":
        from harness.commands.list import list_things

        return list_things(args)
    if args.command == "show":
        from harness.commands.show import show

        return show(args)
    if args.command == "report":
        from harness.commands.report import report

        return report(args)
    if args.command == "compare":
        from harness.commands.compare import compare

        return compare(args)
    if args.command == "check":
        from harness.commands.check import check

        return check(args)
    if args.command == LM_EVAL:
        from harness.commands.lm_eval import lm_eval

        return lm_eval(args.words)
    if args.command == WARM:
        from harness.commands.execute import serve_warm

        return serve_warm(args.descriptor)
    from harness.commands.execute import execute

    return execute(args.folder, args.processes)
