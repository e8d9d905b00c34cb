"""Streams in every state that commands can bring them into."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tests.matrix.loader import Case, Loader

_MAX: Final = b"18446744073709551615-18446744073709551615"


def _ids(count: int, first: int = 1) -> list[bytes]:
    return [b"%d-%d" % (1000 + i // 3, i % 3) for i in range(first, first + count)]


def _read(loader: Loader, key: bytes, group: bytes, consumer: bytes, count: int) -> None:
    loader(b"XREADGROUP", b"GROUP", group, consumer, b"COUNT", count, b"STREAMS", key, b">")


def _plain(loader: Loader, key: bytes) -> None:
    loader.entries(key, _ids(20))


def _many_nodes(loader: Loader, key: bytes) -> None:
    loader.entries(key, _ids(1000))


def _odd_fields(loader: Loader, key: bytes) -> None:
    loader(b"XADD", key, b"0-1", b"", b"")
    loader(b"XADD", key, b"0-2", b"a", b"1", b"a", b"2", b"b", bytes(range(256)))
    loader(b"XADD", key, b"5-0", b"greenfly", b"placeholder")
    loader(b"XADD", key, b"6-0", *(b"f%d" % (i // 2) for i in range(200)))


def _largest_id(loader: Loader, key: bytes) -> None:
    loader.entries(key, [b"1-1", _MAX])


def _trimmed(loader: Loader, key: bytes) -> None:
    loader.entries(key, _ids(500))
    loader(b"XTRIM", key, b"MAXLEN", 120)


def _deleted(loader: Loader, key: bytes) -> None:
    ids = _ids(300)
    loader.entries(key, ids)
    loader(b"XDEL", key, *ids[10:250:7], ids[0])


def _deleted_last(loader: Loader, key: bytes) -> None:
    ids = _ids(10)
    loader.entries(key, ids)
    loader(b"XDEL", key, *ids[-3:])


def _grouped(loader: Loader, key: bytes, ids: Sequence[bytes]) -> None:
    """Two groups, four consumers, entries delivered once and twice, some acknowledged, one consumer without any."""
    for group in (b"readers", b"a group\r\n"):
        loader(b"XGROUP", b"CREATE", key, group, b"0", b"MKSTREAM")
    loader.entries(key, ids)
    part = len(ids) // 4
    _read(loader, key, b"readers", b"one", part)
    _read(loader, key, b"readers", b"two", part)
    _read(loader, key, b"a group\r\n", b"one", 2 * part)
    loader(b"XACK", key, b"readers", *ids[: part // 2])
    loader(b"XCLAIM", key, b"readers", b"three", 0, *ids[part : part + 2])
    loader(b"XCLAIM", key, b"readers", b"three", 0, ids[part])
    loader(b"XGROUP", b"CREATECONSUMER", key, b"readers", b"idle one")


def _groups(loader: Loader, key: bytes) -> None:
    _grouped(loader, key, _ids(40))


def _pending_deleted(loader: Loader, key: bytes) -> None:
    ids = _ids(20)
    _grouped(loader, key, ids)
    loader(b"XDEL", key, ids[3], ids[6], ids[7])


def _all_pending_deleted(loader: Loader, key: bytes) -> None:
    ids = _ids(8)
    _grouped(loader, key, ids)
    loader(b"XDEL", key, *ids)


def _emptied(loader: Loader, key: bytes) -> None:
    ids = _ids(5)
    loader.entries(key, ids)
    loader(b"XDEL", key, *ids)


def _made_empty(loader: Loader, key: bytes) -> None:
    loader(b"XGROUP", b"CREATE", key, b"waiting", b"$", b"MKSTREAM")


def _made_empty_no_group(loader: Loader, key: bytes) -> None:
    _made_empty(loader, key)
    loader(b"XGROUP", b"DESTROY", key, b"waiting")


def _never_read(loader: Loader, key: bytes) -> None:
    loader.entries(key, _ids(15))
    loader(b"XGROUP", b"CREATE", key, b"from now", b"$")
    loader(b"XGROUP", b"CREATE", key, b"from the start", b"0")
    loader(b"XGROUP", b"CREATE", key, b"from between", b"1002-1")


def _group_ahead(loader: Loader, key: bytes) -> None:
    loader.entries(key, _ids(15))
    loader(b"XGROUP", b"CREATE", key, b"ahead", b"0")
    _read(loader, key, b"ahead", b"c", 5)
    loader(b"XGROUP", b"SETID", key, b"ahead", b"999999-7")


def _no_ack(loader: Loader, key: bytes) -> None:
    loader.entries(key, _ids(15))
    loader(b"XGROUP", b"CREATE", key, b"g", b"0")
    loader(b"XREADGROUP", b"GROUP", b"g", b"c", b"COUNT", 10, b"NOACK", b"STREAMS", key, b">")


def _last_id_set(loader: Loader, key: bytes) -> None:
    loader.entries(key, _ids(5))
    loader(b"XSETID", key, b"7777777-7")


def _counters_set(loader: Loader, key: bytes) -> None:
    loader.entries(key, _ids(5))
    loader(b"XSETID", key, b"7777777-7", b"ENTRIESADDED", 1234, b"MAXDELETEDID", b"5555-5")


def _in_pieces(loader: Loader, key: bytes) -> None:
    loader.entries(key, [b"%d-0" % (1_000_000 + i) for i in range(6000)], 60)


def _grouped_in_pieces(loader: Loader, key: bytes) -> None:
    ids = [b"%d-1" % (1_000_000 + i) for i in range(4000)]
    loader(b"XGROUP", b"CREATE", key, b"never read", b"$", b"MKSTREAM")
    loader(b"XGROUP", b"CREATE", key, b"readers", b"0", b"MKSTREAM")
    loader.entries(key, ids, 100)
    _read(loader, key, b"readers", b"one", 1500)
    _read(loader, key, b"readers", b"two", 500)
    loader(b"XACK", key, b"readers", *ids[:700])
    loader(b"XDEL", key, *ids[650:760], *ids[-5:])


STREAM_CASES: Final = (
    Case("stream/plain", _plain),
    Case("stream/several nodes", _many_nodes),
    Case("stream/odd fields", _odd_fields),
    Case("stream/largest id", _largest_id),
    Case("stream/trimmed", _trimmed),
    Case("stream/entries deleted", _deleted),
    Case("stream/last entries deleted", _deleted_last),
    Case("stream/groups, consumers, pending", _groups),
    Case("stream/pending entries deleted", _pending_deleted),
    Case("stream/empty, with pending entries", _all_pending_deleted),
    Case("stream/empty, with last id", _emptied),
    Case("stream/empty, group from MKSTREAM", _made_empty),
    Case("stream/empty, no group", _made_empty_no_group),
    Case("stream/groups never read", _never_read),
    Case("stream/group ahead of the last id", _group_ahead),
    Case("stream/read without acknowledging", _no_ack),
    Case("stream/last id set", _last_id_set),
    # Redis 6.2 has no such counters, and Dragonfly's XSETID cannot set them.
    Case(
        "stream/counters set",
        _counters_set,
        needs=frozenset({b"PEXPIRETIME"}),
        engines=frozenset({"redis", "valkey"}),
    ),
    Case("stream/in pieces", _in_pieces, big=True),
    Case("stream/groups, in pieces", _grouped_in_pieces, big=True),
)
