"""Which commands a run needs on each side, phase by phase, and how to ask whether one is allowed.

The table follows what the code sends; a test runs a whole move as a user that has these rights and no other, and looks
that each of them was asked for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

Side = Literal["source", "target"]

PROBE_KEY: Final = b"greenfly:probe"
"""A key that nobody has; commands about it are queued and thrown away, never run."""
_REDIS: Final = frozenset({"redis", "valkey"})
_DRAGONFLY: Final = frozenset({"dragonfly"})


class RunPart(StrEnum):
    """What a user may be allowed to do; a whole move needs all but ``native``."""

    ASSESS = "assess"
    COPY = "copy"
    """`greenfly migrate`: copy, verify, repair."""
    SNAPSHOT = "snapshot"
    SYNC = "sync"
    CUTOVER = "cutover"
    ROLLBACK = "rollback"
    NATIVE = "native"
    """Dragonfly's own replication, for which green may come to blue as the same user."""


@dataclass(frozen=True, slots=True)
class Right:
    """One command, or subcommand, that a run sends to one side."""

    command: str
    """Lower case; a subcommand as ``client|pause``."""
    arguments: tuple[bytes, ...] = ()
    """A complete use of it, to be queued and thrown away."""
    engines: frozenset[str] = _REDIS | _DRAGONFLY
    """Where it is needed."""
    where_known: bool = False
    """Whether a server may lack the command altogether; the run then does without."""
    better: str = ""
    """Another command, which is used instead by servers that know it."""
    without: str = ""
    """What happens without it, where the run goes on; empty where it fails."""

    if_source_has: str = ""
    """A command without which the source cannot hold what this one writes; empty: it may always be needed."""
    offered: bool = True
    """Whether the line to paste gives it: not where it allows far more than is used."""

    @property
    def needed(self) -> bool:
        """Whether the run fails without it."""
        return not self.without

    def rule(self, engine: str) -> str:
        """As that engine's ACL SETUSER takes it."""
        container, _, sub = self.command.partition("|")
        if engine != "dragonfly" or not sub:
            return f"+{self.command}"
        # There only ACL's subcommands are commands of their own.
        return f"+acl {sub}" if container == "acl" else f"+{container}"


def _right(command: str, *arguments: bytes, **facts: object) -> Right:
    return Right(command, arguments, **facts)  # type: ignore[arg-type]


_K: Final = PROBE_KEY

