"""What a finished run says about itself, taken out of its JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from tests.cli import CompletedRun, Greenfly, dig
from tests.inprocess import between, run_here
from tests.raw import Raw
from tests.servers import Store

Found: TypeAlias = tuple[str, str, int, bytes]
"""class, state, database, key"""


def migrate(
    greenfly: Greenfly, source: str, target: str, *arguments: str, env: Mapping[str, str] | None = None
) -> CompletedRun:
    """A migration in this process, without a snapshot."""
    flags = (*between(source, target), "--no-snapshot", "--json", *arguments)
    return run_here(greenfly, "migrate", *flags, env=env)


def verify(
    greenfly: Greenfly, source: str, target: str, *arguments: str, env: Mapping[str, str] | None = None
) -> CompletedRun:
    """A comparison in this process."""
    return run_here(greenfly, "verify", *between(source, target), "--json", *arguments, env=env)


def report(run: CompletedRun) -> object:
    """The run's report for programs."""
    path = run.at("report", "json")
    assert isinstance(path, str)
    return json.loads(Path(path).read_text("utf-8"))


def findings(run: CompletedRun) -> list[Found]:
    """Every finding of the run's report, sorted."""
    listed = dig(report(run), "findings")
    assert isinstance(listed, list)
    found = []
    for item in listed:
        name, database = dig(item, "key", "hex"), dig(item, "database")
        assert isinstance(name, str)
        assert isinstance(database, int)
        found.append((str(dig(item, "class")), str(dig(item, "state")), database, bytes.fromhex(name)))
    return sorted(found)


def finding_rules(run: CompletedRun) -> dict[bytes, set[str]]:
    """Key → the rules under which its findings are exceptions."""
    listed = dig(report(run), "findings")
    assert isinstance(listed, list)
    rules: dict[bytes, set[str]] = {}
    for item in listed:
        if dig(item, "state") == "exception":
            rules.setdefault(bytes.fromhex(str(dig(item, "key", "hex"))), set()).add(str(dig(item, "rule")))
    return rules


def detail(run: CompletedRun, phase: str, *path: str) -> object:
    """One value of a phase's detail."""
    phases = run.at("phases")
    assert isinstance(phases, list)
    return dig(next(item for item in phases if dig(item, "name") == phase), "detail", *path)


def all_keys(store: Store) -> set[tuple[int, bytes]]:
    """Database and name of every key."""
    found: set[tuple[int, bytes]] = set()
    for database in range(16):
        with Raw(store.url, database) as raw:
            found |= {(database, key) for key in Raw.keys(raw)}
    return found


def calls(store: Store, command: str) -> int:
    """How often a command was called, as the server itself counts."""
    stats = store.client.info("commandstats")
    assert isinstance(stats, dict)
    facts = stats.get(f"cmdstat_{command}")
    return int(str(dig(facts, "calls"))) if facts is not None else 0
