"""A valid call of every command that changes keys, on a keyspace that holds one key of each kind.

For whatever claims to see all changes: what a call changes is found out by comparing the keyspace before and after.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha1
from typing import Final, TypeAlias

from tests.raw import Argument, Raw, Reply, UnexpectedReply, as_bytes

Command: TypeAlias = tuple[Argument, ...]
Contents: TypeAlias = dict[tuple[int, bytes], tuple[bytes, Reply]]
"""Database and key → payload and expiry."""

KEYSPACE: Final = """
SET text 10
SET other abc
SET soon x PX 600000
SET float 1.5
SETBIT bits 7 1
SET bits2 zz
RPUSH list a b c d
RPUSH list2 x y z
RPUSH numbers 3 1 2
SADD set a b c
SADD set2 b c d
HSET hash f 1 g 2.5
ZADD zset 1 a 2 b 3 c
ZADD zset2 2 b 4 d
GEOADD geo 13.361389 38.115556 p 15.087269 37.502669 c
XADD stream 1-1 a 1
XADD stream 2-1 b 2
XADD stream 3-1 c 3
XGROUP CREATE stream group 0
XREADGROUP GROUP group one COUNT 2 STREAMS stream >
PFADD hll a b c
PFADD hll2 d e
"""


@dataclass(frozen=True, slots=True)
class Case:
    """Calls that succeed one after the other on :data:`KEYSPACE`, and change something."""

    calls: tuple[Command, ...]

    def __str__(self) -> str:
        return " | ".join(
            " ".join(part if isinstance(part, str) else repr(part) for part in call) for call in self.calls
        )

    @property
    def commands(self) -> set[str]:
        """Their names, upper case."""
        return {str(call[0]).upper() for call in self.calls}


def _cases(text: str) -> tuple[Case, ...]:
    """One case a line."""
    lines = [line for line in map(str.strip, text.splitlines()) if line]
    return tuple(Case(tuple(tuple(call.split()) for call in line.split(" | "))) for line in lines)


COMMON: Final = _cases(
    """
    SET text 11
    SET new 1 EX 100 NX
    SET text 12 GET
    SET soon y KEEPTTL
    set text lower
    GETSET text n
    SETNX new v
    SETEX text 100 v
    PSETEX new 100000 v
    MSET text 1 new 2 list 3
    MSETNX n1 1 n2 2
    APPEND text z
    APPEND new z
    INCR text
    DECR new
    INCRBY text 5
    DECRBY text 5
    INCRBYFLOAT float 2
    SETRANGE other 1 ZZ
    GETDEL text
    GETEX soon PERSIST
    GETEX text EX 100
    SETBIT bits 9 1
    BITFIELD bits SET u8 0 200
    BITOP NOT new bits
    BITOP OR bits bits2 other
    BITOP AND new bits nothing bits2
    LPUSH list z
    RPUSH new a b
    LPUSHX list z
    RPUSHX list z
    LPOP list
    RPOP list 2
    LREM list 0 b
    LSET list 1 q
    LTRIM list 1 2
    LINSERT list BEFORE b q
    RPOPLPUSH list list2
    LMOVE list list2 LEFT RIGHT
    RPOPLPUSH list new
    LMOVE list list LEFT RIGHT
    LMPOP 2 nothing list LEFT COUNT 2
    BLPOP nothing list 1
    BRPOP list2 list 1
    BLMOVE list new LEFT LEFT 1
    BRPOPLPUSH list list2 1
    BLMPOP 1 2 nothing list RIGHT
    SADD set z
    SADD new a
    SREM set a b c
    SPOP set
    SPOP set 2
    SMOVE set new a
    SMOVE set set2 a
    SINTERSTORE new set set2
    SUNIONSTORE set set set2
    SDIFFSTORE set2 set set2
    SINTERSTORE set nothing set2
    HSET hash f 2 new 3
    HMSET new f 1
    HSETNX hash n 1
    HDEL hash f g
    HINCRBY hash f 3
    HINCRBYFLOAT hash g 1.25
    ZADD zset 9 z
    ZADD new XX CH 1 a | ZADD zset GT CH 7 a
    ZINCRBY zset 2 a
    ZREM zset a
    ZPOPMIN zset
    ZPOPMAX zset 2
    ZREMRANGEBYRANK zset 0 1
    ZREMRANGEBYSCORE zset 2 3
    ZREMRANGEBYLEX zset - +
    ZUNIONSTORE new 2 zset zset2 WEIGHTS 1 2
    ZINTERSTORE zset 2 zset zset2 AGGREGATE MAX
    ZDIFFSTORE new 2 zset zset2
    ZRANGESTORE new zset 0 1
    ZRANGESTORE zset zset2 0 0
    ZMPOP 2 nothing zset MIN
    BZPOPMIN nothing zset 1
    BZPOPMAX zset2 zset 1
    BZMPOP 1 2 nothing zset MAX COUNT 2
    GEOADD geo 1 1 q
    GEORADIUS geo 15 37 200 km STORE new
    GEORADIUSBYMEMBER geo p 300 km STORE zset
    PFADD hll z1 z2 z3
    PFMERGE new hll hll2
    PFMERGE hll hll2
    PFADD hll q | PFCOUNT hll
    SORT numbers STORE new
    SORT numbers DESC store list
    SORT numbers LIMIT 0 2 BY nosort STORE numbers
    DEL text
    DEL text nothing list set
    UNLINK hash zset
    RENAME text new
    RENAME text list
    RENAMENX text new
    COPY text new
    COPY text list REPLACE
    MOVE text 1
    MOVE text 1 | MOVE list 1
    PERSIST soon
    EXPIRE text 100
    PEXPIRE text 100000
    EXPIREAT text 1900000000
    PEXPIREAT list 1800000000000
    EXPIRE text -1
    XADD stream * f v
    XADD new MAXLEN 2 5-1 f v
    XDEL stream 1-1
    XTRIM stream MAXLEN 1
    XSETID stream 9-9
    XGROUP CREATE stream g2 0
    XGROUP CREATE new g $ MKSTREAM
    XGROUP DESTROY stream group
    XGROUP SETID stream group 0
    XGROUP CREATECONSUMER stream group two
    XGROUP DELCONSUMER stream group one
    XACK stream group 1-1 2-1
    XREADGROUP GROUP group one STREAMS stream >
    XREADGROUP GROUP group two COUNT 1 BLOCK 10 NOACK STREAMS stream >
    XCLAIM stream group two 0 1-1
    XAUTOCLAIM stream group two 0 0
    XCLAIM stream group two 0 2-1 JUSTID
    XGROUP CREATE stream STREAMS 0 | XREADGROUP GROUP STREAMS STREAMS STREAMS stream >
    XADD new 1-1 a 1 | XGROUP CREATE new group 0 | XREADGROUP GROUP group one STREAMS stream new > >
    MULTI | SET text 5 | LPUSH list q | DEL set | EXEC
    """
)
"""What Redis 7.0 and Dragonfly know."""

REDIS: Final = _cases(
    """
    PFADD new
    GEORADIUS geo 15 37 200 km STOREDIST new
    GEOSEARCHSTORE new geo FROMLONLAT 15 37 BYRADIUS 200 km
    GEOSEARCHSTORE zset geo FROMMEMBER p BYBOX 400 400 km
    COPY text text DB 1
    COPY list new DB 1 | MOVE set 1
    SELECT 1 | SET text x | SELECT 0
    XSETID stream 9-9 ENTRIESADDED 20 MAXDELETEDID 3-0
    XGROUP SETID stream group 0 ENTRIESREAD 1
    """
)
"""What only Redis knows."""

DRAGONFLY: Final = _cases(
    """
    SADDEX new 100 a b
    HSETEX hash 100 n v
    FIELDEXPIRE hash 100 f
    HEXPIRE hash 100 FIELDS 1 f
    HSETEX hash EX 100 FIELDS 1 n v
    HGETEX hash EX 100 FIELDS 1 f
    PREPEND text z
    CL.THROTTLE new 15 30 60
    JSON.SET new $ {"a":1}
    JSON.SET new $ {"a":[1]} | JSON.ARRAPPEND new $.a 2
    JSON.MSET n1 $ 1 n2 $ 2 n3 $ 3
    JSON.SET new $ {"a":1} | JSON.NUMINCRBY new $.a 2
    JSON.SET new $ {"a":1} | JSON.MERGE new $ {"b":2}
    JSON.SET new $ {"a":1} | JSON.DEL new $.a
    JSON.SET new $ {"a":1} | JSON.FORGET new $.a
    JSON.SET new $ {"a":2} | JSON.NUMMULTBY new $.a 3
    JSON.SET new $ {"a":[1,2,3]} | JSON.ARRINSERT new $.a 0 7 | JSON.ARRPOP new $.a | JSON.ARRTRIM new $.a 0 0
    JSON.SET new $ {"a":"x","b":true} | JSON.STRAPPEND new $.a "y" | JSON.TOGGLE new $.b
    JSON.SET new $ {"a":[1]} | JSON.CLEAR new $.a
    DELEX text
    BF.ADD new a
    BF.RESERVE new 0.01 100 | BF.MADD new a b
    CF.RESERVE new 100 | CF.ADD new a
    CF.RESERVE new 100 | CF.ADDNX new a | CF.DEL new a
    CF.INSERT new ITEMS a b | CF.INSERTNX new ITEMS c
    CMS.INITBYPROB new 0.01 0.01
    CMS.INITBYDIM new 100 5 | CMS.INCRBY new a 3
    TOPK.RESERVE new 3 | TOPK.ADD new a | TOPK.INCRBY new a 2
    CMS.INITBYDIM n1 100 5 | CMS.INITBYDIM n2 100 5 | CMS.INCRBY n1 a 3 | CMS.MERGE n2 1 n1
    """
)
"""What only Dragonfly knows."""

SCRIPTS: Final = (
    Case((("EVAL", "redis.call('SET', KEYS[1], 'x') redis.call('del', KEYS[2])", 2, "text", "list"),)),
    Case((("EVAL", "for i = 1, 3 do redis.call('RPUSH', KEYS[1], ARGV[1]) end", 1, "list2", "v"),)),
    Case((("EVAL", "redis.pcall('INCR', KEYS[1]) redis.call('RENAME', KEYS[1], KEYS[2])", 2, "set", "new"),)),
)
_SET: Final = "return redis.call('SET', KEYS[1], 'x')"
_FUNCTION: Final = """#!lua name=library
redis.register_function('f', function(keys) return redis.call('RENAME', keys[1], 'undeclared') end)
"""
REDIS_SCRIPTS: Final = (
    Case((("EVAL", "redis.call('mset', 'text', 'x', 'undeclared', 'y')", 0),)),
    Case(
        (
            ("SCRIPT", "LOAD", _SET),
            ("EVALSHA", sha1(_SET.encode(), usedforsecurity=False).hexdigest(), 1, "text"),
        )
    ),
    Case((("FUNCTION", "LOAD", "REPLACE", _FUNCTION), ("FCALL", "f", 1, "text"))),
)
_ASYNC: Final = "--!df flags=disable-atomicity\nfor i = 1, 3 do redis.acall('RPUSH', KEYS[i], i) end"
DRAGONFLY_SCRIPTS: Final = (
    Case(
        (
            (
                "EVAL",
                "--!df flags=allow-undeclared-keys\nredis.call('mset', 'text', 'x', 'undeclared', 'y')",
                0,
            ),
        )
    ),
    Case((("EVAL", _ASYNC, 3, "list", "list2", "new"),)),
    Case(
        (
            ("SCRIPT", "LOAD", _SET),
            ("EVALSHA", sha1(_SET.encode(), usedforsecurity=False).hexdigest(), 1, "text"),
        )
    ),
)


def prepare(raw: Raw) -> None:
    """Make the keyspace, in database 0; the others are empty."""
    raw("FLUSHALL")
    for call in KEYSPACE.strip().splitlines():
        raw(*call.split())


def contents(raw: Raw, databases: int = 2) -> Contents:
    """What every key holds; ends in database 0."""
    found: Contents = {}
    for database in reversed(range(databases)):
        raw("SELECT", database)
        for key in sorted(raw.keys()):
            found[database, key] = (as_bytes(raw("DUMP", key)), raw("PEXPIRETIME", key))
    return found


def run(raw: Raw, case: Case) -> None:
    """Make the calls.

    :raises UnexpectedReply: one failed.
    """
    for call in case.calls:
        reply = raw(*call)
        for item in reply if isinstance(reply, list) and call[0] == "EXEC" else ():
            if isinstance(item, Exception):
                raise UnexpectedReply(f"{call!r}: {item}")


def changed_keys(before: Contents, after: Contents) -> set[bytes]:
    """Names of the keys that are not the same."""
    return {place[1] for place in before.keys() | after.keys() if before.get(place) != after.get(place)}
