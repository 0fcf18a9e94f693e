"""What all runs of a grid are doing, on stderr: a live table on a terminal, lines elsewhere, or nothing."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from harness.errors import HarnessError, first_line
from harness.io.terminal import make_console
from harness.launch.process import Event
from harness.launch.progress import Display, PlainDisplay, duration, is_figure, make_display, position
from harness.record import RunRecord
from harness.spec import RunSpec

if TYPE_CHECKING:
    from rich.table import Table

REFRESH_A_SECOND = 4
# Lines that a terminal needs besides the rows: header, rule, closing line, and room for what was above.
OTHER_LINES = 6


class Board(AbstractContextManager["Board"]):
    """Follows the runs of a grid, each by the display that fits one run; says what failed."""

    def __init__(
        self,
        specs: Sequence[RunSpec],
        root: Path,
        *,
        quiet: bool = False,
        as_json: bool = False,
        stream: TextIO | None = None,
    ) -> None:
        self.stream = stream or sys.stderr
        self._root = root
        self._quiet = quiet
        self._as_json = as_json
        self._numbers = {spec.run_id: f"[{i}/{len(specs)}]" for i, spec in enumerate(specs, start=1)}
        self.lock = threading.RLock()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def title(self, spec: RunSpec) -> str:
        return f"{self._numbers[spec.run_id]} {spec.run_id}{_rate(spec)}"

    def follow(self, spec: RunSpec) -> Display:
        """Takes the events of one run, from its start on."""
        return make_display(self.title(spec), quiet=self._quiet, as_json=self._as_json, stream=self.stream)

    def ended(self, spec: RunSpec, record: RunRecord | None, refusal: HarnessError | None) -> None:
        """A run is over: why, where it failed or was refused."""
        with self.lock:
            if refusal is not None and len(self._numbers) > 1:
                self.say(f"error: {spec.run_id}: {refusal}")
            if record is not None and record.status == "failed" and record.failure is not None:
                failure = record.failure
                lines = [
                    f"failed: {record.run_id}: {failure.kind} in {failure.phase}: {first_line(failure.message)}"
                ]
                lines += [failure.remedy] if failure.remedy else []
                lines.append(f"Log: {self._root / record.run_id / 'log.txt'}")
                self.say("\n".join(lines))

    def say(self, text: str) -> None:
        print(text, file=self.stream, flush=True)


class ParallelLines(Board):
    """Lines of several runs at once: each names its run."""

    def follow(self, spec: RunSpec) -> Display:
        return _Lines(self, self._numbers[spec.run_id], spec.run_id)

    def ended(self, spec: RunSpec, record: RunRecord | None, refusal: HarnessError | None) -> None:
        super().ended(spec, record, refusal)
        if record is not None:
            with self.lock:
                self.say(f"{self._numbers[spec.run_id]} {outcome(record)}")


class _Lines(PlainDisplay):
    def __init__(self, board: Board, number: str, run_id: str) -> None:
        super().__init__(run_id, board.stream)
        self._board = board
        self._number = number

    def line(self, text: str) -> None:
        with self._board.lock:
            self._board.say(f"{self._number} {text.strip()}")


@dataclass(slots=True)
class _Row:
    """One line of the live table. `seconds_left` is of the phase it is in."""

    name: str
    state: str = "waiting"
    done: int = 0
    of: int = 0
    loss: float | None = None
    seconds_left: float | None = None
    note: str = ""


class LiveBoard(Board):
    """One table of all runs that changes in place."""

    def __init__(self, specs: Sequence[RunSpec], root: Path, stream: TextIO | None = None) -> None:
        super().__init__(specs, root, stream=stream)
        from rich.live import Live

        unlike = len({_short(spec) for spec in specs}) == len(specs)
        self._rows = {spec.run_id: _Row(_short(spec) if unlike else spec.run_id) for spec in specs}
        self._started = time.monotonic()
        self._console = make_console(self.stream)
        self._live = Live(
            console=self._console, get_renderable=self.table, refresh_per_second=REFRESH_A_SECOND,
            transient=True,
        )  # fmt: skip

    def __enter__(self) -> LiveBoard:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def follow(self, spec: RunSpec) -> Display:
        row = self._rows[spec.run_id]
        with self.lock:
            row.state = "starting"
        return _RowDisplay(self, row)

    def ended(self, spec: RunSpec, record: RunRecord | None, refusal: HarnessError | None) -> None:
        super().ended(spec, record, refusal)
        with self.lock:
            row = self._rows[spec.run_id]
            row.seconds_left = None
            row.state = record.status if record else "refused" if refusal else "stopped"
            row.note = outcome(record) if record else ""

    def say(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)

    def table(self) -> Table:
        """The table as it is now: what runs, what failed, then as much of the rest as there is room for."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        with self.lock:
            rows = list(self._rows.values())
            shown = _fitting(rows, max(3, self._console.height - OTHER_LINES))
            table = Table(box=box.SIMPLE_HEAD, caption=self._caption(rows), caption_justify="left")
            for header in ("run", "state", "step", "loss", "left"):
                right = header in ("step", "loss", "left")
                table.add_column(header, justify="right" if right else "left", no_wrap=True)
            for row in shown:
                step = f"{row.done}/{row.of}" if row.of else ""
                loss = f"{row.loss:.4f}" if row.loss is not None else ""
                left = duration(row.seconds_left) if row.seconds_left is not None else ""
                table.add_row(*map(Text, (row.name, row.note or row.state, step, loss, left)))
        return table

    def _caption(self, rows: Sequence[_Row]) -> str:
        ended = sum(row.state in ("ok", "failed", "interrupted", "refused", "stopped") for row in rows)
        failed = sum(row.state in ("failed", "refused") for row in rows)
        waiting = sum(row.state == "waiting" for row in rows)
        parts = [f"{ended} of {len(rows)} done"] + ([f"{failed} failed"] if failed else [])
        parts.append(f"{len(rows) - ended - waiting} running, {waiting} waiting")
        return f"{', '.join(parts)}; {duration(time.monotonic() - self._started)} so far"


