"""Whether odd input ever ends in anything but one error: a traceback, a hang, or orders to the terminal.

    python benchmarks/fuzz.py                        100,000 inputs, a few minutes
    python benchmarks/fuzz.py --inputs 2000 --kinds study,settings
    python benchmarks/fuzz.py --again "study 17"     one input again, with its traceback

Valid command lines, studies, plugins, data, results, baselines, events, locks and cache files are changed by
their structure, or by their bytes, and handed to the program in this process. Each must end with an exit code
of its own or with an error that it raises for its user. Inputs are made from --seed alone. Prints how many
ended how, and lists what was not caught, one of a kind; exit code 1 where there is any.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from fuzz_kinds import Bench, Kind  # noqa: E402

from harness.errors import HarnessError  # noqa: E402
from harness.io.terminal import OBEYED, safe_output  # noqa: E402

CODES = (0, 1, 2, 3, 4, 130)
LONGEST_SECONDS = 5
SHOWN = 600


class Hang(BaseException):
    """An input that takes longer than any may."""


@dataclass
class Tally:
    """Endings by kind, and what was not caught: the first input of each place it came from."""

    endings: dict[str, Counter[str]] = field(default_factory=dict)
    uncaught: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    times: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, kind: str, number: int, ending: str, made: Any) -> None:
        self.endings.setdefault(kind, Counter())[ending.partition(":")[0]] += 1
        if ending.startswith("uncaught"):
            self.times[kind, ending] += 1
            self.uncaught.setdefault((kind, ending), (f"{kind} {number}", repr(made)[:SHOWN]))


def ending_of(kind: Kind, made: Any) -> str:
    """How the program ends with this input."""
    output = io.StringIO()
    signal.alarm(LONGEST_SECONDS)
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output), safe_output():
            code = kind.use(made)
    except HarnessError as error:
        return _checked(f"error, exit code {error.exit_code}", output.getvalue(), error.exit_code)
    except SystemExit as error:
        return _checked(f"exit code {error.code}", output.getvalue(), error.code)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return f"uncaught: {_where(error)}"
    finally:
        signal.alarm(0)
    return _checked(f"exit code {code}", output.getvalue(), code)


def _checked(ending: str, output: str, code: object) -> str:
    if code not in CODES:
        return f"uncaught: exit code {code!r}"
    if found := OBEYED.search(output):
        return f"uncaught: {found[0]!r} reached the output"
    return "uncaught: a traceback" if "Traceback (most recent" in output else ending


def _where(error: BaseException) -> str:
    """The exception and the last place of ours that it came through."""
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if f"{os.sep}harness{os.sep}" in f.filename
    ]
    frames = frames or traceback.extract_tb(error.__traceback__)
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
    return f"{type(error).__name__} in {place}: {str(error).partition(chr(10))[0][:100]!r}"


def _hang(number: int, frame: FrameType | None) -> None:
    raise Hang


@contextlib.contextmanager
def bench() -> Iterator[Bench]:
    """A folder of valid inputs to start from, and nothing of this machine or its network in reach."""

    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"HF_HUB_OFFLINE": "1", "MEDTUNE_CACHE": str(Path(folder) / "cache"), "HF_HOME": folder}
        os.environ.pop("GITHUB_STEP_SUMMARY", None)
        os.chdir(folder)
        try:
            yield Bench(Path(folder))
        finally:
            os.chdir(before)


def input_of(kind: Kind, name: str, seed: int, number: int) -> Any:
    return kind.make(random.Random(f"{seed}:{name}:{number}"))


def fuzz(inputs: int, seed: int, names: list[str] | None = None) -> Tally:
    """Try `inputs` inputs, of each kind its share."""
    tally = Tally()
    signal.signal(signal.SIGALRM, _hang)
    warnings.simplefilter("ignore")
    with bench() as made:
        kinds = {name: kind for name, kind in made.kinds().items() if names is None or name in names}
        whole = sum(kind.share for kind in kinds.values())
        for name, kind in kinds.items():
            started = time.monotonic()
            count = max(1, round(inputs * kind.share / whole))
            for number in range(count):
                value = input_of(kind, name, seed, number)
                tally.add(name, number, ending_of(kind, value), value)
            endings = tally.endings[name]
            told = ", ".join(f"{ending} {times:,}" for ending, times in sorted(endings.items()))
            print(f"{name}: {count:,} inputs in {time.monotonic() - started:.0f} s: {told}", flush=True)
    return tally


def show(tally: Tally) -> None:
    total = sum(endings.total() for endings in tally.endings.values())
    found = sum(tally.times.values())
    print(f"{total:,} inputs, {found:,} uncaught of {len(tally.uncaught)} kinds")
    for (kind, ending), (number, made) in tally.uncaught.items():
        print(f"\n{tally.times[kind, ending]} x {ending}\n  --again {number!r}: {made}")


def again(which: str, seed: int) -> None:
    """One input again, whatever it raises shown."""
    name, _, number = which.rpartition(" ")
    with bench() as made:
        kind = made.kinds()[name]
        value = input_of(kind, name, seed, int(number))
        print(repr(value)[:5000])
        print(kind.use(value))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", help="a comma list; default: all")
    parser.add_argument("--again", metavar="KIND NUMBER")
    args = parser.parse_args()
    if args.again:
        again(args.again, args.seed)
        return 0
    tally = fuzz(args.inputs, args.seed, args.kinds.split(",") if args.kinds else None)
    show(tally)
    return 1 if tally.uncaught else 0


if __name__ == "__main__":
    sys.exit(main())
