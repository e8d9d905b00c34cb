"""Who may run what on a server: reading and changing the command rules of its ACL users.

Only rules about commands are handled here.  Passwords are neither read into these values nor ever sent back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from integrity.errors import ProtocolError
from integrity.replies import ErrorReply, Reply
from integrity.wire import Connection, pack

# Dragonfly names its ACL subcommands with a space ("+acl setuser"), so a space alone ends no rule.
_RULE: Final = re.compile(r"[+-]\S*(?: (?![+-])\S+)*")

_NO_DATA: Final = frozenset({"shrink"})
"""Flagged as a write, in Dragonfly also a right of ``@read``, but it only gives memory back."""


@dataclass(frozen=True, slots=True)
class Selector:
    """One further set of rules of a user (Redis ≥ 7.0), each part as the server writes it."""

    commands: str
    keys: str
    channels: str
    databases: str = ""
    """Valkey ≥ 9; else empty."""

    def rule(self, *more: str) -> str:
        """As ACL SETUSER takes it, with *more* command rules at the end of its own."""
        return f"({' '.join(filter(None, [self.keys, self.channels, self.databases, self.commands, *more]))})"


@dataclass(frozen=True, slots=True)
class UserRules:
    """What one ACL user may run."""

    name: str
    enabled: bool
    """Whether one can log in as this user; who is logged in already stays when a user is switched off."""
    commands: str
    """Command rules in their order, such as ``-@all +@read +set``."""
    selectors: tuple[Selector, ...] = ()


def rules_of(commands: str) -> list[str]:
    """The single rules of a command description."""
    return _RULE.findall(commands)


def text(value: bytes) -> str:
    """A name of the server's; bytes that are no UTF-8 survive the way back in :func:`raw`."""
    return value.decode("utf-8", "surrogateescape")


def raw(value: str) -> bytes:
    """What :func:`text` was made of."""
    return value.encode("utf-8", "surrogateescape")


def own_name(connection: Connection) -> str:
    """The user that this connection is logged in as.

    :raises ServerError: the server has no ACL, or does not allow the question.
    """
    # Dragonfly answers with a sentence.
    return text(_bytes(connection, connection.command(b"ACL", b"WHOAMI"))).removeprefix("User is ")


def user_names(connection: Connection) -> list[str]:
    """Every user of the server.

    :raises ServerError: the server has no ACL, or does not allow the question.
    """
    return [text(name) for name in _texts(connection, connection.command(b"ACL", b"USERS"))]


def read_users(connection: Connection) -> list[UserRules]:
    """Every user with its rules.

    :raises ServerError: the server has no ACL, does not allow the question, or answers in an unknown form.
    """
    names = user_names(connection)
    replies = connection.exchange([pack(b"ACL", b"GETUSER", raw(name)) for name in names])
    users = []
    for name, reply in zip(names, replies, strict=True):
        if isinstance(reply, ErrorReply):
            raise connection.error_for(reply, "ACL GETUSER")
        if reply is not None:  # Deleted in between.
            users.append(_user(connection, name, reply))
    return users


def set_rules(connection: Connection, users: Iterable[tuple[str, Sequence[str]]]) -> None:
    """Give each user its rules, each user in one step, and return when they are in force for every connection.

    :raises ServerError: one of them was refused; others may have been set.
    """
    commands = [pack(b"ACL", b"SETUSER", raw(name), *map(raw, rules)) for name, rules in users]
    if not commands:
        return
    # Dragonfly answers before it has told its other connections; the next command waits until it has.
    for reply in connection.exchange([*commands, pack(b"PING")]):
        if isinstance(reply, ErrorReply):
            raise connection.error_for(reply, "ACL SETUSER")


def delete_users(connection: Connection, names: Sequence[str]) -> None:
    """Delete users, closing their connections; those that are not there are passed over.

    :raises ServerError: the server does not allow it.
    """
    if names:
        connection.command(b"ACL", b"DELUSER", *map(raw, names))


