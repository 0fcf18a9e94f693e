"""What a user can act on. Anything that is not one of these is a bug and keeps its traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from harness.escape import masked

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_MISSING = 3
EXIT_UNDECIDED = 4
"""A check that cannot tell: not 2, so that what tolerates it does not tolerate a typing error."""
EXIT_INTERRUPTED = 130

LONGEST_NAME = 100
"""Characters of a name that are shown in an error; none that is known is as long."""

LONGEST_LINE = 300
"""Characters of a library's message that are shown; all of it is in the run's log."""


class HarnessError(Exception):
    """An error with a remedy: printed without a traceback, and the process ends with `exit_code`."""

    exit_code = EXIT_FAILED

    def __init__(self, message: str, remedy: str = "") -> None:
        # An address may hold a password, and messages of libraries hold addresses.
        message, remedy = masked(message), masked(remedy)
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n{self.remedy}" if self.remedy else self.message


class UsageError(HarnessError):
    """Asked wrongly: an unknown name, a bad setting, broken input."""

    exit_code = EXIT_USAGE


class DataError(UsageError):
    """Input data that cannot be used. Says the file, the line and what to do."""


class StoreError(UsageError):
    """The results folder cannot be read or written as asked."""


class MissingDependencyError(HarnessError):
    """Something that this run needs is not installed."""

    exit_code = EXIT_MISSING


class NonFiniteLossError(HarnessError):
    """The loss became NaN or infinite; the message names the step."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` when a known name is close to `name`, else an empty string."""
    if len(name) > LONGEST_NAME:
        return ""
    lowered = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), list(lowered), n=1, cutoff=0.6)
    return f"; did you mean '{lowered[close[0]]}'?" if close else ""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """One line for a name that is not known: what it was, the nearest, and all that exist."""
    names = sorted(known)
    shown = name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}..."
    return f"unknown {kind} '{shown}'{did_you_mean(name, names)} (known: {', '.join(names)})"


def all_at_once(problems: Sequence[str], remedy: str = "") -> None:
    """Raise one `UsageError` that lists every problem; do nothing when there is none."""
    if not problems:
        return
    if len(problems) == 1:
        raise UsageError(problems[0], remedy)
    lines = "\n".join(f"  - {problem}" for problem in problems)
    raise UsageError(f"{len(problems)} problems:\n{lines}", remedy)


def error_line(error: BaseException) -> str:
    """An error of a library in one line: its kind, and the first line of its text that says something.

    The rest (a compiler's output, a stack of C++) is for the log.
    """
    kind, said = type(error).__name__, first_line(str(error))
    return shortened(f"{kind}: {said}" if said else kind)


def first_line(text: str) -> str:
    """The first line of `text` that says something, cut between words where it is very long."""
    return shortened(next((line.strip() for line in text.splitlines() if line.strip(" -=*#!")), ""))


def shortened(line: str) -> str:
    """`line`, cut between words where it has more than `LONGEST_LINE` characters."""
    return line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE].rsplit(' ', 1)[0]} ..."
