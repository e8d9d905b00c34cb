"""MONITOR as a feed of real servers: it catches up, and says so when it may have missed something."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread, Timer
from time import monotonic, sleep

import pytest

from greenfly.demo.servers import TlsPair
from integrity.endpoint import Endpoint
from integrity.errors import AuthenticationFailed, PermissionRefused, ServerUnreachable
from integrity.settings import EndpointSettings
from integrity.sync.feed import Feed, Taken
from integrity.sync.monitor import MonitorFeed
from integrity.sync.monitor_queue import restore_queue, widen_queue
from integrity.sync.monitor_reader import MonitorReader
from tests.conftest import StartDragonfly, StartServer
from tests.raw import Raw
from tests.servers import Store, connect


def endpoint(
    store: Store, *, url: str | None = None, ca_file: Path | None = None, **more: object
) -> Endpoint:
    facts = {"url": url or store.url, "tls_ca_file": ca_file, **more}
    return Endpoint.from_settings("source", EndpointSettings.model_validate(facts))


@contextmanager
def opened(store: Store, *, io_timeout: float = 30.0) -> Iterator[Feed]:
    with closing(MonitorFeed.open(endpoint(store, io_timeout=io_timeout))) as feed:
        yield feed


def seen(feed: Feed) -> Taken:
    """All that happened so far."""
    assert feed.catch_up(10)
    return feed.take()


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = monotonic() + seconds
    while not condition():
        assert monotonic() < deadline, "it did not come about"
        sleep(0.01)


def lost(feed: Feed, seconds: float = 10.0) -> Taken:
    """What is taken once the feed has ended."""
    deadline = monotonic() + seconds
    names: dict[bytes, float] = {}
    while (taken := feed.take()).loss is None:
        assert monotonic() < deadline, "it did not end"
        names |= taken.names
        feed.wait(0.1)
    return Taken(names | dict(taken.names), taken.everything, taken.loss)


def connections(store: Store) -> list[str]:
    return [client["name"] for client in store.client.client_list() if "monitor" in client["name"]]


# -- what is seen ------------------------------------------------------------------------------------------------------


def test_all_that_was_written_before_it_catches_up_can_be_taken(green: Store) -> None:
    """Several clients write without pause; after each catching up every key that was acknowledged is named."""
    stop, written = Event(), [0] * 4

    def write(number: int) -> None:
        with connect(green.url, number % 2) as client:
            while not stop.is_set():
                client.set(f"{number}:{written[number]}", "v")
                written[number] += 1

    with opened(green) as feed:
        threads = [Thread(target=write, args=(number,)) for number in range(len(written))]
        for thread in threads:
            thread.start()
        names: set[bytes] = set()
        try:
            for _ in range(15):
                sleep(0.1)
                known = {b"%d:%d" % (n, at) for n, count in enumerate(written) for at in range(count)}
                taken = seen(feed)
                names |= taken.names.keys()
                assert (taken.everything, taken.loss) == (None, None)
                assert known <= names
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        names |= seen(feed).names.keys()
        assert names == {b"%d:%d" % (n, at) for n, count in enumerate(written) for at in range(count)}


def test_names_come_from_every_database(green: Store) -> None:
    with opened(green) as feed:
        green.database(3).set("three", "3")
        green.database(3).move("three", 5)
        green.database(5).delete("other")
        assert seen(feed).names.keys() == {b"three", b"other"}


def test_a_name_is_announced_without_asking(green: Store) -> None:
    with opened(green) as feed:
        begun = monotonic()
        timer = Timer(0.2, lambda: green.client.set("a", "1"))
        timer.start()
        feed.wait(10)
        timer.join()
        assert 0.1 < monotonic() - begun < 5
        names = feed.take().names
        assert names.keys() == {b"a"}
        assert begun < names[b"a"] < monotonic()


def test_waiting_ends_when_nothing_happens(blue: Store) -> None:
    with opened(blue) as feed:
        begun = monotonic()
        feed.wait(0.3)
        assert 0.25 < monotonic() - begun < 5
        assert feed.take() == Taken()


def test_a_value_of_megabytes_does_not_hide_what_comes_after_it(green: Store) -> None:
    with opened(green) as feed:
        green.client.set("big", os.urandom(2_000_000))
        green.client.set("after", "1")
        assert seen(feed).names.keys() == {b"big", b"after"}


def test_it_reads_over_tls(start_redis: StartServer, tls_pair: TlsPair) -> None:
    store = start_redis(tls=tls_pair)
    with closing(MonitorFeed.open(endpoint(store, ca_file=tls_pair.ca_file))) as feed:
        written = set()
        for number in range(300):
            store.client.set(f"key:{number}", os.urandom(7 * number))
            written.add(b"key:%d" % number)
        store.client.set("big", os.urandom(2_000_000))
        assert seen(feed).names.keys() == written | {b"big"}
        assert feed.backlog() == 0
    until(lambda: connections(store) == [])


def test_a_write_that_waits_out_a_pause_is_named_when_it_runs(green: Store) -> None:
    with opened(green) as feed, connect(green.url) as writer:
        green.client.client_pause(20_000, all=False)
        thread = Thread(target=lambda: writer.set("held", "1"))
        thread.start()
        try:
            sleep(0.2)
            assert seen(feed) == Taken(), "and a pause of writes does not keep it from catching up"
        finally:
            green.client.client_unpause()
            thread.join()
        assert seen(feed).names.keys() == {b"held"}


# -- what MONITOR does not show ----------------------------------------------------------------------------------------


def test_a_list_that_a_waiting_client_gives_to_is_named_when_it_gets_something(green: Store) -> None:
    with opened(green) as feed, connect(green.url) as one, connect(green.url) as two:
        # From one list to the next one, and from there to the last.
        threads = [
            Thread(target=lambda: one.blmove("first", "second", 20)),
            Thread(target=lambda: two.brpoplpush("second", "third", 20)),
        ]
        for thread in threads:
            thread.start()
        until(
            lambda: seen(feed).names.keys() <= set() and green.client.info("clients")["blocked_clients"] == 2
        )
        green.client.rpush("first", "item")
        for thread in threads:
            thread.join()
        assert green.client.lrange("third", 0, -1) == [b"item"]
        assert seen(feed).names.keys() == {b"first", b"second", b"third"}


def test_everything_is_suspect_when_a_client_is_served_that_waited_before_the_feed_began(
    green: Store,
) -> None:
    with connect(green.url) as waiting:
        thread = Thread(target=lambda: waiting.blmove("from", "to", 20))
        thread.start()
        until(lambda: green.client.info("clients")["blocked_clients"] == 1)
        with opened(green) as feed:
            assert seen(feed) == Taken()
            green.client.rpush("from", "item")
            thread.join()
            assert seen(feed).everything is not None
            assert seen(feed).everything is None


def test_what_one_of_several_early_waiters_did_is_told_by_the_time_it_has_caught_up(green: Store) -> None:
    with connect(green.url) as served, connect(green.url) as patient:
        threads = [
            Thread(target=lambda: served.blmove("from", "to", 20)),
            Thread(target=lambda: patient.blmove("elsewhere", "to", 20)),
        ]
        for thread in threads:
            thread.start()
        until(lambda: green.client.info("clients")["blocked_clients"] == 2)
        with opened(green) as feed:
            green.client.rpush("from", "item")
            threads[0].join()
            assert seen(feed).everything is not None
            assert seen(feed) == Taken(), "the other one still waits"
            green.client.rpush("elsewhere", "item")
            threads[1].join()
            assert seen(feed).everything is not None


def test_everything_is_suspect_when_keys_are_evicted(start_redis: StartServer) -> None:
    store = start_redis("--maxmemory", "3mb", "--maxmemory-policy", "allkeys-lru")
    with opened(store) as feed:
        store.client.set("a", "1")
        assert seen(feed).everything is None
        for number in range(100):
            store.client.set(f"key:{number}", "v" * 50_000)
        assert store.client.info("stats")["evicted_keys"] > 0
        assert seen(feed).everything is not None


# -- how it ends -------------------------------------------------------------------------------------------------------


def test_a_connection_that_is_killed_is_a_loss_since_the_last_marker(green: Store) -> None:
    with opened(green) as feed:
        green.client.set("before", "1")
        opening = datetime.now(UTC)
        sleep(2.5)  # Two beats of the pulse.
        (victim,) = [c["addr"] for c in green.client.client_list() if c["name"] == "greenfly:monitor"]
        green.client.client_kill(victim)
        green.client.set("unseen", "1")
        taken = lost(feed)
        assert taken.loss is not None
        assert opening < taken.loss.since < datetime.now(UTC)
        assert taken.names.keys() == {b"before"}
        assert not feed.catch_up(1)
        assert feed.take().loss == taken.loss


def test_a_server_that_is_shut_down_is_a_loss(start_redis: StartServer) -> None:
    store = start_redis()
    with opened(store) as feed:
        assert store.server is not None
        store.server.stop()
        assert lost(feed).loss is not None
        assert not feed.catch_up(0.5)


def test_a_server_that_falls_silent_is_not_caught_up_with_and_is_a_loss_after_a_while(
    start_redis: StartServer,
) -> None:
    store = start_redis()
    process = int(store.client.info("server")["process_id"])
    with opened(store, io_timeout=1.5) as feed:
        os.kill(process, signal.SIGSTOP)
        try:
            begun = monotonic()
            assert not feed.catch_up(0.5)
            assert monotonic() - begun < 3
            assert feed.take().loss is None
            assert lost(feed, 15).loss is not None
        finally:
            os.kill(process, signal.SIGCONT)


def test_a_server_that_becomes_a_replica_is_a_loss(start_redis: StartServer, blue: Store) -> None:
    store = start_redis()
    host, port = blue.url.removeprefix("redis://").rstrip("/").split(":")
    with opened(store) as feed:
        store.client.replicaof(host, port)
        assert lost(feed).loss is not None


def test_closing_leaves_nothing_behind_on_the_server(green: Store) -> None:
    feed = MonitorFeed.open(endpoint(green))
    assert "greenfly:monitor" in connections(green)
    begun = monotonic()
    feed.close()
    feed.close()
    assert monotonic() - begun < 5
    until(lambda: connections(green) == [])


# -- how it begins -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["monitor", "command", "client"])
def test_a_user_who_may_not_do_what_it_needs_is_refused(blue: Store, missing: str) -> None:
    with Raw(blue.url) as raw:
        raw("ACL", "SETUSER", "limited", "on", ">secret", "~*", "+@all", f"-{missing}")
    try:
        with pytest.raises(PermissionRefused) as caught:
            MonitorFeed.open(endpoint(blue, url=blue.url.replace("://", "://limited:secret@")))
        assert "secret" not in str(caught.value)
        until(lambda: connections(blue) == [])
    finally:
        blue.client.acl_deluser("limited")


def test_wrong_credentials_and_a_server_that_is_not_there_are_told_apart(blue: Store) -> None:
    with pytest.raises(AuthenticationFailed):
        MonitorFeed.open(endpoint(blue, url=blue.url.replace("://", "://nobody:secret@")))
    with pytest.raises(ServerUnreachable):
        MonitorFeed.open(endpoint(blue, url="redis://127.0.0.1:1"))


# -- its burden on the server ------------------------------------------------------------------------------------------


def test_what_waits_on_the_server_for_a_reader_that_is_held_up_is_told(
    blue: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = Event()
    understand = MonitorReader._understand

    def held_up(self: MonitorReader, block: bytes) -> None:
        go_on.wait(30)
        understand(self, block)

    with opened(blue) as feed:
        assert feed.backlog() == 0
        monkeypatch.setattr(MonitorReader, "_understand", held_up)
        try:
            for number in range(100):
                blue.client.set(f"key:{number}", b"v" * 200_000)
            until(lambda: feed.backlog() > 1_000_000)
            assert not feed.catch_up(0.3)
        finally:
            go_on.set()
        until(lambda: feed.backlog() == 0)
        assert seen(feed).names.keys() == {b"key:%d" % number for number in range(100)}


@pytest.mark.dragonfly
@pytest.mark.parametrize("widened", [False, True])
def test_dragonfly_closes_the_feed_when_too_many_lines_wait_unless_there_is_room_for_them(
    start_dragonfly: StartDragonfly, monkeypatch: pytest.MonkeyPatch, widened: bool
) -> None:
    store = start_dragonfly("--pipeline_queue_limit=50")
    go_on = Event()
    written: set[bytes] = set()
    take_in = MonitorReader._take_in

    def held_up(self: MonitorReader, data: bytes) -> None:
        go_on.wait(30)
        take_in(self, data)

    monkeypatch.setattr(MonitorReader, "_take_in", held_up)
    with opened(store) as feed:
        limit = widen_queue(endpoint(store)) if widened else None
        try:
            with Raw(store.url) as raw:
                for number in range(300):
                    raw.many([("SET", f"{number}:{k}", b"v" * 20_000) for k in range(10)])
                    written.update(b"%d:%d" % (number, k) for k in range(10))
        finally:
            go_on.set()
        if limit is None:
            assert lost(feed, 20).loss is not None
        else:
            assert seen(feed).names.keys() == written
            assert limit == 50
            restore_queue(endpoint(store), limit)
            with Raw(store.url) as raw:
                assert raw("CONFIG", "GET", "pipeline_queue_limit") == [b"pipeline_queue_limit", b"50"]


def test_there_is_no_such_limit_to_widen_on_redis(blue: Store) -> None:
    assert widen_queue(endpoint(blue)) is None
