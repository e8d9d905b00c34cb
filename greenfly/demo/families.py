"""What one key of each family looks like.

A builder gets the family's own random numbers and the key's index, and returns the commands that create exactly one
key.  Everything it sends is decided by those two, so a seed always gives the same data.  Commands are known to
Redis 6.2 and later and to Dragonfly.
"""

from __future__ import annotations

from random import Random
from typing import Final, TypeAlias

Argument: TypeAlias = bytes | str | int
Command: TypeAlias = tuple[Argument, ...]

_MINUTE: Final = 60_000
_SHORTEST: Final = 10 * _MINUTE
_LONGEST: Final = 30 * 24 * 60 * _MINUTE
_NAMES: Final = (
    b"ada",
    b"grace",
    b"linus",
    b"barbara",
    b"edsger",
    b"margaret",
    b"alan",
    b"radia",
    "zoë".encode(),
)
_CITIES: Final = (b"Lisboa", b"Oslo", b"Nairobi", "Kraków".encode(), "東京".encode(), b"Quito", b"Perth")
_ACTIONS: Final = (b"view", b"search", b"add_to_cart", b"remove", b"checkout", b"pay", b"refund")
_WORDS: Final = (b"invoice", b"mail", b"thumbnail", b"export", b"webhook", b"cleanup", b"digest", b"sync")
_STREAM_START: Final = 1_760_000_000_000
_ODD_SCORES: Final = (
    *(
        "inf",
        "-inf",
        "5e-324",
        "1.7976931348623157e+308",
        "-1e300",
        "0.30000000000000004",
        "9007199254740992",
    ),
    *("0", "-0.0", "3.141592653589793", "-2.5", "1e-7", "1e21", "123456789.125"),
)


def _expiry(rng: Random) -> int:
    """Milliseconds from now, ten minutes to thirty days, most of them near the short end as sessions are."""
    return _SHORTEST + int((_LONGEST - _SHORTEST) * rng.random() ** 3)


def _sometimes(rng: Random, key: bytes, index: int) -> list[Command]:
    """An expiry for one key in ten."""
    return [(b"PEXPIRE", key, _expiry(rng))] if index % 10 == 3 else []


def _token(rng: Random) -> bytes:
    return b"%016x" % rng.getrandbits(64)


# -- database 0: sessions, counters, profiles ------------------------------------------------------------------------


def session(rng: Random, index: int) -> list[Command]:
    """A web session as JSON text that expires."""
    body = b'{"user":%d,"name":"%b","token":"%b%b","city":"%b","cart":[%b],"csrf":"%b"}' % (
        rng.getrandbits(24),
        rng.choice(_NAMES),
        _token(rng),
        _token(rng),
        rng.choice(_CITIES),
        b",".join(b'{"sku":%d,"n":%d}' % (rng.getrandbits(20), 1 + i) for i in range(rng.getrandbits(3))),
        _token(rng),
    )
    return [(b"SET", b"session:%08x:%d" % (rng.getrandbits(32), index), body, b"PX", _expiry(rng))]


def counter(rng: Random, index: int) -> list[Command]:
    """A page counter; now and then a number at the edge of what an integer holds, or one that only looks like one."""
    value = b"%d" % (rng.getrandbits(40) if index % 3 else rng.getrandbits(12))
    if index % 200 == 7:
        value = (b"-1", b"0", b"9223372036854775807", b"-9223372036854775808", b"007", b"1.50")[
            index // 200 % 6
        ]
    return [(b"SET", b"counter:page:%d" % index, value)]


def profile(rng: Random, index: int) -> list[Command]:
    """A user's profile, a small hash; one in ten expires."""
    key = b"user:%d:profile" % index
    fields: list[Argument] = [
        b"name",
        rng.choice(_NAMES),
        b"city",
        rng.choice(_CITIES),
        b"visits",
        rng.getrandbits(16),
    ]
    fields += [
        b"email",
        b"%b.%d@example.org" % (rng.choice(_NAMES), index),
        b"note",
        b"",
        b"plan",
        rng.choice(_WORDS),
    ]
    return [(b"HSET", key, *fields), *_sometimes(rng, key, index)]


def preferences(rng: Random, index: int) -> list[Command]:
    """A hash over the limits of the compact encoding: many fields, or a field of more than 64 bytes."""
    key = b"user:%d:preferences" % index
    if index % 2:
        return [(b"HSET", key, b"theme", b"dark", b"bio", rng.randbytes(rng.randint(65, 600)))]
    count = rng.randint(520, 900)
    fields = [part for i in range(count) for part in (b"feature:%d" % i, b"%d" % rng.getrandbits(10))]
    return [(b"HSET", key, *fields)]