class _RowDisplay(Display):
    """Puts the events of one run into its row."""

    def __init__(self, board: LiveBoard, row: _Row) -> None:
        super().__init__(stream=board.stream)
        self._board = board
        self._row = row

    def line(self, text: str) -> None:
        with self._board.lock:
            self._board.say(f"{self._row.name}: {text}")

    def phase(self, name: str) -> None:
        with self._board.lock:
            self._row.state = name
            self._row.done = self._row.of = 0
            self._row.seconds_left = None

    def advance(self, event: Event) -> None:
        with self._board.lock:
            row = self._row
            row.done, row.of = position(event)
            loss, left = event.get("loss"), event.get("seconds_left")
            row.loss = loss if is_figure(loss) else row.loss
            row.seconds_left = left if is_figure(left) else None


def outcome(record: RunRecord) -> str:
    """How a run ended, in a few words."""
    took = "" if record.cost.total_seconds is None else f" in {duration(record.cost.total_seconds)}"
    if record.failure is not None:
        return f"{record.status}: {record.failure.kind}{took}"
    accuracy = record.scores.get("accuracy")
    return f"done{took}" + (f", accuracy {accuracy.value * 100:.1f}%" if accuracy else "")


def _short(spec: RunSpec) -> str:
    return f"{spec.run_id.rpartition('-')[0]}{_rate(spec)}"


def _rate(spec: RunSpec) -> str:
    """What tells the trials of a tuning apart."""
    rate = spec.train.learning_rate
    return f" lr {rate:g}" if spec.task.split != "test" and rate is not None else ""


def _fitting(rows: Sequence[_Row], room: int) -> list[_Row]:
    """At most `room` rows, in their order: running ones first, then failed, waiting, and done."""
    rank = {"failed": 1, "refused": 1, "waiting": 2, "ok": 3}
    chosen = sorted(range(len(rows)), key=lambda i: rank.get(rows[i].state, 0))[:room]
    return [rows[i] for i in sorted(chosen)]


def make_board(
    specs: Sequence[RunSpec],
    root: Path,
    *,
    quiet: bool,
    as_json: bool,
    parallel: int,
    stream: TextIO | None = None,
) -> Board:
    """The board that fits: a live table for several runs on a terminal, lines or nothing elsewhere."""
    stream = stream or sys.stderr
    if quiet or as_json or len(specs) == 1:
        return Board(specs, root, quiet=quiet, as_json=as_json, stream=stream)
    if stream.isatty():
        return LiveBoard(specs, root, stream)
    return (ParallelLines if parallel > 1 else Board)(specs, root, stream=stream)
