"""Checks about the ACL users of the source, and what they would be on the target."""

from __future__ import annotations

from typing import Final

from integrity.assess.acl_translation import TranslatedUser, translated
from integrity.assess.acl_users import AclUser, acl_over, permitted
from integrity.assess.command_table import CommandTable
from integrity.assess.connected import applications
from integrity.assess.model import Check, Finding, Reach, Severity, found, not_applicable, passed, unknown
from integrity.assess.server import Server
from integrity.assess.subject import Subject
from integrity.errors import PermissionRefused, ProtocolError

_SHOWN_HASH: Final = 15
"""How many characters of a hash Dragonfly shows."""


def _look_acl(subject: Subject) -> Finding:
    if "acl" not in subject.source_commands:
        return not_applicable("The source has no ACL users.")
    try:
        users = [user for user in _users(subject.source_servers[0]) if not user.unrestricted]
    except PermissionRefused:
        return unknown(
            Severity.WARNING,
            "The source does not show its users (ACL GETUSER is refused).",
            "Give the target the users and passwords that the applications log in with.",
        )
    if not users:
        return passed("The source has no users besides an open default.")
    try:
        there = {user.name: user for user in _users(subject.target_servers[0])}
    except (PermissionRefused, ProtocolError):
        there = None
    in_use = _in_use(subject)
    if subject.target_identity.engine != "dragonfly":
        return _by_name(users, there, in_use)
    table = subject.target_table
    lines = translated(users, subject.source_table, table)
    states = {
        line.name: _state(line, there.get(line.name), table) if there is not None else "not told"
        for line in lines
    }
    inexact = [line.name for line in lines if not line.exact]
    open_ = [name for name, state in states.items() if state != "equal"]
    evidence: dict[str, object] = {
        "users": {line.name: _facts(line, states[line.name], in_use) for line in lines},
    }
    if open_ or inexact:
        parts = (
            [f"{len(open_)} of {len(lines)} users are not on the target as they should be"] if open_ else []
        )
        parts += [f"{len(inexact)} cannot be the same on Dragonfly"] if inexact else []
        return found(
            Severity.WARNING,
            f"{' and '.join(parts)}.",
            "`greenfly assess acl --output FILE` writes an ACL file for Dragonfly with the passwords' hashes (for "
            "--aclfile, or ACL LOAD); look at what each line leaves out.",
            items=tuple(sorted({*open_, *inexact})),
            **evidence,
        )
    return passed(
        f"All {len(lines)} users are on the target, with the same rights and passwords.", **evidence
    )


def _users(server: Server) -> list[AclUser]:
    """
    :raises PermissionRefused: they may not be read.
    """
    with server.connection() as connection:
        return acl_over(connection, server.endpoint)


def _by_name(users: list[AclUser], there: dict[str, AclUser] | None, in_use: dict[str, int]) -> Finding:
    missing = [user.name for user in users if there is None or user.name not in there]
    evidence = {user.name: {"connections": in_use.get(user.name, 0)} for user in users}
    if missing:
        return found(
            Severity.WARNING,
            f"{len(missing)} of {len(users)} users are not on the target; Greenfly carries none over.",
            "Take their lines from ACL LIST on the source.",
            items=tuple(sorted(missing)),
            users=evidence,
        )
    return passed(
        f"All {len(users)} users are on the target; their rights were not compared.", users=evidence
    )


def _state(line: TranslatedUser, user: AclUser | None, table: CommandTable) -> str:
    """What the target's user is like: ``missing``, ``equal``, or what differs."""
    if user is None:
        return "missing"
    ours = line.user
    differs = []
    if (ours.enabled, ours.without_password) != (user.enabled, user.without_password):
        differs.append("state")
    if {value[:_SHOWN_HASH] for value in ours.hashes} != {value[:_SHOWN_HASH] for value in user.hashes}:
        differs.append("passwords")
    if set(ours.keys) != set(user.keys):
        differs.append("keys")
    if set(ours.channels) != set(user.channels):
        differs.append("channels")
    if permitted(line.rules, table) != permitted(user.commands, table):
        differs.append("commands")
    return f"other {', '.join(differs)}" if differs else "equal"


def _facts(line: TranslatedUser, state: str, in_use: dict[str, int]) -> dict[str, object]:
    return {
        "on_target": state,
        "line": line.masked,
        "connections": in_use.get(line.name, 0),
        "refused_as_a_whole": {name: list(subs) for name, subs in line.partly.items()},
        "left_out": [*line.lost, *line.problems],
    }


def _in_use(subject: Subject) -> dict[str, int]:
    """User → connections now."""
    try:
        clients = applications(subject.source_clients)
    except (PermissionRefused, ProtocolError):
        return {}
    names = [client.user for client in clients if client.user]
    return {name: names.count(name) for name in set(names)}


def _meaning(user: AclUser, table: CommandTable) -> tuple[object, ...]:
    """What a user may do, however its server orders the rules."""
    return (
        user.enabled,
        user.without_password,
        permitted(user.commands, table),
        frozenset(user.keys),
        frozenset(user.channels),
        user.selectors,
        frozenset(user.hashes),
    )


def _look_alike(subject: Subject) -> Finding:
    """Whether a user may do the same on each node of a cluster; ACL rules are not spread by the cluster itself."""
    servers = subject.source_servers
    if not subject.source_identity.is_cluster:
        return not_applicable("The source is one server.")
    table = subject.source_table
    told = {server.place: {user.name: user for user in _users(server)} for server in servers}
    names = sorted({name for users in told.values() for name in users})
    differing = [
        name
        for name in names
        if any(name not in users for users in told.values())
        or len({_meaning(users[name], table) for users in told.values()}) > 1
    ]
    evidence: dict[str, object] = {
        "users": {
            name: {place: "is there" if name in users else "missing" for place, users in told.items()}
            for name in differing
        }
    }
    if differing:
        return found(
            Severity.WARNING,
            f"{len(differing)} users are not the same on all {len(servers)} masters: what they may do, and their "
            "passwords, depend on the key. A move can keep only one of them.",
            "Make them alike (ACL SETUSER and ACL SAVE on every node, replicas too) before the users are carried over.",
            items=tuple(differing),
            **evidence,
        )
    return passed(f"All {len(names)} users are the same on {len(servers)} masters.")


CHECKS: Final = (
    Check("users.acl", "ACL users", Severity.WARNING, _look_acl, source=Reach.EACH, target=Reach.EACH),
    Check(
        "users.alike",
        "ACL users of a cluster's nodes",
        Severity.WARNING,
        _look_alike,
        source=Reach.WHOLE,
        target=Reach.WHOLE,
    ),
)
