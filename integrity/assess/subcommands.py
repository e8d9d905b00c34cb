"""Which subcommands a server knows: by its COMMAND table, by its own HELP, or by trying one without effect."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from integrity.assess.command_table import CommandTable, read_help
from integrity.replies import ErrorReply, Reply
from integrity.wire import Connection, pack

_NO_SUCH: Final = b"GREENFLYNOSUCH"
_HARMLESS: Final[Mapping[str, tuple[bytes, ...]]] = {
    "cluster|info": (),
    "cluster|nodes": (),
    "cluster|slots": (),
    "cluster|shards": (),
    "cluster|links": (),
    "cluster|myid": (),
    "cluster|keyslot": (b"greenfly",),
    "cluster|countkeysinslot": (b"0",),
    "cluster|getkeysinslot": (b"0", b"1"),
    "function|list": (),
    "function|stats": (),
    "function|dump": (),
    "function|load": (b"greenfly",),
    "function|delete": (b"greenfly-no-such-library",),
    "function|restore": (b"greenfly",),
    "latency|latest": (),
    "latency|doctor": (),
    "latency|histogram": (),
    "latency|graph": (b"greenfly-no-such-event",),
    "latency|history": (b"greenfly-no-such-event",),
    "latency|reset": (b"greenfly-no-such-event",),
    "module|list": (),
    "module|unload": (b"greenfly-no-such-module",),
}
"""Arguments with which a subcommand changes nothing on any server; for containers that have no HELP on Dragonfly."""


class Subcommands:
    """The subcommands of one server; asks about each container once."""

    def __init__(self, connection: Connection, table: CommandTable) -> None:
        self._connection = connection
        self._table = table
        self._helps: dict[str, frozenset[str] | None] = {}

    def knows(self, container: str, sub: str) -> bool | None:
        """Whether the server knows a subcommand; None where that cannot be told without risking an effect."""
        listed = self.listed(container)
        if listed is not None:
            return sub in listed
        arguments = _HARMLESS.get(f"{container}|{sub}")
        if arguments is None:
            return None
        outer = container.upper().encode()
        name = sub.upper().encode()
        reply, control = self._connection.exchange(
            [pack(outer, name, *arguments), pack(outer, _NO_SUCH, *arguments)]
        )
        return not (isinstance(reply, ErrorReply) and _text(reply, name) == _text(control, _NO_SUCH))

    def listed(self, container: str) -> frozenset[str] | None:
        """All subcommands that the server tells of; None where it tells of none."""
        entry = self._table.find(container)
        if entry is not None and entry.subcommands:
            return frozenset(entry.subcommands)
        if container not in self._helps:
            self._helps[container] = read_help(self._connection, container)
        return self._helps[container]


def all_know(servers: Iterable[Subcommands], container: str, sub: str) -> bool | None:
    """Whether each of several servers knows a subcommand; None where one does not tell, and none says no."""
    answers = {server.knows(container, sub) for server in servers}
    return False if False in answers else None if None in answers else True


def _text(reply: Reply, name: bytes) -> str:
    return str(reply).lower().replace(name.decode().lower(), "…") if isinstance(reply, ErrorReply) else ""
