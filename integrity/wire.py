"""The data plane: pipelined commands over one socket, replies parsed by hiredis (:mod:`integrity.replies`).

A :class:`Connection` writes and reads at once (while a large write waits for the server, replies are taken in), so a
server that stops reading until its replies are drained, as Dragonfly does, cannot deadlock with it.  Callers keep at
most a few thousand commands in flight: Dragonfly queues 10,000 of one connection.

Nothing is ever re-sent here.  A command whose reply was lost may have been applied; only whole idempotent units are
repeated, by those who know that they are.
"""

from __future__ import annotations

import select
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Final, Self

from integrity.address import Address
from integrity.errors import (
    AuthenticationFailed,
    PermissionRefused,
    ProtocolError,
    Role,
    ServerError,
    ServerFull,
    ServerNotReady,
    ServerReadOnly,
    ServerUnreachable,
    TlsFailed,
)
from integrity.replies import ErrorReply, Reply, ReplyParser

_RECEIVE_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """TLS settings of one ``rediss://`` endpoint."""

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    verify: bool = True


@dataclass(frozen=True, slots=True)
class Target:
    """Everything needed to open connections to one server in one role."""

    role: Role
    address: Address
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: TlsFiles = TlsFiles()
    connect_timeout: float = 5.0
    io_timeout: float = 30.0


def pack(*arguments: bytes) -> bytes:
    """One command in RESP."""
    parts = [b"*%d\r\n" % len(arguments)]
    parts += [b"$%d\r\n%b\r\n" % (len(a), a) for a in arguments]
    return b"".join(parts)


_BULK: Final = tuple(b"$%d\r\n" % length for length in range(4096))


def argument(value: bytes) -> bytes:
    """One argument in RESP; made once per key and used by every command about it."""
    length = len(value)
    return (_BULK[length] if length < 4096 else b"$%d\r\n" % length) + value + b"\r\n"


def arguments_of(values: Sequence[bytes]) -> list[bytes]:
    """Each value as an argument in RESP."""
    try:
        return [_BULK[len(value)] + value + b"\r\n" for value in values]
    except IndexError:
        return list(map(argument, values))


def bulk_headers(values: Sequence[bytes]) -> list[bytes]:
    """What stands before each value in RESP: ``$<length>\\r\\n``."""
    try:
        return list(map(_BULK.__getitem__, map(len, values)))
    except IndexError:
        return [b"$%d\r\n" % len(value) for value in values]


def every(prefix: bytes, arguments: Sequence[bytes], suffix: bytes = b"") -> bytes:
    """The same command for each of *arguments*: one join instead of one formatting per key."""
    return prefix + (suffix + prefix).join(arguments) + suffix if arguments else b""


