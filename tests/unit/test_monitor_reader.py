"""The reading thread, at the other end of a socket on which a test plays the server."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from time import sleep

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from integrity.sync import monitor_reader
from integrity.sync.blocked_moves import EarlyWaiters
from integrity.sync.feed import Taken
from integrity.sync.key_positions import Effect, KeyTable, at_places
from integrity.sync.monitor_reader import MonitorReader
from integrity.sync.sightings import Sightings
from tests.unit.test_monitor_line import awkward, line

TABLE = {
    b"SET": at_places(1, 1, 1),
    b"DEL": at_places(1, -1, 1),
    b"MSET": at_places(1, -1, 2),
    b"GET": Effect.NOTHING,
}
MARKER = b"greenfly:x:"


class Played:
    """A reader and the server's end of its socket."""

    def __init__(self, received: bytes = b"", client_list: bytes = b"") -> None:
        self.sightings = Sightings(0.0)
        self.server, ours = socket.socketpair()
        ours.setblocking(False)
        self.early = EarlyWaiters(client_list)
        self.reader = MonitorReader(ours, received, KeyTable(TABLE), MARKER, self.sightings, self.early)
        self.reader.start()

    def all_seen(self) -> Taken:
        """What was understood of all that was sent."""
        number = self.sightings.new_marker()
        self.server.sendall(line(b"ECHO", MARKER + b"%d" % number))
        self.sightings.wait_for_marker(number, 10)
        return self.sightings.take()

    def after_the_end(self) -> Taken:
        """What was understood before the reader ended."""
        self.reader.join(10)
        assert not self.reader.is_alive()
        return self.sightings.take()


@contextmanager
def played(received: bytes = b"", client_list: bytes = b"") -> Iterator[Played]:
    play = Played(received, client_list)
    try:
        yield play
    finally:
        play.reader.stop()
        play.server.close()


def names(taken: Taken) -> set[bytes]:
    assert (taken.everything, taken.loss) == (None, None)
    return set(taken.names)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(awkward, min_size=1, max_size=4), min_size=1, max_size=6), st.data())
def test_names_are_the_same_however_the_stream_is_cut(
    deleted: list[list[bytes]], data: st.DataObject
) -> None:
    stream = b"".join(line(b"DEL", *keys) for keys in deleted)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    with played(received=pieces[0]) as play:
        for piece in pieces[1:]:
            play.server.sendall(piece)
        assert names(play.all_seen()) == {key for keys in deleted for key in keys}


def test_the_time_of_a_name_is_when_it_was_first_announced() -> None:
    with played() as play:
        play.server.sendall(line(b"SET", b"a", b"1"))
        play.sightings.wait(10)
        number = play.sightings.new_marker()
        between = play.sightings.marked_at
        play.server.sendall(line(b"SET", b"a", b"2") + line(b"ECHO", MARKER + b"%d" % number))
        assert play.sightings.wait_for_marker(number, 10)
        assert play.sightings.take().names[b"a"] < play.sightings.marked_at
        assert between <= play.sightings.marked_at
        assert play.sightings.take().names == {}


def test_a_command_in_no_table_makes_everything_suspect() -> None:
    with played() as play:
        play.server.sendall(line(b"NEW.WRITE", b"a") + line(b"SET", b"b", b"1"))
        taken = play.all_seen()
        assert taken.everything is not None
        assert "NEW.WRITE" in taken.everything
        assert set(taken.names) == {b"b"}
        assert play.all_seen() == Taken()


@pytest.mark.parametrize(
    "sent",
    [b"nonsense\r\n", b'+1.2 [0 lua] "SET" "\\q" "v"\r\n', b'+1.2 [0 lua] "DEL" "a" b "c"\r\n', b"\r\n"],
)
def test_a_line_that_is_not_understood_is_a_loss(sent: bytes) -> None:
    with played() as play:
        play.server.sendall(sent + line(b"SET", b"later", b"1"))
        taken = play.after_the_end()
        assert taken.loss is not None
        assert b"later" not in taken.names


def test_an_end_of_the_stream_is_a_loss_that_keeps_what_was_named() -> None:
    with played() as play:
        play.server.sendall(line(b"SET", b"a", b"1") + line(b"SET", b"b", b"1")[:-5])
        play.server.shutdown(socket.SHUT_WR)
        taken = play.after_the_end()
        assert taken.loss is not None
        assert set(taken.names) == {b"a"}


