"""Messages of a warm process over a stream socket, which keeps none of them apart."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from harness.io.channel import Channel


@pytest.fixture
def ends() -> Iterator[tuple[Channel, socket.socket]]:
    """A channel, and the plain socket at its other end."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        yield Channel(ours), theirs


def test_messages_are_told_apart_however_they_arrive(ends: tuple[Channel, socket.socket]) -> None:
    channel, other = ends
    with pytest.raises(BlockingIOError):
        channel.receive(wait=False)
    other.sendall(b'{"pid": 1')
    with pytest.raises(BlockingIOError):
        channel.receive(wait=False)
    other.sendall(b'2}\n{"code": 0}\n')
    assert channel.receive(wait=False) == ({"pid": 12}, [])
    assert channel.receive() == ({"code": 0}, [])
    other.close()
    assert channel.receive() is None
    with pytest.raises(ConnectionError):
        channel.send({"code": 1})


def test_a_long_message_and_a_descriptor_arrive_whole(ends: tuple[Channel, socket.socket]) -> None:
    channel, other = ends
    reading, writing = os.pipe()
    message = {"folder": "line\nbreak é" * 100_000}
    sender = threading.Thread(target=Channel(other).send, args=(message, writing))
    sender.start()
    received = channel.receive()
    sender.join()
    os.close(writing)
    assert received is not None
    told, (handed,) = received
    assert told == message
    os.write(handed, b"x")
    assert os.read(reading, 1) == b"x"
    for descriptor in (reading, handed):
        os.close(descriptor)
