"""Receiving a master's whole dataset as a replica would: PSYNC, and the RDB stream that follows.

The server forks and its child writes; its main thread goes on serving.  What arrives is written down as it is, at the
network's speed, and looked at only afterwards.  The link is closed with the last byte: the commands that would follow
are not wanted.

Two ways to frame the stream: ``$<length>`` where the master has written a file first, and ``$EOF:<40 bytes>`` where its
child writes into the socket, and the same forty bytes end it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from types import TracebackType
from typing import Final, Protocol, Self

from integrity.endpoint import Endpoint, read_info
from integrity.errors import (
    GreenflyError,
    PermissionRefused,
    ProtocolError,
    Refused,
    ServerError,
    ServerNotReady,
    ServerUnreachable,
)
from integrity.replication.socket_reader import SocketClosed, SocketReader, SocketSilent
from integrity.replies import ErrorReply, Reply
from integrity.wire import Connection, pack

BY_SCAN: Final = "Take the snapshot by SCAN (snapshot.method = scan), which needs no replication."
_MARK_BYTES: Final = 40
_FULLRESYNC_PARTS: Final = 3
_VALKEY_VERSION: Final = re.compile(rb"^valkey_version:([0-9.]+)", re.MULTILINE)
_LEAST_SILENCE_SECONDS: Final = 30.0
"""A master that waits for its child says so once a second, unless its fork takes longer."""


class Into(Protocol):
    """Where the stream is written to."""

    def write(self, data: bytes, /) -> int:
        """Write all of *data*."""


@dataclass(frozen=True, slots=True)
class Received:
    """A stream that has been received whole."""

    replication_id: str | None
    """Of the master's history; None where it knows only SYNC."""
    offset: int | None
    """Where in that history the dataset stands."""
    diskless: bool
    """Whether the master's child wrote into the socket."""
    bytes: int
    waited_seconds: float
    """Until the first byte: the delay that the master waits for other replicas, and its fork."""
    seconds: float
    """From the first byte to the last."""


