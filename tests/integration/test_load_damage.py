"""Every damage after a load is found, and called what it is; what was left alone is not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import sleep, time_ns
from typing import Final, TypeVar

from tests.load.compare import Kind
from tests.load.journal import Outcome, read
from tests.load.judge import check
from tests.load.load import Load
from tests.load.replay import Expected, replay
from tests.load.state import Fields, Held, Items, Members, Place, Scores, Sketch, Stream, Text
from tests.load.streams import format_id
from tests.raw import Raw
from tests.servers import Store

_HeldT = TypeVar("_HeldT", bound=Held)
_DOOMED_SECONDS: Final = 4.0
"""After which no key of a load expires any more."""


@dataclass(slots=True)
class Damages:
    """Does damage to keys that were not damaged yet, and knows what must be said of it."""

    expected: Expected
    url: str
    said: dict[Place, set[Kind]] = field(default_factory=lambda: defaultdict(set))

    def pick(
        self, kind: type[_HeldT], fits: Callable[[_HeldT], bool] = lambda held: True
    ) -> tuple[Place, _HeldT]:
        """A key that is there and holds what is wanted."""
        for place, held in self.expected.held.items():
            if place not in self.said and not _expired(held) and isinstance(held, kind) and fits(held):
                return place, held
        raise AssertionError(f"the load has left no {kind.__name__} that fits")

    def do(self, place: Place, kinds: set[Kind], *commands: tuple[bytes, ...]) -> None:
        """Damage one key."""
        with Raw(self.url, place[0]) as server:
            for command in commands:
                server(*command)
        self.said[place] |= kinds

    def shared(self, kind: str) -> tuple[Place, list[bytes]]:
        """A key that all connections wrote, and some of its tokens."""
        place, tokens = next(
            (place, tokens)
            for place, tokens in self.expected.shared.items()
            if tokens.kind == kind and len(tokens.sure) > 3 and place not in self.said
        )
        return place, sorted(tokens.sure)


def _texts(damages: Damages) -> None:
    place, _ = damages.pick(Text, lambda held: len(held.data) > 8)
    damages.do(place, {Kind.LOST}, (b"DEL", place[1]))
    place, _ = damages.pick(Text, lambda held: held.expiry is None and len(held.data) > 8)
    damages.do(place, {Kind.LOST}, (b"SET", place[1], b"an older value"))
    place, _ = damages.pick(Text, lambda held: held.data.isdigit() and held.expiry is None)
    damages.do(place, {Kind.DUPLICATED}, (b"INCR", place[1]))
    place, _ = damages.pick(Text, lambda held: held.data.isdigit() and held.expiry is None)
    damages.do(place, {Kind.LOST}, (b"DECR", place[1]))
    place, held = damages.pick(Text, lambda held: held.expiry is None and len(held.data) > 8)
    damages.do(place, {Kind.DUPLICATED}, (b"APPEND", place[1], held.data[-8:]))
    place, held = damages.pick(Text, lambda held: held.expiry is None and len(held.data) >= 10_000)
    damages.do(place, {Kind.LOST}, (b"SETRANGE", place[1], b"9000", bytes([held.data[9000] ^ 1])))
    place, _ = damages.pick(Sketch)
    damages.do(place, {Kind.RESURRECTED}, (b"PFADD", place[1], *(b"never added %d" % n for n in range(9))))


def _expiries(damages: Damages) -> None:
    place, _ = damages.pick(Text, lambda held: held.expiry is not None)
    damages.do(place, {Kind.WRONG_EXPIRY}, (b"PERSIST", place[1]))
    place, _ = damages.pick(Text, lambda held: held.expiry is None)
    damages.do(place, {Kind.WRONG_EXPIRY}, (b"EXPIRE", place[1], b"5000"))
    place, held = damages.pick(Fields, lambda held: held.expiry is not None)
    assert held.expiry is not None
    damages.do(place, {Kind.WRONG_EXPIRY}, (b"PEXPIREAT", place[1], b"%d" % (held.expiry.latest + 3000)))


def _returned(damages: Damages, folder: Path) -> None:
    """What was deleted, what has expired, and what was moved away, is back."""
    writes = [write for write in read(folder) if write.timed.outcome is Outcome.ACKNOWLEDGED]
    undecided = {place for choices in damages.expected.undecided for place in choices[0]}

    def gone(place: Place) -> bool:
        return place not in damages.expected.held and place not in undecided and place not in damages.said

    deleted = (
        (write.database, write.commands[0][1])
        for write in writes
        if write.commands[0][0] in {b"DEL", b"UNLINK"}
    )
    place = next(filter(gone, deleted))
    damages.do(place, {Kind.RESURRECTED}, (b"SET", place[1], b"deleted before"))
    moved = ((write.database, write.commands[0][1]) for write in writes if write.commands[0][0] == b"MOVE")
    place = next(filter(gone, moved))
    damages.do(place, {Kind.RESURRECTED}, (b"RPUSH", place[1], b"moved before"))
    place = next(place for place, held in damages.expected.held.items() if _expired(held))
    damages.do(place, {Kind.RESURRECTED}, (b"SET", place[1], b"expired before"))
    place = 0, b"load:app-0.0:string:999999999"
    damages.do(place, {Kind.RESURRECTED}, (b"SET", place[1], b"never written"))


def _expired(held: Held) -> bool:
    return held.expiry is not None and held.expiry.latest < time_ns() // 1_000_000


def _collections(damages: Damages) -> None:
    place, items = damages.pick(Items, lambda held: len(held.items) > 1)
    damages.do(place, {Kind.DUPLICATED}, (b"RPUSH", place[1], items.items[-1]))
    place, _ = damages.pick(Items, lambda held: len(held.items) > 1)
    damages.do(place, {Kind.LOST}, (b"LPOP", place[1]))
    place, _ = damages.pick(Items, lambda held: len(held.items) > 1 and held.items[0] != held.items[-1])
    damages.do(place, {Kind.LOST}, (b"RPOPLPUSH", place[1], place[1]))
    place, _ = damages.pick(Items)
    damages.do(place, {Kind.RESURRECTED}, (b"LPUSH", place[1], b"an element of before"))
    place, members = damages.pick(Members, lambda held: len(held.members) > 1)
    damages.do(place, {Kind.LOST}, (b"SREM", place[1], next(iter(members.members))))
    place, _ = damages.pick(Members)
    damages.do(place, {Kind.RESURRECTED}, (b"SADD", place[1], b"a member of before"))
    place, fields = damages.pick(Fields, lambda held: len(held.fields) > 1)
    damages.do(place, {Kind.LOST}, (b"HDEL", place[1], next(iter(fields.fields))))
    place, _ = damages.pick(Fields, lambda held: b"count1" in held.fields)
    damages.do(place, {Kind.DUPLICATED}, (b"HINCRBY", place[1], b"count1", b"1"))
    place, _ = damages.pick(Fields)
    damages.do(place, {Kind.RESURRECTED}, (b"HSET", place[1], b"a field of before", b""))
    place, scores = damages.pick(Scores, lambda held: len(held.scores) > 1)
    damages.do(place, {Kind.LOST}, (b"ZREM", place[1], next(iter(scores.scores))))
    place, scores = damages.pick(Scores)
    damages.do(place, {Kind.DUPLICATED}, (b"ZINCRBY", place[1], b"0.25", next(iter(scores.scores))))


def _streams(damages: Damages) -> None:
    def pending(held: Stream) -> bool:
        return any(group.pending for group in held.groups.values())

    def entry(held: Stream) -> bytes:
        return format_id(next(iter(held.entries)))

    place, held = damages.pick(Stream, lambda held: len(held.entries) > 1)
    damages.do(place, {Kind.LOST}, (b"XDEL", place[1], entry(held)))
    place, held = damages.pick(Stream, lambda held: bool(held.entries))
    damages.do(place, {Kind.DUPLICATED}, (b"XADD", place[1], b"*", *held.entries[next(iter(held.entries))]))
    place, held = damages.pick(Stream, pending)
    name, group = next((name, group) for name, group in held.groups.items() if group.pending)
    damages.do(place, {Kind.WRONG_GROUP}, (b"XACK", place[1], name, format_id(next(iter(group.pending)))))
    place, held = damages.pick(
        Stream, lambda held: any(g.pending.keys() & held.entries for g in held.groups.values())
    )
    name, identifier = next(
        (name, id_) for name, group in held.groups.items() for id_ in group.pending if id_ in held.entries
    )
    damages.do(place, {Kind.WRONG_GROUP}, (b"XCLAIM", place[1], name, b"anna", b"0", format_id(identifier)))
    place, held = damages.pick(Stream, lambda held: any(g.last > (0, 0) for g in held.groups.values()))
    name = next(name for name, group in held.groups.items() if group.last > (0, 0))
    damages.do(place, {Kind.WRONG_GROUP}, (b"XGROUP", b"SETID", place[1], name, b"0"))
    place, held = damages.pick(Stream, lambda held: bool(held.groups))
    damages.do(place, {Kind.WRONG_GROUP}, (b"XGROUP", b"DESTROY", place[1], next(iter(held.groups))))


def _shared(damages: Damages) -> None:
    place, (token, other, *_) = damages.shared("RPUSH")
    damages.do(
        place, {Kind.LOST, Kind.DUPLICATED}, (b"LREM", place[1], b"0", token), (b"RPUSH", place[1], other)
    )
    place, (token, *_) = damages.shared("SADD")
    damages.do(
        place, {Kind.LOST, Kind.RESURRECTED}, (b"SREM", place[1], token), (b"SADD", place[1], b"never sent")
    )
    place, (token, *_) = damages.shared("XADD")
    damages.do(place, {Kind.DUPLICATED}, (b"XADD", place[1], b"*", b"token", token))
    place, _ = damages.shared("INCR")
    damages.do(place, {Kind.LOST}, (b"DECR", place[1]))
    place, (token, *_) = damages.shared("HSET")
    damages.do(place, {Kind.LOST}, (b"HDEL", place[1], token))
    place, (token, *_) = damages.shared("ZADD")
    damages.do(place, {Kind.LOST}, (b"ZREM", place[1], token))


def _undecided(damages: Damages) -> None:
    """A write that was never answered was done or not: nothing else, and not twice."""
    left = {
        type(held): (place, held)
        for choices in damages.expected.undecided
        for place, held in choices[-1].items()
    }
    place, _ = left[Text]
    damages.do(place, {Kind.LOST}, (b"DEL", place[1]), (b"SADD", place[1], b"neither"))
    place, held = left[Items]
    assert isinstance(held, Items)
    damages.do(place, {Kind.DUPLICATED}, (b"DEL", place[1]), (b"RPUSH", place[1], *held.items, *held.items))


def test_every_damage_is_found_and_called_what_it_is(green: Store, tmp_path: Path) -> None:
    env_file = tmp_path / "app.env"
    env_file.write_text(f"REDIS_URL={green.url}\n")
    with Load(env_file, tmp_path / "log", rate=4000, big=0.01) as load:
        load.wait_for(5000)
        load.stop()
    sleep(_DOOMED_SECONDS)
    expected = replay(tmp_path / "log")
    assert check(expected, green.url) == []
    damages = Damages(expected, green.url)

    _texts(damages)
    _expiries(damages)
    _returned(damages, tmp_path / "log")
    _collections(damages)
    _streams(damages)
    _shared(damages)
    _undecided(damages)

    found: dict[Place, set[Kind]] = defaultdict(set)
    for violation in check(expected, green.url):
        found[violation.database, violation.key].add(violation.kind)
    assert found == damages.said
