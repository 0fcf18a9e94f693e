"""What a run is doing, on stderr: a live line on a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, TextIO, TypeGuard

from harness.io.terminal import make_console
from harness.launch.process import Event

if TYPE_CHECKING:
    from rich.progress import Progress

LINES_A_PHASE = 10
LARGEST = 1e18


class Display(AbstractContextManager["Display"]):
    """Shows nothing but notices, and with `quiet` not even these. Entered once a run."""

    def __init__(self, title: str = "", stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self.title = title
        self.stream = stream or sys.stderr
        self.quiet = quiet

    def __call__(self, event: Event) -> None:
        """Show one event of a run; an unknown one is passed over."""
        kind = event.get("event")
        if kind == "notice" and not self.quiet:
            self.line(f"note: {event.get('text', '')}")
        elif kind == "phase":
            self.phase(str(event.get("name", "")))
        elif kind in ("step", "progress"):
            self.advance(event)

    def line(self, text: str) -> None:
        print(text, file=self.stream, flush=True)

    def phase(self, name: str) -> None:
        """A phase begins."""

    def advance(self, event: Event) -> None:
        """A step of training, or some items of another phase, are done."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class PlainDisplay(Display):
    """A line for each phase, and some within it: for logs and pipes."""

    def __init__(self, title: str = "", stream: TextIO | None = None) -> None:
        super().__init__(title, stream)
        self._next = 0.0

    def __enter__(self) -> PlainDisplay:
        self.line(self.title)
        return self

    def phase(self, name: str) -> None:
        self._next = 0.0
        self.line(f"  {name} ...")

    def advance(self, event: Event) -> None:
        done, of = position(event)
        if not of or done / of < self._next:
            return
        # The first, the last, and one each tenth between.
        self._next = (int(done / of * LINES_A_PHASE) + 1) / LINES_A_PHASE if done < of else 2.0
        details = ", ".join(filter(None, [f"{done}/{of}", *figures(event)]))
        self.line(f"  {event.get('phase', 'train')}: {details}")


class LiveDisplay(Display):
    """One line that changes: phase, bar, loss, speed, memory and time left."""

    def __init__(self, title: str = "", stream: TextIO | None = None) -> None:
        super().__init__(title, stream)
        self._progress = self._make()
        self._task = self._progress.add_task("start", total=None, figures="")

    def _make(self) -> Progress:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

        return Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            console=make_console(self.stream),
            transient=True,
        )

    def __enter__(self) -> LiveDisplay:
        self.line(self.title)
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def line(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def phase(self, name: str) -> None:
        self._progress.update(self._task, description=name, total=None, completed=0, figures="")

    def advance(self, event: Event) -> None:
        done, of = position(event)
        self._progress.update(
            self._task,
            description=str(event.get("phase", "train")),
            total=of or None,
            completed=done,
            figures="  ".join(figures(event)),
        )


def make_display(title: str, *, quiet: bool, as_json: bool, stream: TextIO | None = None) -> Display:
    """The display that fits: none with `quiet` or `as_json`, a live one on a terminal."""
    stream = stream or sys.stderr
    if quiet or as_json:
        return Display(title, stream, quiet=quiet)
    return LiveDisplay(title, stream) if stream.isatty() else PlainDisplay(title, stream)


def position(event: Event) -> tuple[int, int]:
    """How far, and of how much: steps of training, items elsewhere; 0 where an event does not say."""
    done = event.get("step", event.get("done"))
    of = event.get("of")
    return (int(done) if is_figure(done) else 0, int(of) if is_figure(of) else 0)


def is_figure(value: object) -> TypeGuard[int | float]:
    """Whether a value can be shown: a number, neither NaN nor beyond anything that is measured."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < LARGEST


def figures(event: Event) -> list[str]:
    """The measured values of an event, each with its unit."""
    found = []
    for key, form in (("loss", "loss {:.4f}"), ("tokens_per_second", "{:,.0f} tokens/s")):
        value = event.get(key)
        if is_figure(value):
            found.append(form.format(value))
    memory = event.get("memory_bytes")
    if is_figure(memory):
        # Named: host memory must never be read as a GPU's.
        kind = {"gpu": "GPU ", "host": "host "}.get(str(event.get("memory_kind")), "")
        found.append(f"{kind}{memory / 2**30:.2f} GiB")
    left = event.get("seconds_left")
    if is_figure(left):
        found.append(f"{duration(left)} left")
    return found


def duration(seconds: float) -> str:
    """Seconds as a clock: 42 s, 3:05 min, 2:00:09 h."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d} min"
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d} h"
