"""Differences that are to be expected, each with the reason; every other difference fails the command.

An expectation allows a finding, it does not hide one: the oracle still holds every finding against both servers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from tests.matrix.loader import Case
from tests.matrix.servers import Server

Told: TypeAlias = tuple[str, str | None]
"""Class of a finding, and the rule that covers it (None: it stands open, and the verdict is no PASS)."""

_NOT_CARRIED: Final[Told] = ("not-carried", "typed-rewrite")
_ABSENT: Final[frozenset[Told]] = frozenset({("refused", None), ("missing", None)})


@dataclass(frozen=True, slots=True)
class Expectation:
    """One reason for differences."""

    reason: str
    cases: str
    """How the names of the cases begin."""
    told: frozenset[Told]
    when: Callable[[Case, Server, Server], bool]
    """Case, source and target for which they are expected."""


def _lacks(command: bytes) -> Callable[[Case, Server, Server], bool]:
    return lambda case, source, target: not target.knows(command)


def _has(command: bytes) -> Callable[[Case, Server, Server], bool]:
    return lambda case, source, target: target.knows(command)


def _into_dragonfly(case: Case, source: Server, target: Server) -> bool:
    return target.engine == "dragonfly"


def _newest_stream(server: Server) -> int:
    """The newest RDB type of a stream that the server reads, which is the one that it writes."""
    if server.engine == "redis" and server.program.version < (7, 2):
        return 15 if server.program.version < (7,) else 19
    return 21


def _written_with_commands(case: Case, source: Server, target: Server) -> bool:
    return case.big or _newest_stream(source) > _newest_stream(target)


def _module(name: str, command: bytes) -> tuple[Expectation, Expectation]:
    return (
        Expectation(
            f"The target has no {name}; the key is named and not carried.",
            f"module/{name}",
            _ABSENT,
            _lacks(command),
        ),
        Expectation(
            f"A {name} is carried as its payload, and Greenfly has no canonical form of it to compare: the verdict "
            "is INCONCLUSIVE.",
            f"module/{name}",
            frozenset({("unreadable", None)}),
            _has(command),
        ),
    )


EXPECTATIONS: Final[tuple[Expectation, ...]] = (
    Expectation(
        "Dragonfly keeps no expiry further away than 268,435,455 seconds and takes that instead.",
        "expiry/10 years",
        frozenset({("expiry", "expiry-limit")}),
        _into_dragonfly,
    ),
    Expectation(
        "Field expiries have the same limit there; the fields get the longest expiry that it keeps.",
        "hash/field expiry, in 10 years",
        frozenset({_NOT_CARRIED, ("field-expiry", "expiry-limit")}),
        _into_dragonfly,
    ),
    Expectation(
        "The target has no field expiries: the fields arrive and never expire. The verdict is FAIL.",
        "hash/field expiry, ",
        frozenset({_NOT_CARRIED, ("field-expiry", None)}),
        _lacks(b"HPEXPIRETIME"),
    ),
    Expectation(
        "Only Dragonfly has expiries of set members.",
        "set/member expiry",
        frozenset({_NOT_CARRIED}),
        _lacks(b"SADDEX"),
    ),
    Expectation(
        "A stream that is too big for one payload, or whose payload is too new for the target, is made again with "
        "typed commands. They cannot say when a consumer was last seen; before Redis 7.0 and on Dragonfly not a "
        "group's entries-read either, and on Dragonfly not how many entries were ever added.",
        "stream/",
        frozenset({_NOT_CARRIED}),
        _written_with_commands,
    ),
    Expectation(
        "The counter that typed commands could not set is compared as well.",
        "stream/",
        frozenset({("value", "typed-rewrite")}),
        lambda case, source, target: case.big and target.engine == "dragonfly",
    ),
    Expectation("The target has no JSON.", "JSON/", _ABSENT, _lacks(b"JSON.SET")),
    *_module("Bloom filter", b"BF.RESERVE"),
    *_module("count-min sketch", b"CMS.INITBYDIM"),
    *_module("vector set", b"VADD"),
)


def expectation(case: Case, source: Server, target: Server) -> frozenset[Told]:
    """The findings that may come of this case between these two."""
    return frozenset(
        told
        for expected in EXPECTATIONS
        if case.name.startswith(expected.cases) and expected.when(case, source, target)
        for told in expected.told
    )