class Connection:
    """One authenticated connection.  Not thread-safe.

    :raises ServerUnreachable: no connection within ``connect_timeout``.
    :raises TlsFailed: the handshake failed.
    :raises AuthenticationFailed: the server refused the credentials.
    """

    def __init__(self, target: Target, *, name: str = "greenfly", database: int = 0) -> None:
        self.target = target
        self.role: Role = target.role
        self.database = 0
        self._parser = ReplyParser()
        self._arrived: list[bytes] = []
        # Bytes that were taken in while writing, not yet parsed.
        self._buffer = bytearray(_RECEIVE_BYTES)
        self._view = memoryview(self._buffer)
        self._socket = self._connect()
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        try:
            self._introduce(name)
            if database:
                self.select(database)
        except ServerUnreachable as error:
            self.close()
            if target.address.scheme != "rediss" and self._speaks_tls():
                raise self._needs_tls() from error
            raise
        except BaseException:
            self.close()
            raise

    @property
    def where(self) -> str:
        """The server's masked address."""
        return str(self.target.address)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket; replies still on their way are lost."""
        self._socket.close()

    def detach(self) -> socket.socket:
        """Hand over the socket, which does not block, with no reply on its way; this object is of no use afterwards.

        For feeds, which speak another protocol (pushes, MONITOR's lines) once they have introduced themselves.
        """
        self._poll.unregister(self._socket)
        return self._socket

    # -- opening ------------------------------------------------------------------------------------------------

    def _connect(self) -> socket.socket:
        address = self.target.address
        raw = self._open_socket()
        if address.scheme == "rediss":
            raw = self._handshake(raw)
        raw.setblocking(False)
        return raw

    def _open_socket(self) -> socket.socket:
        address, timeout = self.target.address, self.target.connect_timeout
        raw: socket.socket | None = None
        try:
            if address.scheme == "unix":
                raw = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                raw.settimeout(timeout)
                raw.connect(address.path)
            else:
                raw = socket.create_connection((address.host, address.port), timeout)
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        except (OSError, UnicodeError) as error:
            if raw is not None:
                raw.close()
            # A UnicodeError is a host name that cannot be one: an empty or overlong part.
            reason = error.strerror or error if isinstance(error, OSError) else "that is no host name"
            raise ServerUnreachable(
                self.role,
                self.where,
                f"cannot connect ({reason}).",
                "Check host, port and firewall, and that the server runs.",
            ) from error
        return raw

    def _speaks_tls(self) -> bool:
        """Whether the server answers a TLS handshake; asked when it hung up on a plain greeting."""
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        try:
            with self._open_socket() as raw, context.wrap_socket(raw):
                return True
        except ssl.SSLEOFError:
            return False  # Hung up on again: a proxy whose server is gone, say.
        except ssl.SSLError as error:
            # Asking for a client certificate, say, is TLS too; no TLS at all fails with these two.
            return error.reason not in {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"}
        except (OSError, ServerUnreachable):
            return False

    def _handshake(self, raw: socket.socket) -> ssl.SSLSocket:
        files = self.target.tls
        try:
            context = ssl.create_default_context(cafile=str(files.ca_file) if files.ca_file else None)
            if not files.verify:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            if files.cert_file:
                context.load_cert_chain(str(files.cert_file), str(files.key_file) if files.key_file else None)
        except (OSError, ssl.SSLError) as error:
            raw.close()
            raise TlsFailed(
                self.role,
                self.where,
                f"the CA or client certificate files cannot be used ({error.strerror or error}).",
                "Check tls_ca_file, tls_cert_file and tls_key_file.",
            ) from error
        try:
            return context.wrap_socket(raw, server_hostname=self.target.address.host)
        except ssl.SSLCertVerificationError as error:
            raw.close()
            raise TlsFailed(
                self.role,
                self.where,
                f"its certificate is not trusted ({error.verify_message}).",
                "Set tls_ca_file to the CA that signed it, and use the host name that the certificate carries.",
            ) from error
        except (OSError, ssl.SSLError) as error:
            raw.close()
            raise TlsFailed(
                self.role,
                self.where,
                f"the TLS handshake failed ({error.strerror or error}).",
                "If the server speaks plain text, use redis:// instead of rediss://; if it asks for a client "
                "certificate, set tls_cert_file and tls_key_file.",
            ) from error

    def _introduce(self, name: str) -> None:
        username, password = self.target.username, self.target.password
        if password is not None:
            arguments = [password.encode()] if username is None else [username.encode(), password.encode()]
            self.command(b"AUTH", *arguments)
        reply = self.exchange([pack(b"CLIENT", b"SETNAME", name.encode())])[0]
        if isinstance(reply, ErrorReply) and str(reply).startswith(("NOAUTH", "WRONGPASS")):
            raise self.error_for(reply, "AUTH")

    # -- talking ------------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Write packed commands; while the server does not take more, take in its replies."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                self._wait(select.POLLIN | select.POLLOUT)
                self._arrived.append(bytes(self._take_in()))
            except OSError as error:
                raise self._lost(error) from error

    def receive(self) -> Reply:
        """The next reply; an error reply comes back as an :class:`ErrorReply` value.

        :raises ServerUnreachable: the connection broke, or nothing came within ``io_timeout``.
        """
        return self.receive_many(1)[0]

    def receive_many(self, count: int) -> list[Reply]:
        """The next *count* replies."""
        if not count:
            return []
        try:
            replies = self._parser.expect(count)
            while replies is None:
                if self._arrived:
                    replies = self._parser.feed(b"".join(self._arrived))
                    self._arrived.clear()
                elif chunk := self._take_in():
                    replies = self._parser.feed(chunk)
                else:
                    self._wait(select.POLLIN)
        except ValueError as error:
            raise self._not_understood() from error
        return replies

    def exchange(self, commands: Sequence[bytes]) -> list[Reply]:
        """Send packed *commands* in one write and return their replies."""
        self.send(b"".join(commands))
        return self.receive_many(len(commands))

    def command(self, *arguments: bytes) -> Reply:
        """One command, one reply.

        :raises ServerError: the server answered with an error.
        """
        self.send(pack(*arguments))
        reply = self.receive()
        if isinstance(reply, ErrorReply):
            raise self.error_for(reply, arguments[0].decode("ascii", "replace"))
        return reply

    def select(self, database: int) -> None:
        """Make *database* the current one."""
        if database != self.database:
            self.command(b"SELECT", b"%d" % database)
            self.database = database

    def _wait(self, events: int) -> None:
        self._poll.modify(self._socket, events)
        deadline = monotonic() + self.target.io_timeout
        while not self._poll.poll(max(0.0, deadline - monotonic()) * 1000):
            if monotonic() >= deadline:
                raise ServerUnreachable(
                    self.role,
                    self.where,
                    f"no answer within {self.target.io_timeout:g} s.",
                    "The server or the network is stalled; raise io_timeout if one command may take that long.",
                )

    def _take_in(self) -> memoryview:
        """What has arrived, valid until the next call; empty where nothing has."""
        try:
            count = self._socket.recv_into(self._buffer)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return self._view[:0]
        except OSError as error:
            raise self._lost(error) from error
        if not count:
            raise self._lost(None)
        return self._view[:count]

    # -- errors -------------------------------------------------------------------------------------------------

    def _lost(self, error: OSError | None) -> ServerError:
        detail = f" ({error.strerror or error})" if error else ""
        if isinstance(error, ssl.SSLError):
            return TlsFailed(
                self.role,
                self.where,
                f"the TLS connection broke{detail}.",
                "If the server asks for a client certificate, set tls_cert_file and tls_key_file.",
            )
        return ServerUnreachable(
            self.role,
            self.where,
            f"the connection was closed{detail}.",
            "If this happens at once, the server may speak TLS (use rediss://); else look at the server's log.",
        )

    def _needs_tls(self) -> ServerError:
        return TlsFailed(
            self.role,
            self.where,
            "speaks TLS, and was addressed in plain text.",
            "Use rediss:// instead of redis://.",
        )

    def _not_understood(self) -> ServerError:
        return TlsFailed(
            self.role,
            self.where,
            "the answer is not the Redis protocol.",
            "If the server speaks TLS, use rediss:// instead of redis://; else check the port.",
        )

    def error_for(self, reply: ErrorReply, doing: str) -> ServerError:
        """The exception that belongs to an error reply to the command *doing*."""
        text = str(reply)
        word = text.split(" ", 1)[0]
        where = (self.role, self.where)
        if (
            word in {"NOAUTH", "WRONGPASS"}
            or "without any password configured" in text
            or "invalid password" in text
        ):
            return AuthenticationFailed(
                *where,
                f"refused the credentials ({text}).",
                "Give user and password in the URL, in GREENFLY_SOURCE__PASSWORD / GREENFLY_TARGET__PASSWORD, "
                "or in a password_file.",
            )
        if word == "NOPERM" or "NOPERM" in text:
            return PermissionRefused(
                *where,
                f"{doing} is not allowed ({text}).",
                "Give the user that right (ACL SETUSER … +command ~*).",
            )
        if word in {"LOADING", "MASTERDOWN"}:
            return ServerNotReady(
                *where, f"is not ready ({text}).", "Wait until it has loaded, then start again."
            )
        if word == "OOM" or "out of memory" in text.lower() or "used memory > 'maxmemory'" in text:
            return ServerFull(
                *where,
                f"is out of memory at {doing} ({text}).",
                "Raise its maxmemory or free space, then go on with --resume.",
            )
        if word in {"READONLY", "NOREPLICAS", "MISCONF"}:
            return ServerReadOnly(
                *where, f"refuses writes ({text}).", "Point to the master, or make the server writable."
            )
        if "Bad TLS header" in text:
            return TlsFailed(*where, f"speaks TLS ({text}).", "Use rediss:// instead of redis://.")
        return ProtocolError(*where, f"{doing} failed ({text}).", "Check that the server knows this command.")
