"""JSON messages between two processes, one a line: macOS has no socket that keeps messages apart itself."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from typing import Any

_BYTES = 65_536


class Channel:
    """One end of a Unix stream socket. One message that hands over a descriptor is under way at a time."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._unread = b""
        self._descriptors: list[int] = []

    def send(self, message: Mapping[str, Any], *descriptors: int) -> None:
        """Waits until all is sent. Raises `ConnectionError` where the other side is gone."""
        self._end.setblocking(True)
        line = json.dumps(message).encode() + b"\n"
        sent = socket.send_fds(self._end, [line], descriptors) if descriptors else 0
        self._end.sendall(line[sent:])

    def receive(self, *, wait: bool = True) -> tuple[dict[str, Any], list[int]] | None:
        """The next message and the descriptors handed over with it; `None` once the other side is gone.

        Raises `BlockingIOError` without `wait` while there is no whole message.
        """
        self._end.setblocking(wait)
        while b"\n" not in self._unread:
            try:
                part, descriptors, _, _ = socket.recv_fds(self._end, _BYTES, 1)
            except ConnectionResetError:
                return None
            if not part:
                return None
            self._unread += part
            self._descriptors += descriptors
        line, _, self._unread = self._unread.partition(b"\n")
        handed, self._descriptors = self._descriptors, []
        return json.loads(line), handed

    def close(self) -> None:
        self._end.close()
