"""A key per database that is written to blue and waited for on green: offsets alone are only what the two say.

It holds a token of this process, expires by itself should nobody remove it, and never replaces a key that is there.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final

from integrity.endpoint import Endpoint
from integrity.errors import ServerError
from integrity.replies import ErrorReply
from integrity.wire import Connection, pack

_EXPIRES_MS: Final = 60_000
_PADDING_BYTES: Final = 2048
"""Dragonfly acknowledges what it has applied once a second, or after a kilobyte."""


def sentinel_keys(key: str, tags: Sequence[bytes] = ()) -> tuple[bytes, ...]:
    """The names of the sentinels, one for each tag; none where *key* is empty."""
    if not key:
        return ()
    return tuple(b"{%b}:%b" % (tag, key.encode()) for tag in tags) or (key.encode(),)


class Sentinels:
    """The sentinel keys of one wait.

    :param source: blue, as a user that may write there.
    :param key: their name, the same in each database; empty: there are none.
    :param tags: of a cluster, a hash tag for each master, whose slot it serves: there is one for each of them.
    """

    def __init__(self, source: Endpoint, target: Endpoint, key: str, tags: Sequence[bytes] = ()) -> None:
        self._source = source
        self._target = target
        self._keys = sentinel_keys(key, tags)
        self._token = secrets.token_hex(16).encode() + b"." * _PADDING_BYTES
        self._planted: set[tuple[int, bytes]] = set()
        self.refusal = "" if key else "native.sentinel_key is empty"
        """Why there are none, or not in every database."""

    @property
    def databases(self) -> tuple[int, ...]:
        """Where they are."""
        return tuple(sorted({database for database, _ in self._planted}))

    @property
    def keys(self) -> frozenset[bytes]:
        """Their names."""
        return frozenset(key for _, key in self._planted)

    def plant(self, databases: Iterable[int]) -> None:
        """Write them to blue; where that is not allowed, :attr:`refusal` says so, and only offsets are left.

        :raises ServerError: blue is lost.
        """
        if not self._keys:
            return
        with self._source.connect("native") as connection:
            for database in databases:
                connection.select(database)
                for key in self._keys:
                    reply = connection.exchange(
                        [pack(b"SET", key, self._token, b"NX", b"PX", b"%d" % _EXPIRES_MS)]
                    )[0]
                    if reply == b"OK":
                        self._planted.add((database, key))
                    elif isinstance(reply, ErrorReply):
                        # Not allowed, full, fenced: whatever it is, offsets are left.
                        self.refusal = connection.error_for(reply, "SET").problem
                        return
                    else:
                        self.refusal = f"blue has a key of that name in database {database}"

    def arrived(self) -> bool:
        """Whether green has each of them.

        :raises ServerError: green is lost, or loads again.
        """
        return not self._planted or self._missing() == set()

    def gone(self) -> bool:
        """Whether green has none of them any more.

        :raises ServerError: green is lost, or loads again.
        """
        return not self._planted or self._missing() == self._planted

    def remove(self) -> None:
        """Delete them from blue.

        :raises ServerError: blue is lost, or refuses.
        """
        self._delete(self._source)

    def give_up(self) -> None:
        """Delete them from blue if that can be done; else they expire."""
        with suppress(ServerError):
            self._delete(self._source)

    def _missing(self) -> set[tuple[int, bytes]]:
        with self._target.connect("native") as connection:
            return {place for place in self._planted if not self._is_ours(connection, *place)}

    def _delete(self, endpoint: Endpoint) -> None:
        if not self._planted:
            return
        with endpoint.connect("native") as connection:
            for database, key in sorted(self._planted):
                if self._is_ours(connection, database, key):
                    connection.command(b"DEL", key)

    def _is_ours(self, connection: Connection, database: int, key: bytes) -> bool:
        connection.select(database)
        reply = connection.exchange([pack(b"GET", key)])[0]
        if isinstance(reply, ErrorReply) and not str(reply).startswith("WRONGTYPE"):
            raise connection.error_for(reply, "GET")
        return reply == self._token
