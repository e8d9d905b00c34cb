"""Kinds and canonical digests of many bodies at once, by themselves: nothing here knows the file.

They are decoded and hashed type by type, because a call of ours for each would cost more than the hashing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from integrity.kinds import KINDS, MalformedReply
from integrity.rdb import types
from integrity.rdb.errors import MALFORMED, MalformedBody, UnsupportedBody
from integrity.rdb.values import decoder_for, kind_of, value_of
from integrity.transfer.payload import KIND_BY_RDB_TYPE


@dataclass(frozen=True, slots=True)
class Work:
    """Values of one file."""

    version: int
    as_of_ms: int | None
    """Fields that had expired then are left out."""
    rdb_types: list[int]
    bodies: list[bytes]


@dataclass(frozen=True, slots=True)
class Made:
    """What came out."""

    kinds: list[str]
    digests: list[bytes | None]
    """None for types without canonical form."""


class MalformedAt(MalformedBody):
    """One of the bodies is not what its type says.

    :param position: of it in the work.
    """

    def __init__(self, what: str, position: int) -> None:
        super().__init__(what)
        self.position = position


def kinds_of(rdb_types: Sequence[int], bodies: Sequence[bytes]) -> list[str]:
    """The names of the types, as TYPE answers.

    :raises MalformedAt: a module has no name.
    """
    kinds = [*map(KIND_BY_RDB_TYPE.__getitem__, rdb_types)]
    if types.MODULE in rdb_types:
        for position, rdb_type in enumerate(rdb_types):
            if rdb_type == types.MODULE:
                try:
                    kinds[position] = kind_of(rdb_type, bodies[position])
                except MalformedBody as error:
                    raise MalformedAt(str(error), position) from error
    return kinds


def make(work: Work) -> Made:
    """The kind and the digest of each.

    :raises MalformedAt: one is not what its type says.
    """
    kinds = kinds_of(work.rdb_types, work.bodies)
    by_type: dict[int, list[int]] = {}
    for position, rdb_type in enumerate(work.rdb_types):
        if rdb_type in by_type:
            by_type[rdb_type].append(position)
        else:
            by_type[rdb_type] = [position]
    made: list[bytes | None] = [None] * len(kinds)
    for rdb_type, positions in by_type.items():
        for position, digest in zip(positions, _of_one_type(work, rdb_type, positions, kinds), strict=True):
            made[position] = digest
    return Made(kinds, made)


def _of_one_type(
    work: Work, rdb_type: int, positions: Sequence[int], kinds: Sequence[str]
) -> Sequence[bytes | None]:
    kind = KINDS.get(KIND_BY_RDB_TYPE[rdb_type].encode())
    decode = decoder_for(rdb_type, work.version, work.as_of_ms)
    if decode is None:
        return [None] * len(positions)
    if kind is not None:
        bodies = work.bodies
        try:
            return kind.digests([decode(bodies[i]) for i in positions])
        except MALFORMED:
            pass  # Which one it was is found by looking at each by itself.
    return [_of_one(work, position, kinds[position]) for position in positions]


def _of_one(work: Work, position: int, kind_name: str) -> bytes | None:
    kind = KINDS.get(kind_name.encode())
    if kind is None:
        return None
    body = work.bodies[position]
    try:
        return kind.digest(value_of(work.rdb_types[position], body, work.version, work.as_of_ms))
    except UnsupportedBody:
        return None
    except (MalformedBody, MalformedReply) as error:
        raise MalformedAt(str(error), position) from error
