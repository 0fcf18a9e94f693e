"""`report`: all runs of a results folder as one comparison, in six formats."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.ask.axes import split_list
from harness.ask.repeat import repeat_command
from harness.errors import EXIT_OK, StoreError, UsageError
from harness.io.files import write_text_atomic
from harness.record import RunRecord
from harness.registry import Registry, load_registry
from harness.report.build import build_report
from harness.report.model import Report
from harness.report.options import Options
from harness.store.runs import Store

SUFFIXES = {
    ".txt": "text", ".md": "markdown", ".html": "html", ".htm": "html", ".csv": "csv", ".tex": "latex", ".json": "json",
}  # fmt: skip


def report(args: argparse.Namespace) -> int:
    """Write the report to --out, or to standard output."""
    chosen = args.format or (SUFFIXES.get(args.out.suffix.lower()) if args.out else None) or "text"
    if not 0 < args.margin < 100:
        raise UsageError(f"--margin {args.margin:g}: expected points between 0 and 100, such as 2")
    if args.out:
        _check_out(args.out)
    registry = load_registry(with_installed=False)
    options = Options(
        command=lambda records: command_of(records, registry),
        reference=args.reference,
        margin=args.margin / 100,
        assumed_seed_sd=args.assume_seed_sd,
        all_pairs=args.all_pairs,
        verdicts=args.verdicts,
        confidences=chosen == "html",
    )
    store = Store(args.results)
    built = build_report(store, options, tasks=split_list(args.task), models=split_list(args.model))
    for warning in built.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    text = render(built, chosen, store, to_terminal=args.out is None)
    if args.out is None:
        sys.stdout.write(text)
        return EXIT_OK
    _write(args.out, text)
    print(f"{args.out}: {built.runs} runs, {len(text.encode()) / 2**20:.2f} MiB", file=sys.stderr)
    return EXIT_OK


def render(built: Report, chosen: str, store: Store, *, to_terminal: bool = False) -> str:
    """The report in one format; only the HTML reads more of the runs than `built` holds."""
    if chosen == "html":
        from harness.report.as_html import as_html

        return as_html(built, store)
    if chosen == "markdown":
        from harness.report.as_markdown import as_markdown

        return as_markdown(built)
    if chosen == "latex":
        from harness.report.as_latex import as_latex

        return as_latex(built)
    if chosen == "csv":
        from harness.report.as_csv import as_csv

        return as_csv(built)
    if chosen == "json":
        from harness.report.as_json import as_json

        return as_json(built)
    from harness.report.as_text import FILE_WIDTH, as_text

    width = shutil.get_terminal_size((FILE_WIDTH, 24)).columns if to_terminal else FILE_WIDTH
    return as_text(built, width)


def command_of(records: Sequence[RunRecord], registry: Registry) -> str:
    """The command that repeats a group, all its seeds in one. Plugin files are named and not loaded."""
    first = records[0].spec
    strategy = None if first.plugins else registry.strategies.get(first.strategy.name)
    return repeat_command(first, strategy, [record.spec.seed for record in records])


def _check_out(path: Path) -> None:
    """Before the work: where the report goes must be there."""
    if path.is_dir():
        raise StoreError(f"cannot write {path}: it is a folder", f"Give a file: --out {path / 'report.html'}")
    if not path.parent.is_dir():
        raise StoreError(
            f"cannot write {path}: there is no folder {path.parent}", f"Make it first: mkdir -p {path.parent}"
        )


def _write(path: Path, text: str) -> None:
    try:
        if path.exists() and not path.is_file():  # a pipe or /dev/stdout: nothing to rename over
            path.write_text(text, encoding="utf-8")
        else:
            write_text_atomic(path, text)
    except (OSError, StoreError) as error:
        reason = error.message if isinstance(error, StoreError) else f"cannot write {path}: {error.strerror}"
        raise StoreError(reason, "Give another place: --out FILE") from error
