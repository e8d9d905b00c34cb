"""The thread that reads MONITOR.  It waits for nothing but its socket: a slow reader's lines pile up on the server.

Nobody else touches the socket, which is what TLS asks for; a byte in a pipe tells the thread to end.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
from threading import Thread
from time import monotonic
from typing import Final

from integrity.sync.blocked_moves import BlockedMoves, EarlyWaiters, TooManyMoves
from integrity.sync.key_positions import Effect, KeyTable
from integrity.sync.monitor_line import MalformedLine, arguments, beginning, cut, unescape
from integrity.sync.sightings import Sightings

_RECEIVE_BYTES: Final = 256 * 1024
_IN_A_ROW: Final = 64
"""Reads between two looks at the pipe."""
_LONGEST: Final = 32 * 1024 * 1024
"""Bytes of a line that are kept; of a longer one only the beginning is understood."""


class MonitorReader(Thread):
    """Reads lines until the socket ends or :meth:`stop` is called, and notes what they name.

    :param socket: not blocking; belongs to this thread once it is started, and is closed by it.
    :param received: what came after MONITOR's own reply.
    :param marker: how the argument of our own ECHO begins; a number follows.
    """

    def __init__(
        self,
        socket: socket.socket,
        received: bytes,
        table: KeyTable,
        marker: bytes,
        sightings: Sightings,
        early: EarlyWaiters,
    ) -> None:
        super().__init__(name="greenfly-monitor", daemon=True)
        self._socket = socket
        self._received = received
        self._table = table
        self._marker = marker
        self._sightings = sightings
        self._early = early
        self._moves = BlockedMoves()
        self._parts: list[bytes] = []
        """Of a line that has not ended."""
        self._held = 0
        self._skipping = False
        """Whether the rest of a line that is too long is passed over."""
        self._woken, self._wake = os.pipe()
        self._stopped = False
        self.received_at = monotonic()
        """When the latest bytes came."""

    def stop(self) -> None:
        """Make the thread end, and wait until it has; once is enough."""
        if self._stopped:
            return
        self._stopped = True
        os.write(self._wake, b"x")
        self.join()
        os.close(self._wake)
        os.close(self._woken)

    # -- the thread -----------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Read until the end."""
        try:
            self._take_in(self._received)
            self._sightings.lose(self._read())
        except MalformedLine:
            self._sightings.lose("A line of MONITOR is not understood.")
        except TooManyMoves:
            self._sightings.lose("Too many clients wait with BLMOVE or BRPOPLPUSH.")
        except OSError as error:
            self._sightings.lose(f"The connection broke ({error.strerror or error}).")
        finally:
            # A mistake of ours must not pass for silence.
            self._sightings.lose("The reader ended.")
            self._socket.close()

    def _read(self) -> str:
        """Read on; returns why it ended."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        buffer = bytearray(_RECEIVE_BYTES)
        view = memoryview(buffer)
        more = False
        while True:
            # What TLS has decrypted already does not make its socket readable.
            if any(number == self._woken for number, _ in poll.poll(0 if more else None)):
                return "The feed was closed."
            more = True
            for _ in range(_IN_A_ROW):
                try:
                    count = self._socket.recv_into(buffer)
                except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                    more = False
                    break
                if not count:
                    return "The server closed the connection."
                self.received_at = monotonic()
                self._take_in(bytes(view[:count]))

    def _take_in(self, data: bytes) -> None:
        """Understand the lines that have ended, and keep the rest."""
        if self._skipping:
            end = data.find(b"\n")
            if end < 0:
                return
            data, self._skipping = data[end + 1 :], False
        end = data.rfind(b"\n") + 1
        if end:
            self._understand(b"".join([*self._parts, data[:end]]))
            self._parts, self._held = [], 0
        if end < len(data):
            self._parts.append(data[end:])
            self._held += len(data) - end
            if self._held > _LONGEST:
                self._understand_beginning(b"".join(self._parts))
                self._parts, self._held, self._skipping = [], 0, True

    def _understand(self, block: bytes) -> None:
        """Note what whole lines name."""
        firsts: dict[bytes, None] = {}
        names: dict[bytes, None] = {}
        everything: str | None = None
        marker: int | None = None
        table = self._table
        lines = cut(block)
        for _, command, tail, first in lines:
            rule = table[command]
            if rule is Effect.FIRST:
                firsts[first] = None
            elif rule is Effect.NOTHING:
                pass
            elif rule is Effect.ECHO:
                marker = self._number_of(first) or marker
            elif rule is Effect.WAITS_TO_MOVE:
                moved = [unescape(argument) for argument in arguments(tail)]
                self._moves.note(moved[0], moved[1], moved[-1])
                names |= dict.fromkeys(moved[:2])
            elif isinstance(rule, Effect):
                everything = everything or _why(command, rule)
            else:
                names |= dict.fromkeys(map(unescape, rule.pick(arguments(tail, rule.most))))
        # Asked of the whole block first: most keys and many values are plain text.
        names |= dict.fromkeys(map(unescape, firsts)) if b"\\" in block else firsts
        names |= dict.fromkeys(self._moves.also_changed(names))
        if self._early:
            everything = everything or self._early.heard(client for client, *_ in lines)
        if names or everything or marker:
            self._sightings.add(names, everything, marker)

    def _understand_beginning(self, part: bytes) -> None:
        """Note what a line names that is too long to be kept."""
        found = beginning(part)
        if found is None:
            raise MalformedLine
        _, command, first = found
        rule = self._table[command]
        if rule is Effect.FIRST:
            names = {unescape(first): None}
            self._sightings.add(names | dict.fromkeys(self._moves.also_changed(names)))
        elif rule is not Effect.NOTHING and rule is not Effect.ECHO:
            self._sightings.add({}, f"{_shown(command)} was run with more arguments than can be looked at.")

    def _number_of(self, text: bytes) -> int | None:
        """The number of the marker, if it is one of ours."""
        number = text.removeprefix(self._marker)
        return int(number) if number != text and number.isdigit() else None


def _why(command: bytes, rule: Effect) -> str:
    if rule is Effect.EVERYTHING:
        return f"{_shown(command)} was run."
    return f"{_shown(command)} was run, and it is not known which keys that changes."


def _shown(command: bytes) -> str:
    return command[:40].decode("ascii", "backslashreplace").upper()
