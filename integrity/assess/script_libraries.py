"""Checks about function libraries and modules."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from integrity.assess.commands import calls_by_container, used_commands
from integrity.assess.model import Finding, Severity, found, not_applicable, passed, unknown
from integrity.assess.server import Server
from integrity.assess.subcommands import Subcommands
from integrity.assess.subject import Subject
from integrity.errors import PermissionRefused
from integrity.kinds.base import plural
from integrity.replies import ErrorReply, Reply
from integrity.strategy import Strategy
from integrity.wire import pack

_LUA_OF_VALKEY: Final = "lua"
"""Since 9.1 Valkey lists its Lua as a module; whether the target runs the scripts is a matter of theirs."""


def look_functions(subject: Subject) -> Finding:
    """Function libraries of the source."""
    if "function" not in subject.source_commands:
        return not_applicable("The source has no functions (Redis 7.0 and later have them).")
    if subject.source_identity.engine == "dragonfly":
        return not_applicable("Dragonfly knows FUNCTION by name only, and holds no libraries.")
    libraries = {
        name: functions for server in subject.source_servers for name, functions in _libraries(server).items()
    }
    calls = calls_by_container(used_commands(subject.source_info))
    used = {name: calls[name] for name in ("fcall", "fcall_ro") if name in calls}
    if not libraries:
        return passed("No function library is loaded.", calls=used)
    items = tuple(sorted(libraries))
    evidence: dict[str, object] = {"libraries": libraries, "calls": used}
    if subject.strategy is Strategy.NATIVE and subject.target_identity.engine == "dragonfly":
        return found(
            Severity.BLOCKING,
            f"The source holds {len(libraries)} function libraries; Dragonfly cannot load a replication stream with "
            "one, and begins it anew without end.",
            "Use the strategy copy, or FUNCTION DELETE them if nothing calls them.",
            items=items,
            **evidence,
        )
    able, there = _on_the_target(subject)
    if able and set(libraries) <= there:
        return passed("Every function library is on the target too.", **evidence)
    if able:
        return found(
            Severity.BLOCKING if used else Severity.WARNING,
            "Function libraries are not carried over by Greenfly.",
            "Load them on the target (FUNCTION DUMP and FUNCTION RESTORE).",
            items=tuple(sorted(set(libraries) - there)),
            **evidence,
        )
    return found(
        Severity.BLOCKING if used else Severity.WARNING,
        f"The source holds {len(libraries)} function libraries, and the target has no functions"
        + (f" ({plural(sum(used.values()), 'call')})." if used else "; none has been called."),
        "Turn them into scripts that the applications load (EVAL, SCRIPT LOAD).",
        items=items,
        **evidence,
    )


def _on_the_target(subject: Subject) -> tuple[bool, set[str]]:
    """Whether the target can hold libraries, and which each node of it holds."""
    there: list[set[str]] = []
    for server in subject.target_servers:
        table = server.table
        with server.connection() as connection:
            able = "function" in table.entries and Subcommands(connection, table).knows("function", "load")
        if not able:
            return False, set()
        there.append(set(_libraries(server)))
    return True, set.intersection(*there)


def _libraries(server: Server) -> dict[str, list[str]]:
    """Library → its functions.

    :raises PermissionRefused: FUNCTION LIST is not allowed.
    """
    if "function" not in server.table.entries:
        return {}
    with server.connection() as connection:
        reply = connection.command(b"FUNCTION", b"LIST")
    found_: dict[str, list[str]] = {}
    for item in reply if isinstance(reply, list) else []:
        facts = _pairs(item)
        functions = [_pairs(function) for function in _list(facts.get("functions"))]
        found_[_text(facts.get("library_name"))] = [_text(function.get("name")) for function in functions]
    return found_


def look_modules(subject: Subject) -> Finding:
    """Modules of the source, by what is used of them."""
    ours, theirs = _of_any(subject.source_servers), _of_all(subject.target_servers)
    if ours is None:
        return unknown(
            Severity.WARNING,
            "The source does not tell which modules it has loaded (MODULE LIST is refused).",
            "Look it up where the server is managed; commands.unknown and data.types see what is used of them.",
        )
    missing = {
        name: version
        for name, version in ours.items()
        if name not in (theirs or {}) and name != _LUA_OF_VALKEY
    }
    if not missing:
        return passed("The target has every module that the source has.", source=ours, target=theirs)
    source, target = subject.source_table, subject.target_table
    calls = calls_by_container(used_commands(subject.source_info))
    own = {name for name, entry in source.entries.items() if "module" in entry.flags}
    lacking = {name: calls[name] for name in sorted(own & calls.keys()) if target.find(name) is None}
    evidence: dict[str, object] = {"source": ours, "target": theirs, "used_and_unknown": lacking}
    if lacking:
        return found(
            Severity.WARNING,
            f"The target lacks the modules {', '.join(missing)}, and {len(lacking)} of their commands are used.",
            "commands.unknown names the commands, data.types the keys that the target cannot hold.",
            items=tuple(missing),
            **evidence,
        )
    return found(
        Severity.INFO,
        f"The target lacks the modules {', '.join(missing)}; none of their commands that it does not know was used.",
        "Nothing, as long as data.types finds no keys of theirs.",
        items=tuple(missing),
        **evidence,
    )


def _of_any(servers: Iterable[Server]) -> dict[str, object] | None:
    """Modules of any node; None where one does not tell."""
    found_: dict[str, object] = {}
    for server in servers:
        modules = _modules(server)
        if modules is None:
            return None
        found_ |= modules
    return found_


def _of_all(servers: Iterable[Server]) -> dict[str, object] | None:
    """Modules that each node has; None where one does not tell."""
    told = [_modules(server) for server in servers]
    known = [modules for modules in told if modules is not None]
    if len(known) < len(told):
        return None
    return {name: version for name, version in known[0].items() if all(name in each for each in known)}


def _modules(server: Server) -> dict[str, object] | None:
    """Module → version; None where the server does not tell."""
    with server.connection() as connection:
        reply = connection.exchange([pack(b"MODULE", b"LIST")])[0]
        if isinstance(reply, ErrorReply):
            error = connection.error_for(reply, "MODULE LIST")
            if isinstance(error, PermissionRefused) or "unknown" in str(reply).lower():
                return None
            raise error
    facts = [_pairs(item) for item in _list(reply)]
    return {_text(module.get("name")): module.get("ver") for module in facts}


def _list(reply: Reply) -> list[Reply]:
    return reply if isinstance(reply, list) else []


def _pairs(reply: Reply) -> dict[str, Reply]:
    items = _list(reply)
    return {_text(name): value for name, value in zip(items[::2], items[1::2], strict=False)}


def _text(reply: Reply) -> str:
    return reply.decode("utf-8", "replace") if isinstance(reply, bytes) else ""
