"""What a server says about its commands: COMMAND, with the subcommands where it lists them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from integrity.endpoint import Endpoint
from integrity.errors import ProtocolError
from integrity.replies import ErrorReply, Reply
from integrity.wire import Connection, pack

_OLD_CONTAINERS: Final = frozenset(
    {
        "acl",
        "client",
        "cluster",
        "config",
        "debug",
        "latency",
        "memory",
        "module",
        "object",
        "pubsub",
        "script",
        "slowlog",
        "stralgo",
        "xgroup",
        "xinfo",
    }
)
"""Commands with subcommands of Redis 6.2, which does not mark them; later servers list the subcommands."""


@dataclass(frozen=True, slots=True)
class CommandEntry:
    """One command as its server describes it."""

    name: str
    """Lower case."""
    arity: int
    """Arguments with the name: exactly so many, or at least the negative of it; 0 where it does not tell."""
    flags: frozenset[str]
    """As ``write`` or ``admin``."""
    categories: frozenset[str]
    """Of the ACL, lower case, without ``@``."""
    keys: tuple[int, int, int] = (0, 0, 0)
    """Place of the first key, of the last (negative: from the end), and the step; zeros where there is none, or where
    the places depend on the other arguments."""
    subcommands: Mapping[str, CommandEntry] = field(default_factory=dict)
    """Empty for a command that has none, and where the server does not list them."""

    @property
    def is_container(self) -> bool:
        """Whether its first argument names a subcommand."""
        return bool(self.subcommands) or self.name in _OLD_CONTAINERS

    @property
    def writes(self) -> bool:
        """Whether it, or one of its subcommands, changes data."""
        return "write" in self.flags or any(entry.writes for entry in self.subcommands.values())

    def key_places(self, arguments: int) -> list[int] | None:
        """Which of so many arguments (from 0, without the name) are certain to be keys; None where it is not told."""
        first, last, step = self.keys
        if not first:
            return None if "movablekeys" in self.flags else []
        end = last if last > 0 else arguments + last + 1
        return [place - 1 for place in range(first, end + 1, max(1, step)) if place <= arguments]

    def refuses(self, arguments: int) -> bool:
        """Whether the server refuses the command with so many arguments, its name counted."""
        return 0 < self.arity != arguments or arguments < -self.arity


class CommandTable:
    """The commands of one server."""

    def __init__(self, entries: Mapping[str, CommandEntry]) -> None:
        self.entries = entries

    @classmethod
    def read(cls, endpoint: Endpoint) -> CommandTable:
        """Ask the server.

        :raises PermissionRefused: it may not be asked.
        :raises ServerError: it cannot be reached, or its answer is not understood.
        """
        with endpoint.connect("assess") as connection:
            return cls.of(endpoint, connection.command(b"COMMAND"))

    @classmethod
    def of(cls, endpoint: Endpoint, table: Reply) -> CommandTable:
        """What the server answered to COMMAND.

        :raises ProtocolError: it is not understood.
        """
        entries: dict[str, CommandEntry] = {}
        inner: dict[str, dict[str, CommandEntry]] = {}
        for item in table if isinstance(table, list) else []:
            entry = _entry(item)
            if entry is None:
                raise _strange(endpoint)
            # Dragonfly lists the subcommands of ACL beside it, as "ACL SETUSER".
            outer, space, sub = entry.name.partition(" ")
            if space:
                inner.setdefault(outer, {})[sub] = entry
            else:
                entries[entry.name] = entry
        if not entries:
            raise _strange(endpoint)
        for outer, subs in inner.items():
            found = entries.get(outer)
            entries[outer] = CommandEntry(
                outer,
                0,
                found.flags if found else frozenset(),
                found.categories if found else frozenset(),
                subcommands=subs,
            )
        return cls(entries)

    @classmethod
    def of_any(cls, tables: Sequence[CommandTable]) -> CommandTable:
        """What at least one of several servers knows, subcommands too."""
        if len(tables) == 1:
            return tables[0]
        entries: dict[str, CommandEntry] = {}
        for table in tables:
            for name, entry in table.entries.items():
                before = entries.get(name, entry)
                entries[name] = replace(before, subcommands={**entry.subcommands, **before.subcommands})
        return cls(entries)

    @classmethod
    def of_all(cls, tables: Sequence[CommandTable]) -> CommandTable:
        """What each of several servers knows, subcommands too."""
        if len(tables) == 1:
            return tables[0]
        common = frozenset[str].intersection(*(frozenset(table.entries) for table in tables))
        entries: dict[str, CommandEntry] = {}
        for name in common:
            mine, *others = [table.entries[name] for table in tables]
            entries[name] = replace(
                mine,
                subcommands={
                    sub: entry
                    for sub, entry in mine.subcommands.items()
                    if all(sub in other.subcommands for other in others)
                },
            )
        return cls(entries)

    def find(self, name: str) -> CommandEntry | None:
        """The entry of a command, or of ``container|subcommand`` where the server lists that."""
        outer, bar, sub = name.partition("|")
        entry = self.entries.get(outer)
        return entry.subcommands.get(sub) if entry is not None and bar else entry


def read_help(connection: Connection, container: str) -> frozenset[str] | None:
    """The subcommands that ``<container> HELP`` tells of, lower case; None where the server has no such help."""
    reply = connection.exchange([pack(container.upper().encode(), b"HELP")])[0]
    if isinstance(reply, ErrorReply) or not isinstance(reply, list):
        return None
    lines = [line.decode("utf-8", "replace") for line in reply if isinstance(line, bytes)]
    # Explanations are indented; the first line may repeat the container.
    words = [line.split()[0] for line in lines if line.strip() and not line[0].isspace()]
    return frozenset(word.lower() for word in words if word.isupper() and word.lower() != container)


def _entry(item: Reply) -> CommandEntry | None:
    if not isinstance(item, list) or len(item) < 3 or not isinstance(item[0], bytes):
        return None
    name = item[0].decode("ascii", "replace").lower()
    subcommands = {}
    for inner in item[9] if len(item) > 9 and isinstance(item[9], list) else []:
        entry = _entry(inner)
        if entry is None:
            return None
        subcommands[entry.name.partition("|")[2] or entry.name] = entry
    return CommandEntry(
        name,
        item[1] if isinstance(item[1], int) else 0,
        _words(item[2]),
        frozenset(word.removeprefix("@") for word in _words(item[6] if len(item) > 6 else None)),
        _places(item[3:6]),
        subcommands,
    )


def _places(replies: list[Reply]) -> tuple[int, int, int]:
    numbers = [reply for reply in replies if isinstance(reply, int)]
    return (numbers[0], numbers[1], numbers[2]) if len(numbers) == 3 else (0, 0, 0)


def _words(reply: Reply) -> frozenset[str]:
    items = reply if isinstance(reply, list) else []
    return frozenset(item.decode("ascii", "replace").lower() for item in items if isinstance(item, bytes))


def _strange(endpoint: Endpoint) -> ProtocolError:
    return ProtocolError(endpoint.role, str(endpoint), "COMMAND is no table.", "Check that it may be asked.")