class RdbReceiver:
    """Receives one dataset; :meth:`start`, then :meth:`write_into`.  A context manager, which closes the link.

    :param say: told one line where something takes time.
    :param while_waiting: called about once a second while nothing comes.
    """

    def __init__(
        self,
        source: Endpoint,
        *,
        say: Callable[[str], None] = lambda text: None,
        while_waiting: Callable[[], None] = lambda: None,
    ) -> None:
        self._source = source
        self._say = say
        self._while_waiting = while_waiting
        self._link: SocketReader | None = None
        self._replication_id: str | None = None
        self._offset: int | None = None
        self._started = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the link."""
        if self._link is not None:
            self._link.close()

    def start(self) -> None:
        """Ask for everything, and return when the server has agreed to send it; nothing has been written by then.

        :raises Refused: the server does not replicate to others than its own kind (Dragonfly, managed services).
        :raises PermissionRefused: the user may not ask for it.
        :raises ServerNotReady: it is loading, a replica without its master, or cannot save.
        :raises ServerError: it cannot be reached, or closed the link.
        """
        self._started = monotonic()
        connection = self._source.connect("replica")
        try:
            self._tell_of_delay(connection)
            self._announce(connection)
            silence = max(_LEAST_SILENCE_SECONDS, self._source.target.io_timeout)
            link = self._link = SocketReader(connection.detach(), silence, self._while_waiting)
        except BaseException:
            connection.close()
            raise
        with self._told():
            link.send(pack(b"PSYNC", b"?", b"-1"))
            line = link.line()
            if _unknown(line):
                link.send(pack(b"SYNC"))
                line = link.line()
                if not line.startswith(b"-"):
                    link.unread(line + b"\r\n")
                    return
        if not line.startswith(b"+FULLRESYNC"):
            raise self._refusal(line)
        parts = line.decode("ascii", "replace").split()
        if len(parts) != _FULLRESYNC_PARTS or not parts[2].isdecimal():
            raise self._not_understood(line)
        self._replication_id, self._offset = parts[1], int(parts[2])

    def write_into(self, into: Into, on_bytes: Callable[[int], None] = lambda size: None) -> Received:
        """Write the RDB stream into *into*, byte by byte as it comes.

        :param on_bytes: told bytes as they are written.
        :raises ServerNotReady: the server's child failed to save.
        :raises ServerUnreachable: it closed the link in the middle, or fell silent.
        :raises OSError: *into* cannot be written.
        """
        link = self._link
        if link is None:
            raise ValueError("the receiver was not started")
        size = 0
        with self._told(lambda: size):
            line = link.line()
            first = monotonic()
            if not line.startswith(b"$"):
                raise self._refusal(line)
            diskless = line.startswith(b"$EOF:")
            if not diskless and not line[1:].isdigit():
                raise self._not_understood(line)
            chunks = until_mark(link.some, line[5:]) if diskless else exactly(link.some, int(line[1:]))
            if diskless and len(line) != len(b"$EOF:") + _MARK_BYTES:
                raise self._not_understood(line)
            for chunk in chunks:
                into.write(chunk)
                size += len(chunk)
                on_bytes(len(chunk))
        return Received(
            self._replication_id,
            self._offset,
            diskless,
            size,
            round(first - self._started, 3),
            round(monotonic() - first, 3),
        )

    # -- asking -------------------------------------------------------------------------------------------------

    def _tell_of_delay(self, connection: Connection) -> None:
        """Say how long the server waits for further replicas before it forks, where it tells."""
        reply = connection.exchange([pack(b"CONFIG", b"GET", b"repl-diskless-sync*")])[0]
        settings = _table(reply)
        delay = settings.get(b"repl-diskless-sync-delay", b"")
        if settings.get(b"repl-diskless-sync") == b"yes" and delay.isdigit() and int(delay):
            self._say(
                f"Source {self._source} waits {int(delay)} s for further replicas before it begins "
                "(repl-diskless-sync-delay)."
            )

    def _announce(self, connection: Connection) -> None:
        """Say what this replica can do.  Servers pass over what they do not know; one that forbids it says so."""
        said = [
            pack(b"REPLCONF", b"capa", b"eof", b"capa", b"psync2"),
            # Redis 7 keeps no commands in store for such a replica, so that it cannot fall behind.
            pack(b"REPLCONF", b"rdb-only", b"1"),
        ]
        version = _valkey_version(connection.exchange([pack(b"INFO", b"server")])[0])
        if version is not None:
            # To a replica of unknown age Valkey sends an old form, which has no room for all that it holds.
            said.append(pack(b"REPLCONF", b"version", version))
        replies = connection.exchange(said)
        if isinstance(replies[0], ErrorReply) and "NOPERM" in str(replies[0]):
            raise self._forbidden(str(replies[0]))

    # -- errors -------------------------------------------------------------------------------------------------

    @contextmanager
    def _told(self, received: Callable[[], int] = lambda: 0) -> Iterator[None]:
        try:
            yield
        except SocketSilent as error:
            raise ServerUnreachable(
                self._source.role,
                str(self._source),
                f"went silent while it was to send its dataset: {error} (after {received():,} bytes).",
                "Look at the server's log and at the network.",
            ) from error
        except SocketClosed as error:
            raise ServerUnreachable(
                self._source.role,
                str(self._source),
                f"broke the replication link off after {received():,} bytes ({error}).",
                f"{self._why_closed()} {BY_SCAN}",
            ) from error

    def _why_closed(self) -> str:
        """What the server's own counters say about a link that it closed."""
        try:
            with self._source.connect("check") as connection:
                info = read_info(connection)
                limits = _table(
                    connection.exchange([pack(b"CONFIG", b"GET", b"client-output-buffer-limit")])[0]
                )
        except ServerError as error:
            return f"The server cannot be asked why ({error.problem})"
        if info.get("rdb_last_bgsave_status", "ok") != "ok":
            return "Its last BGSAVE failed; its log says why (memory for the fork, or the disk)."
        if int(info.get("client_output_buffer_limit_disconnections", "0") or 0):
            limit = limits.get(b"client-output-buffer-limit", b"").decode("ascii", "replace")
            return (
                "It has closed connections for their output buffer, perhaps this one: raise "
                f"client-output-buffer-limit replica (now: {limit or 'not told'})."
            )
        return (
            "Its log says why: client-output-buffer-limit replica, repl-timeout or a failed BGSAVE are usual."
        )

    def _refusal(self, line: bytes) -> GreenflyError:
        """What an answer means that is neither the agreement nor the stream."""
        text = line.decode("utf-8", "replace").lstrip("-")[:200]
        where = (self._source.role, str(self._source))
        word = text.split(" ", 1)[0]
        if not line.startswith(b"-"):
            return self._not_understood(line)
        if "NOPERM" in text or word in {"NOAUTH", "WRONGPASS"}:
            return self._forbidden(text)
        if _unknown(line):
            return Refused(
                f"Source {self._source} does not replicate to Greenfly ({text}).",
                f"Dragonfly and many managed services do not. {BY_SCAN}",
            )
        if word in {"LOADING", "NOMASTERLINK", "MASTERDOWN"}:
            return ServerNotReady(
                *where,
                f"cannot replicate now ({text}).",
                "Wait until it has loaded and, if it is a replica, has its master; then start again.",
            )
        if word == "MISCONF" or "BGSAVE" in text.upper():
            return ServerNotReady(
                *where,
                f"could not save its dataset ({text}).",
                f"Its log says why: memory for the fork, or the disk. {BY_SCAN}",
            )
        return ProtocolError(*where, f"refuses to replicate ({text}).", BY_SCAN)

    def _forbidden(self, text: str) -> PermissionRefused:
        return PermissionRefused(
            self._source.role,
            str(self._source),
            f"this user may not replicate ({text}).",
            f"Give the user that right (ACL SETUSER … +psync +replconf). {BY_SCAN}",
        )

    def _not_understood(self, line: bytes) -> ProtocolError:
        return ProtocolError(
            self._source.role,
            str(self._source),
            f"answered PSYNC in an unknown way ({line[:80].decode('ascii', 'backslashreplace')}).",
            BY_SCAN,
        )


