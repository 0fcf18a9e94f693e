"""What a run tells its launcher: JSON lines appended to events.jsonl in the run's folder."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from harness.escape import masked


class Events:
    """Appends events; silent in every process but the first of a distributed run."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._last_progress = 0.0
        self.notices: list[str] = []
        """What the user was told, for the record."""

    def emit(self, event: str, **fields: Any) -> None:
        if self._path is None:
            return
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"event": event, "time": time.time(), **fields}) + "\n")

    def phase(self, name: str) -> None:
        self._last_progress = 0.0
        self.emit("phase", name=name)

    def notice(self, text: str) -> None:
        self.notices.append(masked(text))
        self.emit("notice", text=masked(text))

    def progress(self, *, final: bool = False, **fields: Any) -> None:
        """A `progress` event, at most five a second so that fast work does not fill the file."""
        now = time.monotonic()
        if final or now - self._last_progress >= 0.2:
            self._last_progress = now
            self.emit("progress", **fields)
