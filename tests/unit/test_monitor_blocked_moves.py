"""Which lists change when another one does, because a client waits to move between them."""

from __future__ import annotations

import pytest

from integrity.sync import blocked_moves
from integrity.sync.blocked_moves import BlockedMoves, EarlyWaiters, TooManyMoves


def test_a_circle_of_moves_ends() -> None:
    moves = BlockedMoves()
    moves.note(b"a", b"b", b"0")
    moves.note(b"b", b"a", b"0")
    moves.note(b"b", b"b", b"1.5")
    assert set(moves.also_changed({b"a": None})) == {b"a", b"b"}
    assert moves.also_changed({b"c": None}) == []


def test_moves_that_no_longer_wait_are_forgotten_before_there_are_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(blocked_moves, "_CROWDED", 10)
    monkeypatch.setattr(blocked_moves, "_MOST", 20)
    monkeypatch.setattr(blocked_moves, "_MARGIN_SECONDS", -1.0)
    moves = BlockedMoves()
    moves.note(b"source", b"forever", b"0")
    moves.note(b"source", b"oddly", b"soon")
    for number in range(100):
        moves.note(b"source", b"%d" % number, b"0.5")
    assert {b"forever", b"oddly"} <= set(moves.also_changed({b"source": None}))
    assert len(moves.also_changed({b"source": None})) <= 20


def test_too_many_moves_that_wait_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocked_moves, "_CROWDED", 10)
    monkeypatch.setattr(blocked_moves, "_MOST", 20)
    moves = BlockedMoves()
    for number in range(20):
        moves.note(b"source", b"%d" % number, b"0")
    with pytest.raises(TooManyMoves):
        moves.note(b"source", b"one more", b"0")


LIST = b"id=1 addr=10.0.0.1:1 flags=b cmd=blmove\nid=2 addr=/run/redis.sock:0 flags=b cmd=brpoplpush\n"


def test_who_is_no_longer_listed_as_blocked_has_stopped_waiting() -> None:
    early = EarlyWaiters(LIST)
    assert early.ids == [b"1", b"2"]
    assert early.listed(LIST) is None
    assert (
        early.listed(LIST.replace(b"id=1 addr=10.0.0.1:1 flags=b", b"id=1 addr=10.0.0.1:1 flags=N")) is None
    )
    assert early.ids == [b"2"]
    assert early.told() is not None, "asked before all have stopped"
    assert early.told() is None
    assert early.listed(b"") is not None
    assert not early


def test_any_client_of_a_unix_socket_may_be_the_one_that_waited() -> None:
    early = EarlyWaiters(LIST)
    assert early.heard([b"lua", b"unix:/run/redis.sock", b"10.0.0.1:2"]) is None
    assert early.ids == [b"1"]
    assert early.heard([b"10.0.0.1:1"]) is not None