def exactly(some: Callable[[], bytes], size: int) -> Iterator[bytes]:
    """The next *size* bytes of what *some* gives bit by bit."""
    while size:
        chunk = some()[:size]
        size -= len(chunk)
        yield chunk


def until_mark(some: Callable[[], bytes], mark: bytes) -> Iterator[bytes]:
    """What *some* gives bit by bit before *mark*, which nothing else is equal to."""
    held = b""
    while True:
        data = held + some()
        end = data.find(mark)
        if end >= 0:
            if end:
                yield data[:end]
            return
        # The mark may have begun.
        keep = len(data) - len(mark) + 1
        if keep > 0:
            yield data[:keep]
            data = data[keep:]
        held = data


def _unknown(line: bytes) -> bool:
    lower = line.lower()
    return line.startswith(b"-") and (b"unknown command" in lower or b"not supported" in lower)


def _valkey_version(reply: Reply) -> bytes | None:
    """Of a Valkey, where the server tells."""
    match = _VALKEY_VERSION.search(reply) if isinstance(reply, bytes) else None
    return match.group(1) if match else None


def _table(reply: object) -> dict[bytes, bytes]:
    """CONFIG GET's answer; empty where it is not allowed."""
    if not isinstance(reply, list):
        return {}
    items = [item for item in reply if isinstance(item, bytes)]
    return dict(zip(items[::2], items[1::2], strict=False))