def document(rng: Random, index: int) -> list[Command]:
    """A rendered document of 64 KiB to 1 MiB, half of it text that compresses."""
    size = (64 * 1024, 1024 * 1024, 256 * 1024, 700_001)[index % 4]
    body = rng.randbytes(size) if index % 2 else (b"Lorem ipsum %d " % index * (size // 12))[:size]
    return [(b"SET", b"document:%d" % index, body)]


def flag(rng: Random, index: int) -> list[Command]:
    """An empty string: only the key's presence says something."""
    del rng
    return [(b"SET", b"flag:seen:%d" % index, b"")]


# -- database 1: queues, streams, leaderboards -----------------------------------------------------------------------


def queue(rng: Random, index: int) -> list[Command]:
    """A short job queue."""
    jobs = [
        b'{"job":"%b","id":%d}' % (rng.choice(_WORDS), rng.getrandbits(32)) for _ in range(rng.randint(2, 12))
    ]
    key = b"queue:%b:%d" % (_WORDS[index % len(_WORDS)], index)
    return [(b"RPUSH", key, *jobs), *_sometimes(rng, key, index)]


def backlog(rng: Random, index: int) -> list[Command]:
    """A queue that grew to thousands of jobs, so that the server keeps it in several nodes; a few jobs are large."""
    jobs = [
        b"%b:%d:%x" % (rng.choice(_WORDS), i, rng.getrandbits(100)) for i in range(rng.randint(2000, 5000))
    ]
    jobs[len(jobs) // 2] = rng.randbytes(20_000)
    return [(b"RPUSH", b"queue:backlog:%d" % index, *jobs)]


def leaderboard(rng: Random, index: int) -> list[Command]:
    """A small sorted set with fractional scores."""
    members = [
        part
        for i in range(rng.randint(3, 30))
        for part in (repr(rng.random() * 1e4), b"player:%d" % (index + i))
    ]
    key = b"leaderboard:%d" % index
    return [(b"ZADD", key, *members), *_sometimes(rng, key, index)]


def season(rng: Random, index: int) -> list[Command]:
    """A sorted set over 128 members, which servers keep as a tree."""
    members = [
        part for i in range(rng.randint(130, 800)) for part in (repr(rng.gauss(0.0, 1e6)), b"player:%d" % i)
    ]
    return [(b"ZADD", b"leaderboard:season:%d" % index, *members)]


def odd_scores(rng: Random, index: int) -> list[Command]:
    """Scores at the edges: infinities, the smallest and largest doubles, 0.1 + 0.2, minus zero, equal scores."""
    scores = rng.sample(_ODD_SCORES, len(_ODD_SCORES))
    members = [part for score in scores for part in (score, b"m:%b" % score.encode())]
    return [(b"ZADD", b"leaderboard:odd:%d" % index, *members, b"1", b"tie:a", b"1", b"tie:b", b"1", b"")]


def events(rng: Random, index: int) -> list[Command]:
    """An event stream with groups, consumers, pending entries with several deliveries, and deleted entries."""
    key = b"events:%d" % index
    count = rng.randint(8, 24) if index % 25 else 400
    ids = [b"%d-%d" % (_STREAM_START + index * 1_000_000 + i // 2 * 37, i % 2) for i in range(count)]
    commands: list[Command] = [
        (b"XADD", key, entry, b"action", rng.choice(_ACTIONS), b"user", rng.getrandbits(20)) for entry in ids
    ]
    commands.append((b"XGROUP", b"CREATE", key, b"billing", b"0"))
    commands.append((b"XREADGROUP", b"GROUP", b"billing", b"worker-1", b"COUNT", 4, b"STREAMS", key, b">"))
    commands.append((b"XREADGROUP", b"GROUP", b"billing", b"worker-2", b"COUNT", 3, b"STREAMS", key, b">"))
    commands.append((b"XACK", key, b"billing", ids[0], ids[5]))
    claimed = (b"XCLAIM", key, b"billing", b"worker-2", 0, ids[1], b"RETRYCOUNT", rng.randint(2, 9))
    commands.append(claimed)
    commands.append((b"XGROUP", b"CREATECONSUMER", key, b"billing", b"worker-idle"))
    commands.append((b"XGROUP", b"CREATE", key, b"audit", b"$"))
    if index % 4 == 1:
        # ids[2] is pending: the entry is gone, its pending record stays.
        commands.append((b"XDEL", key, ids[2], ids[7]))
    if index % 4 == 2:
        commands.append((b"XTRIM", key, b"MAXLEN", b"=", count - 1))
    return commands


def drained(rng: Random, index: int) -> list[Command]:
    """A stream whose every entry was deleted: it keeps its last id and its group."""
    key = b"events:drained:%d" % index
    entry = b"%d-%d" % (_STREAM_START + index, rng.getrandbits(8))
    return [
        (b"XADD", key, entry, b"action", b"stop"),
        (b"XGROUP", b"CREATE", key, b"readers", b"0"),
        (b"XDEL", key, entry),
    ]


# -- database 2: tags, places, estimates, and the odd ones -----------------------------------------------------------


def tag_ids(rng: Random, index: int) -> list[Command]:
    """A set of numbers."""
    return [(b"SADD", b"tag:%d:articles" % index, *(rng.getrandbits(24) for _ in range(rng.randint(3, 60))))]


def tags(rng: Random, index: int) -> list[Command]:
    """A small set of words."""
    words = (b"%b-%d" % (rng.choice(_WORDS), rng.getrandbits(7)) for _ in range(rng.randint(2, 14)))
    key = b"article:%d:tags" % index
    return [(b"SADD", key, *words), *_sometimes(rng, key, index)]


def followers(rng: Random, index: int) -> list[Command]:
    """A large set, over every compact encoding's limit."""
    return [(b"SADD", b"followers:%d" % index, *(_token(rng) for _ in range(rng.randint(600, 1500))))]


def places(rng: Random, index: int) -> list[Command]:
    """A geographic index."""
    places_ = [
        part
        for i in range(rng.randint(3, 12))
        for part in (f"{rng.uniform(-180, 180):.6f}", f"{rng.uniform(-85, 85):.6f}", b"place:%d" % i)
    ]
    return [(b"GEOADD", b"geo:%b:%d" % (_CITIES[index % len(_CITIES)], index), *places_)]


def visitors(rng: Random, index: int) -> list[Command]:
    """A HyperLogLog in the sparse encoding."""
    return [(b"PFADD", b"visitors:day:%d" % index, *(_token(rng) for _ in range(rng.randint(1, 40))))]


def visitors_total(rng: Random, index: int) -> list[Command]:
    """A HyperLogLog in the dense encoding; counting it stores the cached cardinality in the value."""
    key = b"visitors:year:%d" % index
    commands: list[Command] = [(b"PFADD", key, *(_token(rng) for _ in range(5000)))]
    if index % 2:
        commands.append((b"PFCOUNT", key))
    return commands


def bitmap(rng: Random, index: int) -> list[Command]:
    """Daily activity as bits."""
    key = b"active:%d" % index
    return [(b"SETBIT", key, rng.getrandbits(14), 1) for _ in range(3)]


def binary_value(rng: Random, index: int) -> list[Command]:
    """Every byte value, in some order."""
    return [
        (b"SET", b"thumb:%d" % index, bytes(rng.sample(range(256), 256)) + rng.randbytes(rng.getrandbits(7)))
    ]


def binary_key(rng: Random, index: int) -> list[Command]:
    """Keys with NUL, CR LF and bytes that are no UTF-8, in every common type."""
    odd = (b"\x00", b"\r\n", b"\xff\xfe", b"\xc3\x28", b" ", b"\x80*1\r\n$4\r\nPING\r\n", b"{}", b"%00")[
        index % 8
    ]
    key, value = b"bin:%b:%d" % (odd, index), rng.randbytes(rng.randint(1, 64))
    match index % 5:
        case 0:
            return [(b"HSET", key, odd, value, value, odd)]
        case 1:
            return [(b"RPUSH", key, odd, value, b"")]
        case 2:
            return [(b"SADD", key, odd, value, b"")]
        case 3:
            return [(b"ZADD", key, b"1.5", odd, b"-1.5", value + b"!")]
        case _:
            return [(b"SET", key, value, b"PX", _expiry(rng))]


def utf8_key(rng: Random, index: int) -> list[Command]:
    """Keys and values in several scripts."""
    word = ("ключ", "鍵", "clé", "🔑", "مفتاح")[index % 5]
    return [(b"SET", f"i18n:{word}:{index}".encode(), f"{word} {rng.getrandbits(30)}".encode())]
