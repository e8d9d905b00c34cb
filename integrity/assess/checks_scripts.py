"""Checks about Lua scripts, function libraries and modules."""

from __future__ import annotations

from typing import Final

from integrity.assess.commands import calls_by_container, used_commands
from integrity.assess.lua_script import Origin
from integrity.assess.lua_target import LuaTarget
from integrity.assess.model import Check, Finding, Reach, Severity, found, not_applicable, passed, unknown
from integrity.assess.script_files import ScriptFile, read_scripts
from integrity.assess.script_libraries import look_functions, look_modules
from integrity.assess.subject import Subject
from integrity.kinds.base import plural

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
            f"Scripts are used ({plural(sum(used.values()), 'call')}); applications load them anew on the target.",
            "A client that sends EVALSHA has to fall back to EVAL, as all well-known libraries do.",
            items=(),
            **evidence,
        )
    if subject.settings.assess.scripts:
        return passed("Scripts are used; the checks scripts.* have looked through them.", **evidence)
    return found(
        Severity.WARNING,
        f"Scripts are used ({plural(sum(used.values()), 'call')}, {cached or 'unknown'} cached), and the target "
        "refuses keys that a script was not given. No server hands scripts out, so they were not looked through.",
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
    table = subject.source_table

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
    table = subject.target_table
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


CHECKS: Final = (
    Check(
        "scripts.cached",
        "Scripts that applications run",
        Severity.WARNING,
        _look_cached,
        source=Reach.WHOLE,
        target=Reach.EACH,
    ),
    Check(
        "scripts.keys",
        "Scripts that touch keys they were not given",
        Severity.BLOCKING,
        _look_keys,
        source=Reach.WHOLE,
        target=Reach.EACH,
    ),
    Check(
        "scripts.commands",
        "Commands in scripts",
        Severity.BLOCKING,
        _look_commands,
        source=Reach.WHOLE,
        target=Reach.WHOLE,
    ),
    Check(
        "scripts.language",
        "Scripts that the target's Lua refuses",
        Severity.BLOCKING,
        _look_language,
        source=Reach.WHOLE,
        target=Reach.EACH,
    ),
    Check(
        "scripts.numbers",
        "Numbers that read differently in Lua 5.4",
        Severity.WARNING,
        _look_numbers,
        source=Reach.WHOLE,
        target=Reach.WHOLE,
    ),
    Check(
        "functions.libraries",
        "Function libraries",
        Severity.BLOCKING,
        look_functions,
        source=Reach.WHOLE,
        target=Reach.WHOLE,
    ),
    Check(
        "modules.loaded", "Modules", Severity.WARNING, look_modules, source=Reach.WHOLE, target=Reach.WHOLE
    ),
)
