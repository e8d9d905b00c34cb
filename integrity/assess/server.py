"""One server as an assessment sees it: a single one, or one node of a cluster; asked once, over one connection.

What is asked several times is remembered, and the connection is kept, for as long as checks are being made
(:meth:`Server.kept`): over a long line each connection costs as much as three questions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Final, TypeVar, cast

from integrity.assess.command_table import CommandTable
from integrity.assess.connected import Client, clients_of
from integrity.assess.needed_rights import FENCE_RIGHTS, Right, RunPart, Side, rights
from integrity.assess.rights_probe import Tried, try_rights
from integrity.endpoint import Endpoint, Identity
from integrity.errors import PermissionRefused, ProtocolError
from integrity.info import parse_info
from integrity.replies import ErrorReply, Reply
from integrity.wire import Connection, pack

_T = TypeVar("_T")

_IDLE_SECONDS: Final = 5.0
"""A connection that was not used for so long may have been closed by the server."""
_OFTEN: Final = (
    "notify-keyspace-events",
    "notify_keyspace_events",
    "rss_oom_deny_ratio",
    "proto-max-bulk-len",
    "save",
    "dbfilename",
    "snapshot_cron",
    "client-output-buffer-limit",
    "repl-diskless-sync",
    "repl-diskless-sync-delay",
    "repl-timeout",
    "repl-ping-replica-period",
)
"""Settings that checks ask for, fetched together with the first of them."""


class Server:
    """One server and what was asked of it.

    :param share: of a cluster's slots that it serves, 1.0 for a server of its own.
    :param tag: for keys in a slot that it serves; empty where it serves all.
    """

    def __init__(self, endpoint: Endpoint, identity: Identity, share: float = 1.0, tag: str = "") -> None:
        self.endpoint = endpoint
        self.identity = identity
        self.share = share
        self.tag = tag
        self._keeps = False
        self._idle: Connection | None = None
        self._used = 0.0
        self._known: dict[str, object] = {}

    def __str__(self) -> str:
        return str(self.endpoint)

    @property
    def clustered(self) -> bool:
        """Whether it is a node of a cluster."""
        return bool(self.tag)

    @property
    def place(self) -> str:
        """Host and port, for people."""
        return str(self.endpoint.address).partition("://")[2].rpartition("@")[2]

    # -- connections --------------------------------------------------------------------------------------------

    @contextmanager
    def kept(self) -> Iterator[None]:
        """While this lasts, what was asked is remembered, and a connection stays open."""
        if self._keeps:
            yield
            return
        self._keeps = True
        try:
            yield
        finally:
            self._keeps = False
            self._known.clear()
            if self._idle is not None:
                self._idle.close()
                self._idle = None

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A connection with nothing in flight, in database 0 and RESP2, to be left like that.

        :raises ServerError: the server cannot be reached.
        """
        connection, self._idle = self._idle, None
        if connection is not None and monotonic() - self._used > _IDLE_SECONDS:
            connection.close()
            connection = None
        if connection is None:
            connection = self.endpoint.connect("assess")
        keep = False
        try:
            yield connection
            keep = True
        except PermissionRefused:
            keep = True  # It was answered, and nothing else is on its way.
            raise
        finally:
            if keep and self._keeps and self._idle is None:
                self._idle, self._used = connection, monotonic()
            else:
                connection.close()

    def ask(self, *commands: bytes) -> list[Reply]:
        """The replies to packed commands, sent in one write.

        :raises ServerError: the server cannot be reached.
        """
        with self.connection() as connection:
            return connection.exchange(commands)

    # -- what is asked more than once ---------------------------------------------------------------------------

    @property
    def info(self) -> dict[str, str]:
        """INFO, every section that it tells (commandstats included).

        :raises ServerError: it may not be asked.
        """
        return self._once("info", self._whole_info)

    @property
    def table(self) -> CommandTable:
        """Its commands.

        :raises ServerError: they may not be asked for.
        """
        return self._once("table", self._table)

    @property
    def clients(self) -> list[Client]:
        """Every connection that is not Greenfly's own.

        :raises PermissionRefused: the user may not list clients.
        """
        return self._once("clients", self._clients)

    def config(self, name: str) -> str | None:
        """One setting; None where the server has none of that name.

        :raises PermissionRefused: it may not be asked.
        """
        if name in _OFTEN and self._keeps:
            found = self._once("config", lambda: self._configs(_OFTEN))[name]
        else:
            found = self._configs((name,))[name]
        if isinstance(found, ErrorReply):
            with self.connection() as connection:
                raise connection.error_for(found, "CONFIG")
        return found

    def tried(self, wanted: Sequence[Right]) -> Tried:
        """What becomes of each of these rights, tried without effect; each is tried once.

        :raises ServerError: the server cannot be reached.
        """
        if not self._keeps:
            return try_rights(self.endpoint, self.identity, wanted)
        tried = self._once("rights", lambda: try_rights(self.endpoint, self.identity, self._every_right()))
        if all(right.command in tried.answers for right in wanted):
            return tried
        return try_rights(self.endpoint, self.identity, wanted)

    def _every_right(self) -> tuple[Right, ...]:
        side: Side = "source" if self.endpoint.role == "source" else "target"
        named = {right.command: right for right in FENCE_RIGHTS}
        return tuple(
            (
                named
                | {
                    r.command: r
                    for r in rights(side, tuple(RunPart), self.identity.engine, clustered=self.clustered)
                }
            ).values()
        )

    def _once(self, name: str, ask: Callable[[], _T]) -> _T:
        if not self._keeps:
            return ask()
        if name not in self._known:
            self._known[name] = ask()
        return cast("_T", self._known[name])

    def _whole_info(self) -> dict[str, str]:
        with self.connection() as connection:
            replies = connection.exchange([pack(b"INFO", b"all"), pack(b"INFO")])
            found: dict[str, str] = {}
            for reply in replies:
                if isinstance(reply, ErrorReply):
                    raise connection.error_for(reply, "INFO")
                if not isinstance(reply, bytes):
                    raise ProtocolError(
                        connection.role,
                        connection.where,
                        "INFO is no text.",
                        "Check that this is a Redis server.",
                    )
                found |= parse_info(reply)
            return found

    def _table(self) -> CommandTable:
        with self.connection() as connection:
            return CommandTable.of(self.endpoint, connection.command(b"COMMAND"))

    def _clients(self) -> list[Client]:
        with self.connection() as connection:
            return clients_of(self.endpoint, connection.command(b"CLIENT", b"LIST"))

    def _configs(self, names: tuple[str, ...]) -> dict[str, str | ErrorReply | None]:
        replies = self.ask(*(pack(b"CONFIG", b"GET", name.encode()) for name in names))
        return {name: _value(reply, name) for name, reply in zip(names, replies, strict=True)}


def _value(reply: Reply, name: str) -> str | ErrorReply | None:
    if isinstance(reply, ErrorReply):
        return reply
    items = reply if isinstance(reply, list) else []
    texts = [item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item) for item in items]
    return dict(zip(texts[::2], texts[1::2], strict=False)).get(name)
