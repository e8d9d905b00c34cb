"""The ACL users of a server, with what they may run, on which keys and channels, and their passwords' hashes.

Hashes are secrets: they are in no ``repr``, and leave this value only by :attr:`AclUser.hashes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from integrity.assess.command_table import CommandEntry, CommandTable
from integrity.endpoint import Endpoint
from integrity.errors import ProtocolError
from integrity.replies import ErrorReply, Reply
from integrity.switch.access import raw, rules_of, text, user_names
from integrity.switch.own_user import temporary
from integrity.wire import Connection, pack

_HASH_LENGTH: Final = 64
_ALIASES: Final = {"allcommands": "+@all", "nocommands": "-@all"}


@dataclass(frozen=True, slots=True)
class AclUser:
    """One user."""

    name: str
    enabled: bool
    without_password: bool
    """Whether any password lets one in."""
    commands: str
    """Rules in their order, as ``-@all +@read +set``."""
    keys: tuple[str, ...]
    """Patterns as rules: ``~*``, ``%R~app:*``."""
    channels: tuple[str, ...]
    """Patterns as rules: ``&*``."""
    selectors: int
    """Further sets of rules (Redis 7.0 and later)."""
    hashes: tuple[str, ...] = field(default=(), repr=False)
    """SHA-256 of each password, in hexadecimal; Dragonfly shows only the beginning."""

    @property
    def hides_hashes(self) -> bool:
        """Whether the server shows only the beginning of a hash, which can be compared and not be used."""
        return any(len(value) != _HASH_LENGTH for value in self.hashes)

    @property
    def unrestricted(self) -> bool:
        """Whether nothing is asked of it and everything is allowed, as of a default user that was never touched."""
        return (
            self.enabled
            and self.without_password
            and self.keys == ("~*",)
            and rules_of(self.commands) == ["+@all"]
        )


def read_acl(endpoint: Endpoint) -> list[AclUser]:
    """Every user but those that Greenfly makes for itself.

    :raises PermissionRefused: the ACL may not be read.
    :raises ServerError: the server has none, or answers in a form that is not understood.
    """
    with endpoint.connect("assess") as connection:
        return acl_over(connection, endpoint)


def acl_over(connection: Connection, endpoint: Endpoint) -> list[AclUser]:
    """The same over a connection that is there already.

    :raises PermissionRefused: the ACL may not be read.
    :raises ServerError: the server has none, or answers in a form that is not understood.
    """
    names = [name for name in user_names(connection) if not temporary([name])]
    replies = connection.exchange([pack(b"ACL", b"GETUSER", raw(name)) for name in names])
    users = []
    for name, reply in zip(names, replies, strict=True):
        if isinstance(reply, ErrorReply):
            raise connection.error_for(reply, "ACL GETUSER")
        if reply is not None:
            users.append(_user(endpoint, name, reply))
    return users


def permitted(
    commands: str, table: CommandTable, categories: Mapping[str, str] | None = None
) -> frozenset[str]:
    """What a list of rules permits of the commands of *table*; subcommands as ``client|kill`` where it lists them.

    A rule about what the table does not know permits nothing and forbids nothing.

    :param categories: what the table's server calls a category, where its name differs.
    """
    units = command_units(table)
    allowed: set[str] = set()
    for rule in rules_of(commands):
        affected = _affected(rule[1:].lower(), units, categories or {})
        allowed = allowed | affected if rule[0] == "+" else allowed - affected
    return frozenset(allowed)


def command_units(table: CommandTable) -> dict[str, CommandEntry]:
    """What a right can be given for, as far as the server tells: commands, and subcommands where it lists them."""
    units: dict[str, CommandEntry] = {}
    for name, entry in table.entries.items():
        if entry.subcommands:
            units |= {f"{name}|{sub}": inner for sub, inner in entry.subcommands.items()}
        else:
            units[name] = entry
    return units


def _affected(name: str, units: Mapping[str, CommandEntry], categories: Mapping[str, str]) -> set[str]:
    if name == "@all":
        return set(units)
    if name.startswith("@"):
        category = categories.get(name[1:], name[1:])
        return {unit for unit, entry in units.items() if category in entry.categories}
    return {unit for unit in units if unit == name or unit.startswith(f"{name}|")}


def _user(endpoint: Endpoint, name: str, reply: Reply) -> AclUser:
    if not isinstance(reply, list):
        raise _strange(endpoint)
    facts = {
        key: value for key, value in zip(reply[::2], reply[1::2], strict=False) if isinstance(key, bytes)
    }
    flags = _words(facts.get(b"flags"))
    selectors = facts.get(b"selectors")
    commands = " ".join(_ALIASES.get(word, word) for word in _words(facts.get(b"commands")))
    if not {b"flags", b"passwords", b"commands", b"keys"} <= facts.keys():
        raise _strange(endpoint)
    return AclUser(
        name=name,
        enabled="on" in flags,
        without_password="nopass" in flags,
        commands=commands or "-@all",
        keys=_patterns(facts.get(b"keys"), "~"),
        channels=_patterns(facts.get(b"channels"), "&"),
        selectors=len(selectors) if isinstance(selectors, list) else 0,
        hashes=tuple(word.removeprefix("#") for word in _words(facts.get(b"passwords"))),
    )


def _patterns(reply: Reply | None, sign: str) -> tuple[str, ...]:
    """Redis 6.2 gives a list without signs, later ones a text with them."""
    words = _words(reply)
    if isinstance(reply, list):
        words = [sign + word for word in words]
    words = [word for word in words if word != "resetchannels"]
    everything = sign + "*"
    return (everything,) if everything in words else tuple(words)


def _words(reply: Reply | None) -> list[str]:
    if isinstance(reply, list):
        return [text(item) for item in reply if isinstance(item, bytes)]
    return text(reply).split() if isinstance(reply, bytes) else []


def _strange(endpoint: Endpoint) -> ProtocolError:
    return ProtocolError(
        endpoint.role,
        str(endpoint),
        "the answer to ACL GETUSER is not understood.",
        "This version of Greenfly does not know this server's access rules.",
    )
