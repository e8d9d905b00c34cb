"""Hash slots: which one a key belongs to, and a key that belongs to a given one."""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Iterable
from functools import cache
from typing import Final

SLOTS: Final = 16384
_LONGEST_TAG: Final = 512


def key_slot(key: bytes) -> int:
    """The slot of a key."""
    return crc_hqx(_hashed(key), 0) % SLOTS


def _hashed(key: bytes) -> bytes:
    """What decides about the slot: what stands between the key's first braces, if there is anything; else all of it."""
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            return key[start + 1 : end]
    return key


@cache
def _tags() -> tuple[bytes, ...]:
    tags: dict[int, bytes] = {}
    number = 0
    while len(tags) < SLOTS:
        tag = b"%d" % number
        tags.setdefault(crc_hqx(tag, 0) % SLOTS, tag)
        number += 1
    return tuple(tags[slot] for slot in range(SLOTS))


def probe_key(slot: int) -> bytes:
    """A key of that slot which nobody has."""
    return b"greenfly:probe:{%b}" % _tags()[slot]


def tag_beside(key: bytes) -> bytes:
    """``{…}`` that puts any name without a brace before it into this key's slot.

    The same text that decides about the key, where it can stand between braces; a Dragonfly that shares keys among its
    threads by that text then has both on one thread.
    """
    hashed = _hashed(key)
    if not hashed or b"}" in hashed or len(hashed) > _LONGEST_TAG:
        hashed = _tags()[key_slot(key)]
    return b"{%b}" % hashed


def slot_ranges(slots: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Slots as first and last of each stretch, ascending."""
    ranges: list[tuple[int, int]] = []
    for slot in sorted(slots):
        if ranges and ranges[-1][1] == slot - 1:
            ranges[-1] = (ranges[-1][0], slot)
        else:
            ranges.append((slot, slot))
    return tuple(ranges)


def slots_text(slots: Iterable[int]) -> str:
    """For people: ``0-5460, 7000``."""
    return ", ".join(f"{a}-{b}" if a != b else f"{a}" for a, b in slot_ranges(slots))


def read_slots(text: str) -> frozenset[int]:
    """What :func:`slots_text` was made of."""
    slots: set[int] = set()
    for part in filter(None, text.split(", ")):
        first, _, last = part.partition("-")
        slots.update(range(int(first), int(last or first) + 1))
    return frozenset(slots)
