"""The stream of a master, however it is cut into packets."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest

from integrity.replication.receive import exactly, until_mark
from integrity.replication.socket_reader import SocketClosed, SocketReader, SocketSilent

MARK = b"0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, SocketReader]]:
    """The server's end, and a reader of the other."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with theirs, SocketReader(ours, 0.2) as reader:
        yield theirs, reader


def in_parts(data: bytes, *cuts: int) -> Callable[[], bytes]:
    places = [0, *cuts, len(data)]
    parts = [data[start:end] for start, end in pairwise(places)]
    return iter([part for part in parts if part]).__next__


@pytest.mark.parametrize("first", [0, 1, 39, 40, 41, 100])
@pytest.mark.parametrize("second", [100, 103, 104, 105, 120, 143, 144])
def test_the_mark_ends_the_stream_wherever_it_is_cut(first: int, second: int) -> None:
    content = b"REDIS" + MARK[:39] + b"x" * 39 + MARK[:20] + b"y"
    assert len(content) == 104

    parts = list(until_mark(in_parts(content + MARK + b"PING", first, second), MARK))

    assert b"".join(parts) == content


def test_the_mark_is_found_a_byte_at_a_time() -> None:
    content = bytes(range(256)) + MARK[:39]
    data = content + MARK

    assert b"".join(until_mark(in_parts(data, *range(1, len(data))), MARK)) == content


def test_an_empty_stream_is_empty() -> None:
    assert b"".join(until_mark(in_parts(MARK), MARK)) == b""
    assert b"".join(exactly(in_parts(b""), 0)) == b""


def test_a_length_ends_the_stream_before_the_commands(pair: tuple[socket.socket, SocketReader]) -> None:
    server, reader = pair
    server.sendall(b"\n\n+FULLRESYNC id 7\r\n\n\n$5\r\nabcde*1\r\n$4\r\nPING\r\n")

    assert reader.line() == b"+FULLRESYNC id 7"
    assert reader.line() == b"$5"
    assert b"".join(exactly(reader.some, 5)) == b"abcde"


def test_a_link_that_ends_and_one_that_falls_silent_are_told_apart(
    pair: tuple[socket.socket, SocketReader],
) -> None:
    server, reader = pair
    server.sendall(b"\nabc")

    with pytest.raises(SocketSilent):
        reader.line()
    server.close()
    with pytest.raises(SocketClosed):
        reader.line()


def test_whoever_waits_is_called_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("integrity.replication.socket_reader._LOOK_SECONDS", 0.05)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    calls: list[None] = []
    with theirs, SocketReader(ours, 0.3, lambda: calls.append(None)) as reader, pytest.raises(SocketSilent):
        reader.some()

    assert len(calls) >= 3