@dataclass(frozen=True, slots=True)
class WriteCommands:
    """The commands of one server that change data, and which of them a list of rules permits.

    The category ``@write`` is not all of them: Redis 8.2 leaves out VADD, VREM and VSETATTR.
    """

    names: frozenset[str]
    """In lower case; subcommands as ``xgroup|create``."""
    categories: Mapping[str, frozenset[str]]
    """Category → its members among :attr:`names`."""

    @classmethod
    def read(cls, connection: Connection, *, also: Iterable[str] = ()) -> WriteCommands:
        """Ask the server.

        :param also: commands that count as well.
        :raises ServerError: the server does not tell.
        """
        categories = _categories(connection)
        names = (_flagged_write(connection) | categories["write"] | set(also)) - _NO_DATA
        return cls(names, {name: members & names for name, members in categories.items()})

    @property
    def outside_category(self) -> tuple[str, ...]:
        """Those that a rule about ``@write`` does not reach."""
        return tuple(sorted(self.names - self.categories["write"]))

    def permitted(self, commands: str) -> frozenset[str]:
        """Those that a command description permits; one that is not understood counts as permitting all."""
        allowed: frozenset[str] = frozenset()
        rest = commands
        for rule in rules_of(commands):
            rest = rest.replace(rule, "", 1)
            affected = self._affected(rule)
            if affected is None:
                return self.names
            allowed = allowed | affected if rule[0] == "+" else allowed - affected
        return self.names if rest.strip() else allowed

    def permitted_to(self, user: UserRules) -> frozenset[str]:
        """Those that a user may run under any of its rules, on whatever keys."""
        return self.permitted(user.commands).union(*(self.permitted(s.commands) for s in user.selectors))

    def _affected(self, rule: str) -> frozenset[str] | None:
        """What one rule is about; None for a category that the server does not know."""
        sign, name = rule[0], rule[1:].lower()
        if name == "@all":
            return self.names
        if name.startswith("@"):
            return self.categories.get(name[1:])
        found = {command for command in self.names if command == name or command.startswith(f"{name}|")}
        if not found and sign == "+" and (container := name.partition("|")[0]) in self.names:
            found = {container}  # One first argument of a command: some of it is permitted.
        return frozenset(found)


def _categories(connection: Connection) -> dict[str, frozenset[str]]:
    names = _texts(connection, connection.command(b"ACL", b"CAT"))
    replies = connection.exchange([pack(b"ACL", b"CAT", name) for name in names])
    found = {}
    for name, reply in zip(names, replies, strict=True):
        members = _texts(connection, reply)
        found[text(name).lower()] = frozenset(text(member).lower() for member in members)
    if "write" not in found:
        raise _strange(connection, "ACL CAT")
    return found


def _flagged_write(connection: Connection) -> frozenset[str]:
    """Commands, and subcommands as ``xgroup|create``, that carry the flag ``write``."""
    found: set[str] = set()
    left = [connection.command(b"COMMAND")]
    while left:
        entries = left.pop()
        for entry in entries if isinstance(entries, list) else []:
            if not isinstance(entry, list) or len(entry) < 3 or not isinstance(entry[0], bytes):
                raise _strange(connection, "COMMAND")
            if b"write" in _texts(connection, entry[2]):
                found.add(text(entry[0]).lower())
            if len(entry) > 9:
                left.append(entry[9])
    if not found:
        raise _strange(connection, "COMMAND")
    return frozenset(found)


def _user(connection: Connection, name: str, reply: Reply) -> UserRules:
    facts = _table(connection, reply)
    selectors = facts.get(b"selectors", [])
    if not isinstance(selectors, list):
        raise _strange(connection, "ACL GETUSER")
    return UserRules(
        name=name,
        enabled=b"on" in _texts(connection, facts.get(b"flags")),
        commands=text(_bytes(connection, facts.get(b"commands"))),
        selectors=tuple(_selector(connection, item) for item in selectors),
    )


def _selector(connection: Connection, reply: Reply) -> Selector:
    facts = _table(connection, reply)
    if (
        not {b"commands", b"keys", b"channels"}
        <= facts.keys()
        <= {
            b"commands",
            b"keys",
            b"channels",
            b"databases",
        }
    ):
        # A part that is not known could not be put back.
        raise _strange(connection, "ACL GETUSER")
    return Selector(
        **{name.decode(): text(_bytes(connection, value)) for name, value in facts.items()},
    )


def _table(connection: Connection, reply: Reply) -> dict[bytes, Reply]:
    if not isinstance(reply, list) or len(reply) % 2:
        raise _strange(connection, "ACL GETUSER")
    return {_bytes(connection, name): value for name, value in zip(reply[::2], reply[1::2], strict=True)}


def _texts(connection: Connection, reply: Reply) -> list[bytes]:
    if not isinstance(reply, list):
        raise _strange(connection, "ACL")
    return [_bytes(connection, item) for item in reply]


def _bytes(connection: Connection, reply: Reply) -> bytes:
    if not isinstance(reply, bytes):
        raise _strange(connection, "ACL")
    return reply


def _strange(connection: Connection, command: str) -> ProtocolError:
    return ProtocolError(
        connection.role,
        connection.where,
        f"the answer to {command} is not understood.",
        "This version of Greenfly does not know this server's access rules; no fence can be put up by ACL.",
    )
