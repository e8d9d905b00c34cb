"""A Redis user as a line of Dragonfly's ACL file, with never more rights than it had.

Dragonfly 1.40 takes a password's hash only from its file (``--aclfile``, ``ACL LOAD``), never by ACL SETUSER.  It has
no selectors, no rights for single subcommands, and puts other commands into a category of the same name; so each rule
is tried in its own table, and what differs is put right command by command.  What cannot be said is left out, and told.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from integrity.assess.acl_users import AclUser, command_units, permitted, read_acl
from integrity.assess.command_table import CommandTable
from integrity.endpoint import Endpoint
from integrity.switch.access import rules_of

_MASK: Final = "#…"
_CATEGORIES: Final = {"hyperloglog": "hyperlog"}
"""Names of categories that differ on Dragonfly; one that it does not have at all matches nothing."""


@dataclass(frozen=True, slots=True)
class TranslatedUser:
    """One user as Dragonfly would have it."""

    user: AclUser = field(repr=False)
    rules: str
    """Command rules, as Dragonfly takes them."""
    partly: dict[str, tuple[str, ...]]
    """Command → its permitted subcommands, where the user may not run the others: refused as a whole, unless asked
    for, because Dragonfly cannot tell them apart."""
    lost: tuple[str, ...]
    """Permitted commands that the line cannot permit on Dragonfly, although it has them."""
    problems: tuple[str, ...]
    """What else could not be said."""

    @property
    def name(self) -> str:
        """The user's name."""
        return self.user.name

    @property
    def exact(self) -> bool:
        """Whether the user may do on Dragonfly what it might on the source, of what both servers know."""
        return not (self.partly or self.lost or self.problems)

    @property
    def masked(self) -> str:
        """The line without the hashes, for people, reports and the ledger."""
        return self._line(_MASK for _ in self.user.hashes)

    def line(self) -> str:
        """The line for the ACL file: **a secret**, it holds the hashes of the passwords."""
        return self._line(f"#{value}" for value in self.user.hashes)

    def _line(self, passwords: Iterable[str]) -> str:
        user = self.user
        words = ["USER", user.name, "ON" if user.enabled else "OFF"]
        words += ["nopass"] if user.without_password else passwords
        words += [*user.keys, *(user.channels or ("resetchannels",)), self.rules]
        return " ".join(words)


def translate_users(
    source: Endpoint, target: Endpoint, *, grant_partly: bool = False
) -> list[TranslatedUser]:
    """Every user of *source*, for the Dragonfly *target*.

    :param grant_partly: permit a command as a whole of which the user might run some subcommands: more rights than
        it had (CLIENT KILL to who might CLIENT SETNAME, say).
    :raises PermissionRefused: the ACL or the commands may not be asked for.
    :raises ServerError: a server cannot be asked.
    """
    ours, theirs = CommandTable.read(source), CommandTable.read(target)
    return translated(read_acl(source), ours, theirs, grant_partly=grant_partly)


def translated(
    users: Iterable[AclUser], ours: CommandTable, theirs: CommandTable, *, grant_partly: bool = False
) -> list[TranslatedUser]:
    """The same of users that were read already, with the commands of both servers."""
    return [_translated(user, ours, theirs, grant_partly) for user in users]


def _translated(user: AclUser, ours: CommandTable, theirs: CommandTable, grant: bool) -> TranslatedUser:
    if rules_of(user.commands) == ["+@all"]:
        return TranslatedUser(user, "+@all", {}, (), _problems(user))
    allowed, units = permitted(user.commands, ours), command_units(theirs)
    by_category = permitted(user.commands, theirs, _CATEGORIES)
    # On Redis no rule is about these; on Dragonfly a user without the right to AUTH or HELLO cannot log in.
    wanted = {name for name in units if (entry := ours.find(name)) is not None and "no_auth" in entry.flags}
    partly: dict[str, tuple[str, ...]] = {}
    for unit in units:
        entry = ours.find(unit)
        if entry is None:
            # Only Dragonfly has it: as its categories have it.
            wanted |= {unit} & by_category
            continue
        inner = {f"{unit}|{sub}" for sub in entry.subcommands if sub != "help"} or {unit}
        held = inner & allowed or {name for name in _single(user.commands, unit) if entry.is_container}
        if held >= inner:
            wanted.add(unit)
        elif held:
            partly[unit] = tuple(sorted(name.partition("|")[2] for name in held))
            wanted |= {unit} if grant else set()
    rules, given = _shortest(user.commands, theirs, frozenset(wanted))
    return TranslatedUser(
        user, rules, {} if grant else partly, tuple(sorted(wanted - given)), _problems(user)
    )


def _single(commands: str, unit: str) -> set[str]:
    """Subcommands that are permitted one by one, where the server lists none (Redis 6.2)."""
    return {rule[1:].lower() for rule in rules_of(commands) if rule.lower().startswith(f"+{unit}|")}


def _shortest(commands: str, table: CommandTable, wanted: frozenset[str]) -> tuple[str, frozenset[str]]:
    """The shortest rules that permit *wanted*, or as much of it as can be said, and what they permit."""
    units = command_units(table)
    categories = {name for entry in units.values() for name in entry.categories}
    mapped = [_mapped(rule) for rule in rules_of(commands)]
    kept = [
        rule
        for rule in mapped
        if rule[1:] in {"@all", *(f"@{name}" for name in categories)} or rule[1:] in units
    ]
    if not kept or kept[0] not in {"-@all", "+@all"}:
        kept.insert(0, "-@all")
    tried = []
    for start in (kept, ["+@all", "-@admin"], ["-@all"]):
        given = permitted(" ".join(start), table)
        # A file has no word for "acl setuser", so what is wrong about such a name cannot be put right.
        if any(" " in _word(name) for name in given - wanted):
            continue
        more = [f"+{name}" for name in sorted(wanted - given) if "|" not in name]
        less = [f"-{name}" for name in sorted(given - wanted)]
        rules = [*start, *more, *less]
        tried.append((len(rules), " ".join(rules), permitted(" ".join(rules), table)))
    _, best, given = min(tried)
    return best, given


def _mapped(rule: str) -> str:
    name = rule[1:].lower()
    category = name.removeprefix("@")
    return f"{rule[0]}@{_CATEGORIES.get(category, category)}" if name.startswith("@") else rule[0] + name


def _word(name: str) -> str:
    """How Dragonfly writes a subcommand that it lists beside the others: with a space."""
    return name.replace("|", " ")


def _problems(user: AclUser) -> tuple[str, ...]:
    problems = []
    if user.hides_hashes:
        problems.append("the source shows only the beginning of its password's hash")
    if user.selectors:
        problems.append(f"{user.selectors} selectors, which Dragonfly does not have, are left out")
    if not user.hashes and not user.without_password and user.enabled:
        problems.append("no password is set, so no one can log in")
    return tuple(problems)
