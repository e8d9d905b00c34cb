"""Checks about Lua scripts, function libraries and modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from integrity.assess.command_table import CommandTable
from integrity.assess.commands import calls_by_container, used_commands
from integrity.assess.lua_script import Origin
from integrity.assess.lua_target import LuaTarget
from integrity.assess.model import Check, Finding, Severity, found, not_applicable, passed, unknown
from integrity.assess.script_files import ScriptFile, read_scripts
from integrity.assess.subcommands import Subcommands
from integrity.assess.subject import Subject
from integrity.endpoint import Endpoint
from integrity.errors import PermissionRefused
from integrity.replies import ErrorReply, Reply
from integrity.strategy import Strategy
from integrity.wire import pack

_EVALS: Final = ("eval", "evalsha", "eval_ro", "evalsha_ro")
_ALLOW: Final = "allow-undeclared-keys"
_REMEDY: Final = (
    "Pass every key in KEYS; or begin the script with the line `--!df flags=allow-undeclared-keys`, a comment for "
    "Redis; or start Dragonfly with --default_lua_flags=allow-undeclared-keys."
)
_LISTED: Final = 50


def _look_cached(subject: Subject) -> Finding:
    calls = calls_by_container(used_commands(subject.source_info))
    used = {name: calls[name] for name in _EVALS if name in calls}
    cached = subject.source_info.get("number_of_cached_scripts", "")
    evidence: dict[str, object] = {"calls": used, "cached": int(cached) if cached.isdecimal() else None}
    if not used:
        return passed("No script has been run on the source.", **evidence)
    with LuaTarget(subject.target) as target:
        strict = target.refuses_undeclared_keys()
    evidence["target_refuses_undeclared_keys"] = strict
    if strict is False:
        return found(
            Severity.INFO,
            f"Scripts are used ({sum(used.values()):,} calls); they are loaded anew on the target by the applications.",
            "A client that sends EVALSHA has to fall back to EVAL, as all well-known libraries do.",
            items=(),
            **evidence,
        )
    if subject.settings.assess.scripts:
        return passed("Scripts are used; the checks scripts.* have looked through them.", **evidence)
    return found(
        Severity.WARNING,
        f"Scripts are used ({sum(used.values()):,} calls, {cached or 'unknown'} cached), and the target refuses keys "
        "that a script was not given. No server hands scripts out, so they were not looked through.",
        "Name the scripts' files in assess.scripts; or start Dragonfly with "
        "--default_lua_flags=allow-undeclared-keys.",
        items=(),
        **evidence,
    )


def _scripts(subject: Subject) -> list[ScriptFile] | Finding:
    """The files; a finding where there is nothing to look at, or something could not be read."""
    if not subject.settings.assess.scripts:
        return not_applicable("No scripts are named in assess.scripts.")
    files, problems = read_scripts(subject.settings.assess.scripts)
    if problems:
        return unknown(
            Severity.BLOCKING,
            f"Not all of the scripts could be read: {'; '.join(problems[:5])}.",
            "Correct assess.scripts.",
            problems=problems[:_LISTED],
        )
    return files


def _look_keys(subject: Subject) -> Finding:
    files = _scripts(subject)
    if isinstance(files, Finding):
        return files
    with LuaTarget(subject.target) as target:
        strict = target.refuses_undeclared_keys()
    if strict is False:
        return passed("The target lets scripts touch keys that they were not given.", files=len(files))
    table = CommandTable.read(subject.source)

    def places(command: str, arguments: int) -> list[int] | None:
        entry = table.find(command)
        return entry.key_places(arguments) if entry is not None else None

    made_up: dict[str, list[str]] = {}
    untold: dict[str, list[str]] = {}
    for file in files:
        if _ALLOW in file.script.flags:
            continue
        for call, origin in file.script.keys(places):
            into = made_up if origin is Origin.MADE_UP else untold
            into.setdefault(file.name, []).append(f"line {call.line}: {(call.command or '?').upper()}")
    evidence: dict[str, object] = {
        "files": len(files),
        "undeclared": {name: lines[:_LISTED] for name, lines in made_up.items()},
        "not_told": {name: lines[:_LISTED] for name, lines in untold.items()},
        "target_refuses_undeclared_keys": strict,
    }
    if made_up:
        return found(
            Severity.BLOCKING,
            f"{len(made_up)} of {len(files)} scripts touch keys that they were not given in KEYS, which the target "
            "refuses.",
            _REMEDY,
            items=tuple(sorted(made_up)),
            **evidence,
        )
    if untold:
        return found(
            Severity.WARNING,
            f"Of {len(untold)} of {len(files)} scripts it cannot be told whether all their keys are given in KEYS.",
            f"Look at the lines listed. {_REMEDY}",
            items=tuple(sorted(untold)),
            **evidence,
        )
    return passed(f"All {len(files)} scripts touch only keys that they are given.", **evidence)


def _look_language(subject: Subject) -> Finding:
    files = _scripts(subject)
    if isinstance(files, Finding):
        return files
    problems: dict[str, list[str]] = {}
    with LuaTarget(subject.target) as target:
        shebang = not any(file.script.shebang for file in files) or target.takes_shebang()
        missing = set(target.missing(sorted({name for file in files for name in file.script.names})))
        if any(file.includes for file in files):
            # Parts of one script: what one calls, another may define.
            missing -= {name for file in files for name in file.script.origins}
        for file in files:
            lines = [
                f"line {line}: {name} does not exist"
                for name, line in file.script.names.items()
                if name in missing
            ]
            if file.script.shebang and not shebang:
                lines.append(f"line 1: {file.script.shebang.split()[0]} does not compile")
            error = target.compile_error(file.body)
            if error is not None:
                lines.append(f"does not compile: {error}")
            if lines:
                problems[file.name] = lines
    evidence = {"files": len(files), "problems": {name: lines[:_LISTED] for name, lines in problems.items()}}
    if problems:
        return found(
            Severity.BLOCKING,
            f"{len(problems)} of {len(files)} scripts are not fit for the target's Lua.",
            "Remove `#!lua`, and write what is missing in another way (x^y for math.pow(x, y), load for loadstring); a "
            "name that the script only calls where it exists may be waived.",
            items=tuple(sorted(problems)),
            **evidence,
        )
    return passed(
        f"The target compiles all {len(files)} scripts, and has the functions that they call.", **evidence
    )


def _look_numbers(subject: Subject) -> Finding:
    files = _scripts(subject)
    if isinstance(files, Finding):
        return files
    if subject.target_identity.engine != "dragonfly":
        return not_applicable("The target has the same Lua as the source.")
    lines = {file.name: list(file.script.divisions[:_LISTED]) for file in files if file.script.divisions}
    if not lines:
        return passed(f"None of the {len(files)} scripts divides.")
    return found(
        Severity.WARNING,
        f"{len(lines)} of {len(files)} scripts divide: in Lua 5.4 the result, put into a text by `..` or tostring, "
        "reads 5.0 where Redis has 5.",
        "Look at the lines listed; math.floor(x) gives a whole number in both.",
        items=tuple(sorted(lines)),
        lines=lines,
    )


def _look_commands(subject: Subject) -> Finding:
    files = _scripts(subject)
    if isinstance(files, Finding):
        return files
    table = CommandTable.read(subject.target)
    bad: dict[str, list[str]] = {}
    for file in files:
        for call in file.script.calls:
            if call.command is not None and table.find(call.command) is None:
                bad.setdefault(file.name, []).append(f"line {call.line}: {call.command.upper()}")
    evidence = {"files": len(files), "unknown": {name: lines[:_LISTED] for name, lines in bad.items()}}
    if bad:
        return found(
            Severity.BLOCKING,
            f"{len(bad)} of {len(files)} scripts call commands that the target does not know.",
            "Change these scripts.",
            items=tuple(sorted(bad)),
            **evidence,
        )
    return passed(f"The target knows every command that the {len(files)} scripts name.", **evidence)


def _look_functions(subject: Subject) -> Finding:
    if "function" not in subject.source_commands:
        return not_applicable("The source has no functions (Redis 7.0 and later have them).")
    libraries = _libraries(subject.source)
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
    table = CommandTable.read(subject.target)
    with subject.target.connect("assess") as connection:
        able = "function" in table.entries and Subcommands(connection, table).knows("function", "load")
    there = set(_libraries(subject.target)) if able else set()
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
        + (f" ({sum(used.values()):,} calls)." if used else "; none has been called."),
        "Turn them into scripts that the applications load (EVAL, SCRIPT LOAD).",
        items=items,
        **evidence,
    )


def _libraries(endpoint: Endpoint) -> dict[str, list[str]]:
    """Library → its functions.

    :raises PermissionRefused: FUNCTION LIST is not allowed.
    """
    with endpoint.connect("assess") as connection:
        reply = connection.command(b"FUNCTION", b"LIST")
    found_: dict[str, list[str]] = {}
    for item in reply if isinstance(reply, list) else []:
        facts = _pairs(item)
        functions = [_pairs(function) for function in _list(facts.get("functions"))]
        found_[_text(facts.get("library_name"))] = [_text(function.get("name")) for function in functions]
    return found_


def _look_modules(subject: Subject) -> Finding:
    ours, theirs = _modules(subject.source), _modules(subject.target)
    if ours is None:
        return unknown(
            Severity.WARNING,
            "The source does not tell which modules it has loaded (MODULE LIST is refused).",
            "Look it up where the server is managed; commands.unknown and data.types see what is used of them.",
        )
    missing = {name: version for name, version in ours.items() if name not in (theirs or {})}
    if not missing:
        return passed("The target has every module that the source has.", source=ours, target=theirs)
    source, target = CommandTable.read(subject.source), CommandTable.read(subject.target)
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


def _modules(endpoint: Endpoint) -> dict[str, object] | None:
    """Module → version; None where the server does not tell."""
    with endpoint.connect("assess") as connection:
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


def _check(name: str, title: str, worst: Severity, look: Callable[[Subject], Finding]) -> Check:
    return Check(name, title, worst, look)


CHECKS: Final = (
    _check("scripts.cached", "Scripts that applications run", Severity.WARNING, _look_cached),
    _check("scripts.keys", "Scripts that touch keys they were not given", Severity.BLOCKING, _look_keys),
    _check("scripts.commands", "Commands in scripts", Severity.BLOCKING, _look_commands),
    _check("scripts.language", "Scripts that the target's Lua refuses", Severity.BLOCKING, _look_language),
    _check("scripts.numbers", "Numbers that read differently in Lua 5.4", Severity.WARNING, _look_numbers),
    _check("functions.libraries", "Function libraries", Severity.BLOCKING, _look_functions),
    _check("modules.loaded", "Modules", Severity.WARNING, _look_modules),
)