_CONNECT: Final = (
    _right("client|setname", b"greenfly:check", without="its connections have no name in CLIENT LIST"),
    _right("info", b"server"),
    _right("ping", without="whether the server is slow is not noticed, and nothing slows down"),
    _right("select", b"0", without="only database 0 can be moved"),
    _right("time"),
)
_READ: Final = (
    *_CONNECT,
    _right("scan", b"0"),
    _right("type", _K),
    _right("exists", _K),
    _right("memory|usage", _K, without="big values are read whole, which stops the server for longer"),
    _right("pexpiretime", _K, where_known=True),
    _right("pttl", _K, better="pexpiretime"),
    _right("hpexpiretime", _K, b"FIELDS", b"1", b"f", where_known=True),
    _right("get", _K),
    _right("strlen", _K),
    _right("getrange", _K, b"0", b"0"),
    _right("llen", _K),
    _right("lrange", _K, b"0", b"0"),
    _right("hgetall", _K),
    _right("hlen", _K),
    _right("hscan", _K, b"0"),
    _right("smembers", _K),
    _right("scard", _K),
    _right("sscan", _K, b"0"),
    _right("zrange", _K, b"0", b"0"),
    _right("zcard", _K),
    _right("xinfo|stream", _K),
    _right("xinfo|groups", _K),
    _right("xinfo|consumers", _K, b"g"),
    _right("xrange", _K, b"-", b"+"),
    _right("xpending", _K, b"g"),
    _right("json.get", _K, where_known=True, if_source_has="json.get"),
    # Where MEMORY USAGE is dear.
    _right("xlen", _K, engines=_DRAGONFLY),
)
_COPY_FROM: Final = (
    *_READ,
    _right("mget", _K),
    _right("dump", _K),
    _right("fieldttl", _K, b"m", engines=_DRAGONFLY),
)
_SNAPSHOT: Final = (
    _right("multi"),
    _right("exec"),
    _right("watch", _K),
    _right("unwatch"),
    _right(
        "function|dump",
        engines=_REDIS,
        where_known=True,
        without="a snapshot of nothing but big values is written in the oldest form",
    ),
)
_WRITE: Final = (
    _right("mset", _K, b"x"),
    _right("set", _K, b"x"),
    _right("append", _K, b"x"),
    _right("restore", _K, b"0", b"x"),
    _right("del", _K),
    _right("unlink", _K),
    _right("rename", _K, _K),
    _right("renamenx", _K, _K),
    _right("pexpire", _K, b"1"),
    _right("pexpireat", _K, b"1"),
    _right("persist", _K),
    _right("multi", engines=_REDIS),
    _right("exec", engines=_REDIS),
    _right("rpush", _K, b"x"),
    _right("sadd", _K, b"x"),
    _right("zadd", _K, b"0", b"x"),
    _right("hset", _K, b"f", b"x"),
    _right("hdel", _K, b"f"),
    _right("hpexpireat", _K, b"1", b"FIELDS", b"1", b"f", where_known=True, if_source_has="hpexpiretime"),
    _right(
        "hsetex",
        _K,
        b"EX",
        b"1",
        b"FIELDS",
        b"1",
        b"f",
        b"x",
        where_known=True,
        better="hpexpireat",
        if_source_has="hpexpiretime",
    ),
    _right("saddex", _K, b"1", b"x", engines=_DRAGONFLY, if_source_has="saddex"),
    _right("xadd", _K, b"*", b"f", b"x"),
    _right("xdel", _K, b"0-1"),
    _right("xclaim", _K, b"g", b"c", b"0", b"0-1"),
    _right("xsetid", _K, b"0-1"),
    _right("xgroup|create", _K, b"g", b"0"),
    _right("xgroup|createconsumer", _K, b"g", b"c"),
    _right("xgroup|destroy", _K, b"g"),
    _right("json.set", _K, b"$", b"1", where_known=True, if_source_has="json.set"),
    _right(
        "debug",
        b"SHARDS",
        engines=_DRAGONFLY,
        without="keys that are there already are replaced more slowly",
        offered=False,
    ),
)
_FEED: Final = (
    _right("client|id"),
    _right("client|list"),
    _right("client|tracking", b"ON", b"BCAST", engines=_REDIS),
    # Dragonfly announces nothing; there changes are read from MONITOR.
    _right("monitor", engines=_DRAGONFLY),
    _right("command", engines=_DRAGONFLY),
    _right("echo", b"x", engines=_DRAGONFLY),
    _right(
        "config|get",
        b"pipeline_queue_limit",
        engines=_DRAGONFLY,
        without="Dragonfly may close MONITOR under load, and everything is compared again",
    ),
    _right(
        "config|set",
        b"pipeline_queue_limit",
        b"10000",
        engines=_DRAGONFLY,
        without="Dragonfly may close MONITOR under load, and everything is compared again",
    ),
)
_CLIENTS: Final = (
    # Else Greenfly's own connections would be taken for an application's.
    _right("client|setname", b"greenfly:check"),
    _right("client|id"),
    _right("client|list"),
    _right("client|kill", b"ID", b"0"),
)
FENCE_RIGHTS: Final = (
    *_CLIENTS,
    _right("client|pause", b"1", b"WRITE"),
    _right("client|unpause"),
    _right("acl|whoami"),
    _right("acl|users"),
    _right("acl|getuser", b"greenfly-probe"),
    _right("acl|setuser", b"greenfly-probe", b"off"),
    _right("acl|deluser", b"greenfly-probe"),
    _right("acl|cat"),
    _right("command"),
)
_LOOK_ABOUT: Final = (
    _right("command"),
    _right("multi", without="whether commands are allowed cannot be tried beforehand"),
    _right(
        "discard",
        engines=_DRAGONFLY,
        without="whether commands are allowed is tried one by one, which takes longer",
    ),
    *(
        _right(command, *arguments, where_known=True, without="what it tells is not assessed")
        for command, arguments in (
            ("config|get", (b"maxmemory",)),
            ("client|list", ()),
            ("latency|latest", ()),
            ("slowlog|len", ()),
            ("module|list", ()),
            ("function|list", ()),
            ("acl|whoami", ()),
            ("acl|users", ()),
            ("acl|getuser", (b"default",)),
            ("acl|cat", ()),
            ("object|encoding", (_K,)),
            ("object|freq", (_K,)),
            ("dump", (_K,)),
            ("randomkey", ()),
            ("xlen", (_K,)),
            ("pubsub|channels", ()),
            ("cluster|info", ()),
            ("script|load", (b"return 1",)),
            ("eval", (b"return 1", b"0")),
        )
    ),
)
_FALLBACK_FROM: Final = (*_COPY_FROM, *_FEED)