def test_a_loss_dates_back_to_when_the_newest_marker_that_was_seen_was_sent() -> None:
    with played() as play:
        play.all_seen()
        before = datetime.now(UTC)
        earlier, latest = play.sightings.new_marker(), play.sightings.new_marker()
        after = datetime.now(UTC)
        sleep(0.05)
        play.server.sendall(line(b"ECHO", MARKER + b"%d" % latest))
        assert play.sightings.wait_for_marker(latest, 10)
        assert play.sightings.wait_for_marker(earlier, 0), (
            "what was sent before a marker that is seen counts as seen"
        )
        sleep(0.05)
        unseen = play.sightings.new_marker()
        play.server.sendall(line(b"ECHO", b"greenfly:other:%d" % unseen) + line(b"ECHO", MARKER + b"99"))
        play.server.close()
        loss = play.after_the_end().loss
        assert loss is not None
        assert before <= loss.since <= after
        assert not play.sightings.wait_for_marker(unseen, 0)


def test_what_may_be_seen_later_than_a_marker_makes_a_loss_date_further_back() -> None:
    sightings = Sightings(5.0)
    opened = datetime.now(UTC)
    sightings.add({}, marker=sightings.new_marker())
    sightings.lose("for this test")
    loss = sightings.take().loss
    assert loss is not None
    assert loss.since <= opened, (
        "nothing is known of the time before it began, and a marker less than the settling"
    )


def test_of_a_line_too_long_to_keep_the_first_key_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor_reader, "_LONGEST", 300_000)
    with played() as play:
        play.server.sendall(line(b"SET", b"big", b"v" * 3_000_000) + line(b"SET", b"next", b"v"))
        assert names(play.all_seen()) == {b"big", b"next"}


def test_a_line_too_long_to_keep_that_names_many_keys_makes_everything_suspect(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(monitor_reader, "_LONGEST", 300_000)
    with played() as play:
        play.server.sendall(line(b"MSET", b"big", b"v" * 3_000_000, b"b", b"v") + line(b"SET", b"next", b"v"))
        taken = play.all_seen()
        assert taken.everything is not None
        assert taken.loss is None
        assert set(taken.names) == {b"next"}


def test_a_line_too_long_to_keep_whose_first_key_is_too_long_is_a_loss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(monitor_reader, "_LONGEST", 300_000)
    with played() as play:
        with suppress(BrokenPipeError):  # It does not read on.
            play.server.sendall(line(b"SET", b"k" * 3_000_000, b"v"))
        assert play.after_the_end().loss is not None


def test_a_list_that_a_waiting_client_may_give_to_is_named_with_the_one_it_takes_from() -> None:
    with played() as play:
        play.server.sendall(
            line(b"BLMOVE", b"one", b"two", b"LEFT", b"RIGHT", b"0")
            + line(b"brpoplpush", b"two", b"three", b"5")
        )
        assert names(play.all_seen()) == {b"one", b"two", b"three"}
        play.server.sendall(line(b"DEL", b"one", b"other"))
        assert names(play.all_seen()) == {b"one", b"other", b"two", b"three"}
        play.server.sendall(line(b"SET", b"two", b"x"))
        assert names(play.all_seen()) == {b"two", b"three"}
        play.server.sendall(line(b"SET", b"three", b"x"))
        assert names(play.all_seen()) == {b"three"}


WAITING = (
    b"id=7 addr=10.0.0.1:7 name= flags=b cmd=blmove\n"
    b"id=8 addr=10.0.0.2:8 name= flags=b db=0\n"
    b"id=9 addr=10.0.0.3:9 name= flags=b cmd=blpop\n"
    b"id=10 addr=10.0.0.4:10 name= flags=N cmd=brpoplpush\n"
)


def test_everything_is_suspect_once_all_have_run_something_that_waited_before_the_beginning() -> None:
    with played(client_list=WAITING) as play:
        play.server.sendall(line(b"GET", b"a", client=b"10.0.0.3:9") + line(b"PING", client=b"10.0.0.1:7"))
        play.server.sendall(line(b"PING", client=b"10.0.0.4:10"))
        play.all_seen()
        assert play.early
        play.server.sendall(line(b"PING", client=b"10.0.0.2:8"))
        assert play.all_seen().everything is not None
        assert not play.early
        assert play.all_seen() == Taken()
