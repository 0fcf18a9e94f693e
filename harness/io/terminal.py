"""The one place where text leaves the program: what a terminal would obey is written out.

Names, titles and messages come from records, data and folders that anybody may have written. An escape
sequence in one could clear the screen, retitle the window or hide what stands in a line. Colours are
ours alone: they are added behind the place where text is made harmless.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.segment import Segment

# Controls (C0 but tab and line end, DEL, C1), marks and overrides of direction, separators of lines and
# paragraphs, halves of characters. A carriage return before a line end is one line end.
OBEYED = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]|\r(?!\n)"
)


def harmless(text: str) -> str:
    """`text` with what a terminal would obey written as \\x1b; lines stay lines."""
    return OBEYED.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


class SafeStream:
    """A text stream that writes what is harmless, and what its encoding lacks as an escape."""

    def __init__(self, stream: TextIO, *, raw: bool = False) -> None:
        self.stream = stream
        self._raw = raw

    def write(self, text: str) -> int:
        shown = text if self._raw else harmless(text)
        try:
            self.stream.write(shown)
        except UnicodeEncodeError:
            encoding = self.stream.encoding or "ascii"
            self.stream.write(shown.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def safe_output() -> Iterator[None]:
    """Make standard output and standard error safe; a bug's traceback, too, where it ends the program."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_safe(stream) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def _safe(stream: Any) -> Any:
    return stream if stream is None or isinstance(stream, SafeStream) else SafeStream(stream)


def make_console(stream: TextIO | None = None, width: int | None = None, **options: Any) -> Console:
    """A console that shows text as it is but harmless, and leaves a broken pipe to the caller."""
    from rich.console import Console
    from rich.segment import Segment

    class Output(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

        def _render_buffer(self, buffer: Iterable[Segment]) -> str:
            """Here text meets the codes of colours and of the cursor, which are not text."""
            safe = (
                part if part.control else Segment(harmless(part.text), part.style, part.control)
                for part in buffer
            )
            return super()._render_buffer(safe)

    stream = stream or sys.stdout
    inner = stream.stream if isinstance(stream, SafeStream) else stream
    return Output(
        file=SafeStream(inner, raw=True),  # type: ignore[arg-type]
        width=width,
        highlight=False,
        markup=False,
        emoji=False,
        **options,
    )