_NEEDED: Final[dict[tuple[Side, RunPart], tuple[Right, ...]]] = {
    # How long keys have still to live is counted by PTTL, whatever else the server knows.
    ("source", RunPart.ASSESS): (_right("pttl", _K), *_READ, *_LOOK_ABOUT),
    ("source", RunPart.COPY): _COPY_FROM,
    ("source", RunPart.SNAPSHOT): (*_COPY_FROM, *_SNAPSHOT),
    ("source", RunPart.SYNC): (*_COPY_FROM, *_FEED),
    # Behind the fence Greenfly writes as a user that it makes itself (integrity/switch/own_user.py).
    ("source", RunPart.CUTOVER): (*_COPY_FROM, *FENCE_RIGHTS),
    ("source", RunPart.ROLLBACK): (*_READ, *FENCE_RIGHTS),
    ("source", RunPart.NATIVE): (
        *_COPY_FROM,
        _right("psync", b"?", b"-1", engines=_REDIS),
        _right("replconf", engines=_REDIS),
    ),
    ("target", RunPart.ASSESS): (*_CONNECT, *_LOOK_ABOUT),
    ("target", RunPart.COPY): (*_READ, *_WRITE),
    ("target", RunPart.SNAPSHOT): (),
    ("target", RunPart.SYNC): (*_READ, *_WRITE),
    ("target", RunPart.CUTOVER): (*_READ, *_WRITE, *_CLIENTS, *FENCE_RIGHTS, *_FALLBACK_FROM),
    ("target", RunPart.ROLLBACK): (*_READ, *_WRITE, *FENCE_RIGHTS, *_FALLBACK_FROM),
    ("target", RunPart.NATIVE): (
        *_READ,
        *_WRITE,
        _right("replicaof", b"NO", b"ONE", engines=_DRAGONFLY),
        _right("role", engines=_DRAGONFLY),
        _right("config|get", b"masterauth", engines=_DRAGONFLY),
        _right("config|set", b"masterauth", b"", engines=_DRAGONFLY),
    ),
}


_ON_A_NODE: Final = (
    _right("cluster|slots"),
    _right("cluster|nodes"),
    # A Dragonfly lists no slots, and asks for nothing.
    _right("cluster|countkeysinslot", b"0", engines=_REDIS),
    _right("cluster|getkeysinslot", b"0", b"1", engines=_REDIS),
    _right("asking", engines=_REDIS),
)
"""What every node of a cluster is asked besides."""


def rights(
    side: Side, parts: Iterable[RunPart], engine: str, *, clustered: bool = False
) -> tuple[Right, ...]:
    """What is sent to that side, each right once: as a needed one where any of the parts needs it.

    :param clustered: to a node of a cluster.
    """
    found: dict[str, Right] = (
        {right.command: right for right in _ON_A_NODE if engine in right.engines} if clustered else {}
    )
    for part in sorted(parts):
        for right in _NEEDED[side, part]:
            if engine in right.engines and not found.get(right.command, _OPTIONAL).needed:
                found[right.command] = right
    return tuple(found.values())


_OPTIONAL: Final = Right("", without="-")
