"""Client tracking as a feed of real servers: no change goes unnamed, and an end is told."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread
from time import monotonic, sleep
from typing import Final

import pytest
from redis.exceptions import ResponseError

from greenfly.demo.servers import TlsPair
from integrity.endpoint import Endpoint
from integrity.errors import AuthenticationFailed, ServerUnreachable
from integrity.settings import EndpointSettings
from integrity.sync.feed import Taken
from integrity.sync.tracking import TrackingFeed, TrackingUnsupported
from tests.conftest import StartServer
from tests.proxy import Proxy
from tests.raw import Raw
from tests.servers import Store, connect

WRITES: Final = int(os.environ.get("GREENFLY_TEST_FEED_WRITES", "100000"))


def endpoint(
    store: Store, *, url: str | None = None, ca_file: Path | None = None, **more: object
) -> Endpoint:
    facts = {"url": url or store.url, "tls_ca_file": ca_file, **more}
    return Endpoint.from_settings("source", EndpointSettings.model_validate(facts))


@contextmanager
def opened(store: Store, *, url: str | None = None, silence_seconds: float = 10.0) -> Iterator[TrackingFeed]:
    with closing(TrackingFeed.open(endpoint(store, url=url), silence_seconds=silence_seconds)) as feed:
        yield feed


def seen(feed: TrackingFeed) -> Taken:
    """All that happened so far."""
    assert feed.catch_up(10)
    return feed.take()


def lost(feed: TrackingFeed, seconds: float = 15.0) -> Taken:
    """What is taken once the feed has ended."""
    deadline = monotonic() + seconds
    names: dict[bytes, float] = {}
    while (taken := feed.take()).loss is None:
        assert monotonic() < deadline, "it did not end"
        names |= taken.names
        feed.wait(0.1)
    return Taken(names | dict(taken.names), taken.everything, taken.loss)


def say(store: Store, *command: str | int, database: int = 0) -> None:
    """A command that redis-py has no method for."""
    with Raw(store.url, database) as server:
        server(*command)


def tracking_id(store: Store) -> int:
    (found,) = [int(c["id"]) for c in store.client.client_list() if c["name"] == "greenfly:tracking"]
    return found


# -- what is seen -----------------------------------------------------------------------------------------------------


def test_the_names_seen_are_those_that_changed(blue: Store) -> None:
    """Random writes, deletions and expiries in three databases, pipelined as fast as they go."""
    draw = random.Random(7)
    changed: set[bytes] = set()
    with opened(blue) as feed, Raw(blue.url) as server:
        for _ in range(0, WRITES, 500):
            names = [b"k%d" % draw.randrange(WRITES // 2) for _ in range(500)]
            commands: list[tuple[bytes | int, ...]] = [(b"SELECT", draw.randrange(3))]
            commands += [
                draw.choice(
                    [
                        (b"SET", name, b"v"),
                        (b"DEL", name),
                        (b"PEXPIRE", name, b"1000000"),
                        (b"APPEND", name, b"x"),
                    ]
                )
                for name in names
            ]
            replies = server.many(commands)[1:]
            changed |= {
                name
                for name, command, reply in zip(names, commands[1:], replies, strict=True)
                if command[0] in {b"SET", b"APPEND"} or reply == 1
            }
        assert set(seen(feed).names) == changed


def _units(client: Callable[[], Raw]) -> dict[str, tuple[Sequence[tuple[bytes | int, ...]], set[bytes]]]:
    script = b"redis.call('SET', KEYS[1], 'v'); redis.call('DEL', KEYS[2])"
    return {
        "string": ([(b"SET", b"a", b"1")], {b"a"}),
        "same value": ([(b"SET", b"str", b"v")], {b"str"}),
        "delete": ([(b"DEL", b"str", b"none")], {b"str"}),
        "rename": ([(b"RENAME", b"str", b"to")], {b"str", b"to"}),
        "move": ([(b"MOVE", b"str", 3)], {b"str"}),
        "copy to another database": ([(b"COPY", b"str", b"to", b"DB", 4)], {b"to"}),
        "expiry": ([(b"PEXPIRE", b"str", 100_000)], {b"str"}),
        "another database": ([(b"SELECT", 9), (b"SET", b"late", b"1")], {b"late"}),
        "transaction": ([(b"MULTI",), (b"SET", b"a", b"1"), (b"DEL", b"str"), (b"EXEC",)], {b"a", b"str"}),
        "script": ([(b"EVAL", script, 2, b"a", b"str")], {b"a", b"str"}),
        "hash field": ([(b"HSET", b"h", b"f", b"v")], {b"h"}),
        "pfcount rewrites its cache": ([(b"PFADD", b"hll", b"x"), (b"PFCOUNT", b"hll")], {b"hll"}),
        "sort store": ([(b"SORT", b"l", b"ALPHA", b"STORE", b"sorted")], {b"sorted"}),
        "stream": ([(b"XADD", b"x", b"*", b"f", b"v")], {b"x"}),
        "reads": ([(b"GET", b"str"), (b"LRANGE", b"l", 0, -1), (b"TOUCH", b"str")], set()),
        "nothing changed": ([(b"DEL", b"none"), (b"SETNX", b"str", b"w"), (b"SADD", b"s", b"m")], set()),
    }


@pytest.mark.parametrize("unit", list(_units(lambda: pytest.fail("not asked"))))
def test_each_kind_of_change_is_named(unit: str, blue: Store) -> None:
    with Raw(blue.url) as server:
        server.many([(b"SET", b"str", b"v"), (b"RPUSH", b"l", b"b", b"a"), (b"SADD", b"s", b"m")])
        with opened(blue) as feed:
            commands, changed = _units(lambda: server)[unit]
            server.many(commands)
            assert set(seen(feed).names) == changed


@pytest.mark.parametrize("how", ["active", "lazy"])
def test_a_key_that_expires_is_named(how: str, start_redis: StartServer) -> None:
    store = start_redis("--enable-debug-command", "yes")
    say(store, "DEBUG", "SET-ACTIVE-EXPIRE", "1" if how == "active" else "0")
    store.client.set("k", "v", px=50)
    with opened(store) as feed:
        sleep(0.1)
        if how == "lazy":
            assert store.client.get("k") is None
        deadline = monotonic() + 5
        names: set[bytes] = set()
        while b"k" not in names:
            assert monotonic() < deadline, "the expiry was not announced"
            names |= set(feed.take().names)
            feed.wait(0.1)


def test_keys_that_are_evicted_are_named(start_redis: StartServer) -> None:
    store = start_redis("--maxmemory", "3mb", "--maxmemory-policy", "allkeys-lru")
    with opened(store) as feed, Raw(store.url) as server:
        for start in range(0, 4000, 500):
            server.many([(b"SET", b"k%d" % n, b"v" * 1000) for n in range(start, start + 500)])
        names = set(seen(feed).names)
        gone = {b"k%d" % n for n in range(4000)} - server.keys()
    assert len(gone) > 1000
    assert gone <= names


@pytest.mark.parametrize("command", [("FLUSHDB",), ("FLUSHALL",), ("FLUSHALL", "ASYNC")])
def test_emptying_makes_everything_suspect(command: tuple[str, ...], blue: Store) -> None:
    with opened(blue) as feed:
        say(blue, *command, database=2)
        assert seen(feed).everything is not None
        assert feed.take().everything is None


def test_what_no_tracker_is_told_stays_unnamed(blue: Store) -> None:
    """The reason why groups are compared in rounds and swapped databases are counted; if a server learns to, look."""
    say(blue, "XADD", "x", "1-1", "f", "v")
    with opened(blue) as feed:
        for command in (
            "XGROUP CREATE x g 0",
            "XREADGROUP GROUP g c STREAMS x >",
            "XACK x g 1-1",
            "SWAPDB 0 1",
        ):
            say(blue, *command.split())
        taken = seen(feed)
    assert (dict(taken.names), taken.everything) == ({}, None)


def test_names_of_any_bytes_split_anywhere_arrive_whole(blue: Store) -> None:
    """A proxy hands on what the server pushes a few bytes at a time."""
    names = [b"\r\n$5\r\n\x00", bytes(range(256)), b">2\r\n" * 50, b"k" * 5000]

    with _Dripping(blue.url) as url, opened(blue, url=url) as feed:
        for name in names:
            blue.client.set(name, "v")
        assert set(seen(feed).names) == set(names)


class _Dripping:
    """A proxy that sends on seven bytes at a time."""

    def __init__(self, url: str) -> None:
        self._to = int(url.rpartition(":")[2].partition("/")[0])
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = [self._listener]

    def __enter__(self) -> str:
        Thread(target=self._serve, daemon=True).start()
        return f"redis://127.0.0.1:{self._listener.getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        for connection in self._open:
            connection.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._to))
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open += [client, server]
            Thread(target=self._pump, args=(client, server, 1 << 16), daemon=True).start()
            Thread(target=self._pump, args=(server, client, 7), daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, to: socket.socket, at_most: int) -> None:
        try:
            while data := source.recv(at_most):
                to.sendall(data)
        except OSError:
            return


# -- catching up ------------------------------------------------------------------------------------------------------


def test_all_that_was_answered_before_catching_up_can_be_taken(blue: Store) -> None:
    """Several clients write without pause; after each catching up every key that was acknowledged is named."""
    stop, written = Event(), [0] * 3

    def write(number: int) -> None:
        with connect(blue.url, number) as client:
            while not stop.is_set():
                client.set(f"{number}:{written[number]}", "v")
                written[number] += 1

    threads = [Thread(target=write, args=(number,)) for number in range(3)]
    names: set[bytes] = set()
    with opened(blue) as feed:
        for thread in threads:
            thread.start()
        try:
            for _ in range(200):
                acknowledged = list(written)
                assert feed.catch_up(10)
                names |= set(feed.take().names)
                for number, count in enumerate(acknowledged):
                    assert all(b"%d:%d" % (number, n) in names for n in range(max(0, count - 50), count))
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    assert min(written) > 50


def test_a_time_out_does_not_answer_the_next_request(blue: Store) -> None:
    """Nothing gets through, so the first request ends unanswered; what is written before the second is seen by it."""
    with Proxy(blue.url) as proxy, opened(blue, url=proxy.url) as feed:
        assert feed.catch_up(5)
        for number in range(20):
            proxy.to_client.clear()
            assert not feed.catch_up(0.01)
            blue.client.set(f"k{number}", "v")
            proxy.to_client.set()
            assert feed.catch_up(5)
            assert b"k%d" % number in feed.take().names


def test_a_server_that_is_busy_with_a_script_has_not_told_what_the_script_changed(
    start_redis: StartServer,
) -> None:
    store = start_redis("--lua-time-limit", "50")
    script = (
        "redis.call('SET', 'early', 'v'); local t = redis.call('TIME'); local from = t[1] * 1000 + t[2] / 1000;"
        "repeat t = redis.call('TIME') until t[1] * 1000 + t[2] / 1000 - from > 1500"
    )
    with opened(store) as feed, connect(store.url) as client:
        thread = Thread(target=lambda: client.eval(script, 0))
        thread.start()
        try:
            with Raw(store.url) as asking:
                deadline = monotonic() + 5
                while not isinstance(asking.many([(b"PING",)])[0], ResponseError):
                    assert monotonic() < deadline, "the script was not met"
            assert not feed.catch_up(0.3)
            assert feed.catch_up(10)
            assert b"early" in feed.take().names
        finally:
            thread.join()


# -- ends and refusals ------------------------------------------------------------------------------------------------


def test_a_killed_connection_is_a_loss_since_the_last_sign_of_life(blue: Store) -> None:
    with opened(blue) as feed:
        assert feed.catch_up(10)
        before = datetime.now(UTC)
        blue.client.set("k", "v")
        sleep(2.5)
        say(blue, "CLIENT", "KILL", "ID", tracking_id(blue))
        killed = datetime.now(UTC)
        taken = lost(feed)
        assert b"k" in taken.names
        assert taken.loss is not None
        assert before < taken.loss.since < killed
        assert not feed.catch_up(1)


def test_a_server_that_drops_its_slow_reader_is_a_loss(start_redis: StartServer) -> None:
    store = start_redis("--client-output-buffer-limit", "normal 1mb 0 0")
    with Proxy(store.url) as proxy, opened(store, url=proxy.url, silence_seconds=60) as feed:
        proxy.to_client.clear()
        with Raw(store.url) as server:
            for start in range(0, 40_000, 500):
                server.many([(b"SET", b"%d" % n + b"k" * 500, b"v") for n in range(start, start + 500)])
                if not any(c["name"] == "greenfly:tracking" for c in store.client.client_list()):
                    break
            else:
                pytest.fail("the server kept its slow reader")
        proxy.to_client.set()
        assert lost(feed).loss is not None


def test_the_backlog_on_the_server_is_told_and_asking_survives_a_lost_connection(
    start_redis: StartServer,
) -> None:
    store = start_redis()
    with Proxy(store.url) as proxy, opened(store, url=proxy.url, silence_seconds=60) as feed:
        assert feed.backlog() == 0
        (control,) = [c["id"] for c in store.client.client_list() if c["name"] == "greenfly:backlog"]
        say(store, "CLIENT", "KILL", "ID", control)
        with pytest.raises(ServerUnreachable):
            feed.backlog()
        assert feed.backlog() == 0


def test_what_waits_for_a_reader_that_stands_still_is_counted(start_redis: StartServer) -> None:
    store = start_redis()
    with Proxy(store.url) as proxy:
        feed = TrackingFeed.open(endpoint(store, url=proxy.url), silence_seconds=60)
        with closing(feed):
            direct = TrackingFeed.open(endpoint(store), silence_seconds=60)
            with closing(direct):
                proxy.to_client.clear()
                # Asked for over a connection that is not held up.
                direct._client_id = feed._client_id
                with Raw(store.url) as server:
                    for start in range(0, 20_000, 500):
                        server.many(
                            [(b"SET", b"%d" % n + b"k" * 500, b"v") for n in range(start, start + 500)]
                        )
                assert direct.backlog() > 1_000_000
                proxy.to_client.set()
                assert feed.catch_up(20)
                assert len(feed.take().names) == 20_000
                assert direct.backlog() < 100_000


def test_silence_is_a_loss(blue: Store) -> None:
    with Proxy(blue.url) as proxy, opened(blue, url=proxy.url, silence_seconds=1.5) as feed:
        assert feed.catch_up(5)
        proxy.stall()
        assert lost(feed).loss is not None


def test_a_quiet_server_is_no_loss(blue: Store) -> None:
    with opened(blue, silence_seconds=1.5) as feed:
        sleep(3.0)
        assert feed.take() == Taken()
        assert feed.catch_up(5)


def test_a_password_and_a_user_are_used(start_redis: StartServer) -> None:
    store = start_redis(password="secret")
    with closing(TrackingFeed.open(endpoint(store))) as feed:
        store.client.set("k", "v")
        assert set(seen(feed).names) == {b"k"}
    with pytest.raises(AuthenticationFailed):
        TrackingFeed.open(endpoint(store, url=store.url.replace("secret", "wrong")))


def test_tls_is_spoken(start_redis: StartServer, tls_pair: TlsPair) -> None:
    store = start_redis(tls=tls_pair)
    with closing(TrackingFeed.open(endpoint(store, ca_file=tls_pair.ca_file))) as feed:
        with store.client.pipeline(transaction=False) as pipe:
            for number in range(20_000):
                pipe.set(f"key:{number}", "v")
            pipe.execute()
        assert set(seen(feed).names) == {b"key:%d" % number for number in range(20_000)}


def test_a_server_that_refuses_is_told_apart_from_one_that_is_away(start_redis: StartServer) -> None:
    store = start_redis()
    say(store, "ACL", "SETUSER", "limited", "on", "nopass", "+@all", "-client|tracking", "~*")
    with pytest.raises(TrackingUnsupported):
        TrackingFeed.open(endpoint(store, url=store.url.replace("redis://", "redis://limited:x@")))
    assert store.server is not None
    store.server.stop()
    with pytest.raises(ServerUnreachable):
        TrackingFeed.open(endpoint(store))


@pytest.mark.dragonfly
def test_dragonfly_announces_too_little_and_is_told_to(green_dragonfly: Store) -> None:
    with pytest.raises(TrackingUnsupported):
        TrackingFeed.open(endpoint(green_dragonfly))


def test_closing_leaves_nothing_behind(blue: Store) -> None:
    with opened(blue) as feed:
        feed.backlog()
        assert feed._thread.is_alive()
    assert not feed._thread.is_alive()
    deadline = monotonic() + 5
    while any(c["name"] in {"greenfly:tracking", "greenfly:backlog"} for c in blue.client.client_list()):
        assert monotonic() < deadline
        sleep(0.01)
