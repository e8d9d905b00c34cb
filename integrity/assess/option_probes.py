"""Options of commands that a target may not take, each tried on it with a key that no one has.

No probe changes anything: the keys do not exist, and the command either does nothing for such a key (``XX``,
``NOMKSTREAM``) or creates nothing from it.  The same command with a word that is no option is the control: a reply
that differs from the control's error shows that the option was read.  What the *source* takes is not tried there; it
tells by COMMAND DOCS (Redis 7.0 and later), and Redis 6.2 by its version.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from integrity.replies import ErrorReply, Reply
from integrity.wire import Connection, pack

_NO_OPTION: Final = "GREENFLYNOSUCH"
_NO_CLIENT: Final = "9223372036854775807"
_OLDEST: Final = (6, 0)


@dataclass(frozen=True, slots=True)
class Probe:
    """One option of one command."""

    text: str
    """The command; ``{a}``, ``{b}`` and ``{c}`` are the keys, the option stands in brackets."""
    since: tuple[int, int] = _OLDEST
    """The first Redis that takes it; asked only where the source has no COMMAND DOCS."""
    drops_on_replication: bool = False
    """Whether a source sends it to its replicas as it was given, so that one that does not take it drops the write."""

    @property
    def command(self) -> str:
        """The command, as ``copy``."""
        return self.text.split()[0].lower()

    @property
    def name(self) -> str:
        """Where the source counts it, as ``copy`` or ``client|kill``."""
        words = self.text.split()
        return f"{words[0]}|{words[1]}".lower() if words[0] in {"CLIENT", "XGROUP", "XINFO"} else self.command

    @property
    def option(self) -> str:
        """The option, as ``DB``."""
        return self.text.partition("[")[2].partition("]")[0]

    @property
    def title(self) -> str:
        """For people, as ``COPY … DB``."""
        return f"{self.name.replace('|', ' ').upper()} … {self.option}"


PROBES: Final = (
    Probe("BITCOUNT {a} 0 -1 [BIT]", (7, 0)),
    Probe("BITFIELD {a} [OVERFLOW] SAT"),
    Probe("BITOP [DIFF] {a} {b} {c}", (8, 2), drops_on_replication=True),
    Probe("BITOP [DIFF1] {a} {b} {c}", (8, 2), drops_on_replication=True),
    Probe("BITOP [ANDOR] {a} {b} {c}", (8, 2), drops_on_replication=True),
    Probe("BITOP [ONE] {a} {b} {c}", (8, 2), drops_on_replication=True),
    Probe("BITPOS {a} 1 0 -1 [BIT]", (7, 0)),
    Probe(f"CLIENT KILL ID {_NO_CLIENT} [USER] default"),
    Probe(f"CLIENT KILL ID {_NO_CLIENT} [TYPE] pubsub"),
    Probe(f"CLIENT KILL ID {_NO_CLIENT} [SKIPME] yes"),
    Probe(f"CLIENT KILL ID {_NO_CLIENT} [MAXAGE] 100000000", (7, 4)),
    Probe("CLIENT LIST [TYPE] normal"),
    Probe("CLIENT LIST [ID] 1", (6, 2)),
    Probe("COPY {a} {b} [DB] 0", (6, 2), drops_on_replication=True),
    Probe("COPY {a} {b} [REPLACE]", (6, 2), drops_on_replication=True),
    Probe("EXPIRE {a} 100 [NX]", (7, 0)),
    Probe("EXPIRE {a} 100 [GT]", (7, 0)),
    Probe("EXPIREAT {a} 4000000000 [XX]", (7, 0)),
    Probe("PEXPIRE {a} 100000 [LT]", (7, 0)),
    Probe("PEXPIREAT {a} 4000000000000 [NX]", (7, 0)),
    Probe("GEOADD {a} [XX] 1 1 m", (6, 2)),
    Probe("GEOADD {a} XX [CH] 1 1 m", (6, 2)),
    Probe("GEORADIUS {a} 1 1 1 m COUNT 1 [ANY]", (6, 2)),
    Probe("GEORADIUS {a} 1 1 1 m [STORE] {b}"),
    Probe("GEORADIUS {a} 1 1 1 m [STOREDIST] {b}"),
    Probe("GEORADIUSBYMEMBER {a} m 1 m [STORE] {b}"),
    Probe("GEOSEARCH {a} FROMLONLAT 1 1 [BYBOX] 1 1 m", (6, 2)),
    Probe("GEOSEARCH {a} [BYPOLYGON] 3 1 1 2 2 1 2", (99, 0)),
    Probe("GEOSEARCH {a} FROMLONLAT 1 1 BYRADIUS 1 m [WITHHASH]", (6, 2)),
    Probe("GETEX {a} [PERSIST]", (6, 2)),
    Probe("GETEX {a} [PXAT] 4000000000000", (6, 2)),
    Probe("HELLO 2 [SETNAME] greenfly:assess"),
    Probe("HEXPIRE {a} 10 [NX] FIELDS 1 f", (7, 4)),
    Probe("HGETEX {a} [PERSIST] FIELDS 1 f", (8, 0)),
    Probe("HGETEX {a} [EX] 10 FIELDS 1 f", (8, 0)),
    Probe("HRANDFIELD {a} 1 [WITHVALUES]", (6, 2)),
    Probe("HSETEX {a} [FXX] FIELDS 1 f v", (8, 0)),
    Probe("HSETEX {a} FXX [KEEPTTL] FIELDS 1 f v", (8, 0)),
    Probe("LCS {a} {b} [IDX]", (7, 0)),
    Probe("LMPOP 1 {a} LEFT [COUNT] 1", (7, 0)),
    Probe("LPOS {a} e [RANK] 1", (6, 2)),
    Probe("LPOS {a} e [MAXLEN] 1", (6, 2)),
    Probe("SCAN 0 COUNT 1 [TYPE] string"),
    Probe("SET {a} v XX [GET]", (6, 2)),
    Probe("SET {a} v XX [KEEPTTL]"),
    Probe("SET {a} v XX [EXAT] 4000000000", (6, 2)),
    Probe("SET {a} v [IFEQ] x", (8, 4)),
    Probe("SET {a} v [IFDEQ] 0123456789abcdef", (8, 4)),
    Probe("SINTERCARD 1 {a} [LIMIT] 1", (7, 0)),
    Probe("SORT {a} [BY] nosort"),
    Probe("SORT {a} [GET] #"),
    Probe("SORT {a} [STORE] {b}"),
    Probe("SORT_RO {a} [BY] nosort", (7, 0)),
    Probe("XADD {a} NOMKSTREAM [MAXLEN] 1 * f v", (6, 2)),
    Probe("XADD {a} NOMKSTREAM [MINID] 1 * f v", (6, 2)),
    Probe("XADD {a} NOMKSTREAM MAXLEN ~ 1 [LIMIT] 10 * f v", (6, 2)),
    Probe("XADD {a} NOMKSTREAM [KEEPREF] * f v", (8, 2), drops_on_replication=True),
    Probe("XADD {a} NOMKSTREAM [DELREF] * f v", (8, 2), drops_on_replication=True),
    Probe("XADD {a} NOMKSTREAM [ACKED] * f v", (8, 2), drops_on_replication=True),
    Probe("XAUTOCLAIM {a} g c 0 0 [JUSTID]", (6, 2)),
    Probe("XGROUP SETID {a} g 0 [ENTRIESREAD] 1", (7, 0)),
    Probe("XPENDING {a} g [IDLE] 0 - + 1", (6, 2)),
    Probe("XREAD COUNT 1 STREAMS {a} [+]", (7, 4)),
    Probe("XREADGROUP GROUP g c [NOACK] STREAMS {a} >"),
    Probe("XREADGROUP GROUP g c [CLAIM] 1 STREAMS {a} >", (8, 4)),
    Probe("XTRIM {a} [MINID] 1", (6, 2)),
    Probe("XTRIM {a} MAXLEN ~ 1 [LIMIT] 10", (6, 2)),
    Probe("XTRIM {a} MAXLEN 1 [KEEPREF]", (8, 2), drops_on_replication=True),
    Probe("XTRIM {a} MAXLEN 1 [DELREF]", (8, 2), drops_on_replication=True),
    Probe("ZADD {a} XX [GT] 1 m", (6, 2)),
    Probe("ZADD {a} XX [INCR] 1 m"),
    Probe("ZINTER 1 {a} [AGGREGATE] MAX", (6, 2)),
    Probe("ZINTERCARD 1 {a} [LIMIT] 1", (7, 0)),
    Probe("ZMPOP 1 {a} MIN [COUNT] 1", (7, 0)),
    Probe("ZRANDMEMBER {a} 1 [WITHSCORES]", (6, 2)),
    Probe("ZRANGE {a} 0 1 [BYSCORE]", (6, 2)),
    Probe("ZRANGE {a} - + [BYLEX]", (6, 2)),
    Probe("ZRANGE {a} 0 1 [REV]", (6, 2)),
    Probe("ZRANGESTORE {b} {a} 0 1 [BYSCORE]", (6, 2)),
    Probe("ZRANK {a} m [WITHSCORE]", (7, 2)),
    Probe("ZREVRANK {a} m [WITHSCORE]", (7, 2)),
    Probe("ZUNIONSTORE {b} 1 {a} [WEIGHTS] 1"),
)


def try_options(connection: Connection, probes: Sequence[Probe], tag: str = "") -> dict[Probe, bool | None]:
    """Whether the server takes each option; None where another refusal came first (no rights, read-only, full).

    :param tag: of the probes' keys, where the server is a node of a cluster: in a slot that it serves.
    :raises ServerError: the server is lost.
    """
    # All of them in one slot, and one that this node serves: else a cluster would say only that.
    stem = f"greenfly:probe:{{{tag or secrets.token_hex(8)}}}:{secrets.token_hex(8)}:"
    keys = {name: stem + name for name in "abc"}
    replies = connection.exchange(
        [_packed(probe, word, keys) for probe in probes for word in (probe.option, _NO_OPTION)]
    )
    pairs = zip(probes, replies[::2], replies[1::2], strict=True)
    return {probe: _taken(probe, reply, control) for probe, reply, control in pairs}


def documented_options(connection: Connection, commands: Iterable[str]) -> dict[str, frozenset[str]] | None:
    """Option words of each command (or ``container|subcommand``), upper case; None before Redis 7.0.

    :raises ServerError: the server is lost.
    """
    names = sorted({name.partition("|")[0] for name in commands})
    reply = connection.exchange([pack(b"COMMAND", b"DOCS", *(name.encode() for name in names))])[0]
    if isinstance(reply, ErrorReply) or not isinstance(reply, list):
        return None
    found: dict[str, frozenset[str]] = {}
    for name, facts in _table(reply).items():
        found[name] = frozenset(_tokens(facts))
        subs = _table(facts).get("subcommands") if isinstance(facts, list) else None
        for sub, inner in _table(subs).items():
            found[sub] = frozenset(_tokens(inner))
    return found


def offered_by(probe: Probe, documented: Mapping[str, frozenset[str]] | None, version: str) -> bool:
    """Whether a source of that version takes the option."""
    if documented is not None and probe.option.isalnum():
        return probe.option in documented.get(probe.name, frozenset())
    numbers = [int(part) for part in version.split(".")[:2] if part.isdecimal()]
    return tuple(numbers) >= probe.since


def _packed(probe: Probe, word: str, keys: Mapping[str, str]) -> bytes:
    text = probe.text.replace(f"[{probe.option}]", word).format(**keys)
    return pack(*(part.encode() for part in text.split()))


def _taken(probe: Probe, reply: Reply, control: Reply) -> bool | None:
    if not isinstance(reply, ErrorReply):
        return True
    text = str(reply)
    word = text.split(" ", 1)[0]
    if word in {"NOPERM", "READONLY", "LOADING", "OOM", "MISCONF", "NOREPLICAS", "MASTERDOWN"}:
        return None
    if "unknown command" in text.lower() or "out of memory" in text.lower():
        return None
    same = isinstance(control, ErrorReply) and str(control).replace(_NO_OPTION, probe.option) == text
    return not same


def _table(reply: Reply) -> dict[str, Reply]:
    items = reply if isinstance(reply, list) else []
    return {
        name.decode("ascii", "replace"): value
        for name, value in zip(items[::2], items[1::2], strict=False)
        if isinstance(name, bytes)
    }


def _tokens(facts: Reply) -> list[str]:
    """Every ``token`` of the arguments, at any depth."""
    if not isinstance(facts, list):
        return []
    found: list[str] = []
    for argument in _arguments(facts):
        inner = _table(argument)
        token = inner.get("token")
        if isinstance(token, bytes) and token:
            found.append(token.decode("ascii", "replace").upper())
        found += _tokens(argument)
    return found


def _arguments(facts: list[Reply]) -> list[Reply]:
    listed = _table(facts).get("arguments")
    return listed if isinstance(listed, list) else []
