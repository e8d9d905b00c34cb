"""Reading a server's table of commands: what no server at hand says."""

from __future__ import annotations

import socket
from collections.abc import Callable
from threading import Thread

import pytest

from integrity.endpoint import Endpoint
from integrity.errors import ProtocolError
from integrity.settings import EndpointSettings
from integrity.sync.key_positions import Effect, KeyTable, Picked, Rule

Entry = tuple[str, str, int, int, int]
"""Name, flags, first key, last key, step."""


def table(*entries: Entry) -> bytes:
    """A reply to COMMAND."""
    out = b"*%d\r\n" % len(entries)
    for name, flags, first, last, step in entries:
        words = flags.split()
        out += b"*7\r\n+%b\r\n:-2\r\n*%d\r\n" % (name.encode(), len(words))
        out += b"".join(b"+%b\r\n" % word.encode() for word in words)
        out += b":%d\r\n:%d\r\n:%d\r\n*0\r\n" % (first, last, step)
    return out


def ask(reply: bytes) -> KeyTable:
    """What is understood of that reply."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            client, _ = listener.accept()
            with client:
                for answer in (b"+OK\r\n", reply):
                    client.recv(65_536)
                    client.sendall(answer)
                client.recv(1)

        thread = Thread(target=serve)
        thread.start()
        url = f"redis://127.0.0.1:{listener.getsockname()[1]}"
        try:
            server = Endpoint.from_settings("source", EndpointSettings.model_validate({"url": url}))
            with server.connect("test") as connection:
                return KeyTable.ask(connection)
        finally:
            thread.join()


def is_picked(rule: Rule) -> bool:
    return isinstance(rule, Picked)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (("new.read", "readonly fast", 1, 1, 1), lambda rule: rule is Effect.NOTHING),
        (("new.one", "write", 1, 1, 1), lambda rule: rule is Effect.FIRST),
        (("new.many", "write", 1, -1, 2), is_picked),
        (("new.neither", "fast", 1, 1, 1), lambda rule: rule is Effect.FIRST),
        (("new.keyless", "write", 0, 0, 0), lambda rule: rule is Effect.UNKNOWN),
        (("new.neither.keyless", "fast", 0, 0, 0), lambda rule: rule is Effect.UNKNOWN),
        (("new.counted", "write", 3, 3, 1), lambda rule: rule is Effect.UNKNOWN),
        (("new.moving", "write movablekeys", 1, 1, 1), lambda rule: rule is Effect.UNKNOWN),
        (("acl new", "noscript", 0, 0, 0), lambda rule: rule is Effect.NOTHING),
        (("zunionstore", "write", 3, 3, 1), lambda rule: rule is Effect.FIRST),
        (("getex", "readonly", 1, 1, 1), lambda rule: rule is Effect.FIRST),
    ],
)
def test_what_a_command_may_change_follows_from_its_entry(
    entry: Entry, expected: Callable[[Rule], bool]
) -> None:
    assert expected(ask(table(entry))[entry[0].encode()])


@pytest.mark.parametrize("reply", [b"*0\r\n", b"+OK\r\n", b"*1\r\n*1\r\n+get\r\n", b"*1\r\n:1\r\n"])
def test_a_table_that_is_not_understood_is_refused(reply: bytes) -> None:
    with pytest.raises(ProtocolError):
        ask(reply)
