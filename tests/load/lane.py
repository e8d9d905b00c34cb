"""One connection of the application, with one unit in flight, on a socket that never blocks."""

from __future__ import annotations

import socket
from enum import Enum, auto
from selectors import EVENT_READ, EVENT_WRITE, BaseSelector
from time import monotonic_ns, time_ns
from typing import Final

from hiredis import Reader, ReplyError

from tests.load.author import Author
from tests.load.environment import Target
from tests.load.journal import Command, Reply, expand, pack
from tests.load.units import Unit

_CONNECT_SECONDS: Final = 0.25
_RECEIVE_BYTES: Final = 1 << 18


class State(Enum):
    """Whether a unit can be sent."""

    CLOSED = auto()
    GREETING = auto()
    """AUTH, SELECT and the like are not answered yet."""
    IDLE = auto()
    BUSY = auto()


class ConnectionLost(Exception):
    """The server is gone, or has closed the connection."""


class Lane:
    """A connection and the author whose units it sends; the caller waits for its socket."""

    def __init__(self, author: Author, database: int, name: str, selector: BaseSelector) -> None:
        self.author = author
        self.state = State.CLOSED
        self.target: Target | None = None
        self.unit: Unit | None = None
        """The one in flight, or, while a database is selected, the next one."""
        self.number = 0
        self.sent = (0, 0)
        self.replies: list[Reply] = []
        self.not_before_ns = 0
        """Until when nothing is tried, after a refusal."""
        self._database = self._home = database
        self._name = name
        self._selector = selector
        self._socket = socket.socket()
        self._reader = Reader()
        self._expected = 0
        self._out = memoryview(b"")

    def open(self, target: Target) -> None:
        """Connect and say who we are.

        :raises ConnectionLost: nobody listens.
        """
        self.close()
        try:
            self._socket = socket.create_connection((target.host, target.port), _CONNECT_SECONDS)
        except OSError as error:
            raise ConnectionLost(str(error)) from error
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setblocking(False)
        self._selector.register(self._socket, EVENT_READ, self)
        self._reader = Reader()
        self.target = target
        self.unit = None
        self._database = self._home
        self._greet(greeting(target, self._home, self._name))

    def close(self) -> None:
        """Leave; what is in flight stays unanswered."""
        if self.state is not State.CLOSED:
            self._selector.unregister(self._socket)
            self._socket.close()
            self.state = State.CLOSED
            self._out = memoryview(b"")

    def select(self, unit: Unit) -> bool:
        """Whether the unit's database is the present one; if not, it is asked for and the unit is kept.

        :raises ConnectionLost: the server has closed the connection.
        """
        if unit.database == self._database:
            return True
        self.unit = unit
        self._database = unit.database
        self._greet([(b"SELECT", b"%d" % unit.database)])
        return False

    def send(self, unit: Unit, packed: bytes) -> None:
        """Send a unit whose intent is in the log.

        :raises ConnectionLost: the server has closed the connection; how much it has read is not known.
        """
        self.unit = unit
        self.state = State.BUSY
        self.sent = monotonic_ns(), time_ns()
        self._send(packed, len(unit.commands))

    def ready(self, events: int) -> bool:
        """Go on after the selector; whether a unit has been answered, by :attr:`replies`.

        :raises ConnectionLost: the server has closed the connection, or refuses to speak to us.
        """
        if events & EVENT_WRITE:
            self._flush()
        if not events & EVENT_READ:
            return False
        try:
            data = self._socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return False
        except OSError as error:
            raise ConnectionLost(str(error)) from error
        if not data:
            raise ConnectionLost("closed by the server")
        self._reader.feed(data)
        if self.state is State.IDLE:
            raise ConnectionLost("the server says what it was not asked")
        while len(self.replies) < self._expected and (reply := self._reader.gets()) is not False:
            self.replies.append(reply)
        if len(self.replies) < self._expected:
            return False
        answered = self.state is State.BUSY
        if not answered and isinstance(self.replies[-1], ReplyError):
            # Without the SELECT, a write would go to another database.
            raise ConnectionLost(str(self.replies[-1]))
        self.state = State.IDLE
        return answered

    def _greet(self, commands: list[Command]) -> None:
        self.state = State.GREETING
        self._send(pack(tuple(commands)), len(commands))

    def _send(self, data: bytes, replies: int) -> None:
        self.replies = []
        self._expected = replies
        self._out = memoryview(data)
        self._flush()

    def _flush(self) -> None:
        waited = EVENT_READ
        try:
            self._out = self._out[self._socket.send(self._out) :]
        except BlockingIOError:
            pass
        except OSError as error:
            raise ConnectionLost(str(error)) from error
        if self._out:
            waited |= EVENT_WRITE
        if self._selector.get_key(self._socket).events != waited:
            self._selector.modify(self._socket, waited, self)


def greeting(target: Target, database: int, name: str) -> list[Command]:
    """What a new connection says before it writes."""
    naming: Command = (b"CLIENT", b"SETNAME", name.encode())
    return [*authentication(target), naming, (b"SELECT", b"%d" % database)]


def authentication(target: Target) -> list[Command]:
    """AUTH, where there is a password."""
    if not target.password:
        return []
    user = (target.user.encode(),) if target.user else ()
    return [(b"AUTH", *user, target.password.encode())]


def wire(unit: Unit, packed: bytes) -> bytes:
    """The bytes to send for a unit, which the log may have in short form."""
    if b"\x00big:" not in packed:
        return packed
    return pack(tuple(tuple(map(expand, command)) for command in unit.commands))
