"""Servers to put fences up on, and clients that write to them and remember what was acknowledged."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from threading import Event, Thread
from time import monotonic, sleep
from types import TracebackType
from typing import Final, Self

import pytest
from redis import ConnectionPool, Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as LostConnection
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from integrity.endpoint import Endpoint, Identity
from integrity.settings import EndpointSettings
from integrity.switch.access import WriteCommands, raw, read_users
from integrity.switch.fence import Fence
from integrity.switch.fence_plan import FencePlan
from tests.matrix.servers import Program, programs_on_path, read_programs
from tests.raw import Argument, Raw, Reply, as_bytes, as_strings
from tests.servers import connect

MORE_VARIABLE: Final = "GREENFLY_TEST_MORE_SERVERS"
"""Further server programs, separated as in PATH, for the tests of the fence."""


@cache
def programs() -> tuple[Program, ...]:
    """Every server program there is: on PATH, and named in the environment."""
    more = [Path(path) for path in os.environ.get(MORE_VARIABLE, "").split(os.pathsep) if path]
    return tuple(read_programs([*programs_on_path(), *more]))


def each_program() -> list[object]:
    """For ``parametrize``; Dragonfly is there also where it is missing, so that its tests show as skipped."""
    found: list[object] = [
        pytest.param(p, id=p.title, marks=[pytest.mark.dragonfly] if p.engine == "dragonfly" else [])
        for p in programs()
    ]
    for engine in ("redis", "dragonfly"):
        if not any(p.engine == engine for p in programs()):
            marks = [pytest.mark.skip(f"no {engine} server on PATH")]
            found.append(pytest.param(None, id=engine, marks=marks))
    return found


@dataclass(frozen=True, slots=True)
class Fenced:
    """A server of one test, as Greenfly and as its administrator see it."""

    program: Program
    url: str
    client: Redis
    """The user ``default``."""
    endpoint: Endpoint
    identity: Identity

    @property
    def dragonfly(self) -> bool:
        return self.program.engine == "dragonfly"

    def fence(self, *keep_users: str) -> Fence:
        """As a process that has just begun would make it."""
        return Fence(endpoint_of(self.url), self.identity, keep_users=keep_users)

    def url_of(self, name: str) -> str:
        """The same server reached as another user, whose password is ``secret``."""
        return self.url.replace("://", f"://{name}:secret@")

    def make_user(self, name: str, *rules: str) -> None:
        """With the password ``secret``."""
        self.raw("ACL", "SETUSER", name, ">secret", *rules)

    def limited(self, *rules: str) -> Endpoint:
        """The same server reached as a user that may do less."""
        self.make_user("limited", "on", "~*", "&*", *rules)
        return endpoint_of(self.url_of("limited"))

    def as_user(self, name: str) -> Endpoint:
        """The same server reached as another user, whose password is ``secret``."""
        return endpoint_of(self.url_of(name))

    def blocked(self) -> int:
        """Clients that wait in a command."""
        return int(self.client.info("clients")["blocked_clients"])

    def rights(self) -> dict[bytes, frozenset[str]]:
        """What each user may run of the commands that change data, and of EXEC."""
        with self.endpoint.connect("test") as connection:
            commands = WriteCommands.read(connection, also=["exec", "eval", "get"])
            return {raw(user.name): commands.permitted_to(user) for user in read_users(connection)}

    def refuses(self, name: str) -> bool:
        """Whether ``default`` may not run a command, asked by running it with arguments that make no sense."""
        command, _, subcommand = name.partition("|")
        with Raw(self.url) as raw_connection:
            for count in range(8):
                reply = raw_connection.many([(command, *filter(None, [subcommand]), *(["1"] * count))])[0]
                if isinstance(reply, ResponseError) and "permission" in str(reply).lower():
                    return True
        return False

    def forget_acl(self) -> None:
        """As a restart does: users are what the configuration says."""
        self.raw("ACL", "SETUSER", "default", "-@all", "+@all")
        self.raw("ACL", "DELUSER", "greenfly-fence")

    def raw(self, *command: str | int) -> Reply:
        """One command of the administrator's.

        :raises UnexpectedReply: the server answered with an error.
        """
        with Raw(self.url) as raw:
            return raw(*command)

    def acl_list(self) -> list[bytes]:
        """Every user with its rules, in a steady order."""
        return sorted(as_strings(self.raw("ACL", "LIST")))


@pytest.fixture(params=each_program())
def server(request: pytest.FixtureRequest) -> Iterator[Fenced]:
    """A server with nothing in it, of each program in turn."""
    program: Program = request.param
    with program.start() as running, connect(running.url) as client:
        endpoint = endpoint_of(running.url)
        yield Fenced(program, running.url, client, endpoint, endpoint.identify())


def endpoint_of(url: str) -> Endpoint:
    """A source."""
    return Endpoint.from_settings("source", EndpointSettings.model_validate({"url": url}))


def application(url: str) -> Redis:
    """A client as an application has it: not named like Greenfly's, and sending nothing twice."""
    pool = ConnectionPool.from_url(
        url,
        protocol=2,
        client_name="shop",
        driver_info=None,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=30.0,
    )
    return Redis.from_pool(pool)


def recorded(plan: FencePlan) -> FencePlan:
    """The plan as another process reads it from the ledger."""
    facts = json.loads(json.dumps(plan.to_dict()))
    return FencePlan.from_dict(facts)


_READ: Final[dict[bytes, tuple[str, ...]]] = {
    b"string": ("GET",),
    b"list": ("LRANGE", "0", "-1"),
    b"hash": ("HGETALL",),
    b"set": ("SMEMBERS",),
    b"zset": ("ZRANGE", "0", "-1", "WITHSCORES"),
    b"stream": ("XRANGE", "-", "+"),
}


def fingerprint(url: str) -> dict[bytes, str]:
    """Every key with its type and content, read in a few round trips."""
    with Raw(url) as connection:
        keys = sorted(connection.keys())
        kinds = [as_bytes(kind) for kind in connection.many([("TYPE", key) for key in keys])]
        reads: list[tuple[Argument, ...]] = []
        for key, kind in zip(keys, kinds, strict=True):
            command, *rest = _READ.get(kind, ("EXISTS",))
            reads.append((command, key, *rest))
        values = connection.many(reads)
    return {key: f"{kind!r} {value!r}" for key, kind, value in zip(keys, kinds, values, strict=True)}


Write = Callable[[Redis, str], object]
"""One write of the writer with this name; returns when the server has acknowledged it."""


def set_one(client: Redis, name: str) -> object:
    return client.incr(f"count:{name}")


def transaction(client: Redis, name: str) -> object:
    with client.pipeline(transaction=True) as pipeline:
        pipeline.incr(f"tx:{name}")
        pipeline.rpush(f"txlist:{name}", "x")
        return pipeline.execute()


def script(client: Redis, name: str) -> object:
    return client.eval("return redis.call('INCR', KEYS[1])", 1, f"script:{name}")


def pipelined(client: Redis, name: str) -> object:
    with client.pipeline(transaction=False) as pipeline:
        for number in range(20):
            pipeline.hset(f"hash:{name}", f"f{number}", random.random())
        return pipeline.execute()


def expire_and_delete(client: Redis, name: str) -> object:
    client.set(f"short:{name}", "x", px=60_000)
    return client.delete(f"short:{name}")


def stream(client: Redis, name: str) -> object:
    return client.xadd(f"stream:{name}", {"f": "v"})


EVERY_WRITE: Final[tuple[Write, ...]] = (
    set_one,
    transaction,
    script,
    pipelined,
    expire_and_delete,
    stream,
)


@dataclass(slots=True)
class Writers:
    """Threads that write until they are stopped, and go on when they are refused."""

    url: str
    writes: Sequence[Write] = EVERY_WRITE
    acknowledged: dict[str, list[float]] = field(default_factory=dict)
    """Per writer, when its last acknowledged writes were answered (monotonic)."""
    refused: dict[str, int] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    _stop: Event = field(default_factory=Event)
    _threads: list[Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        for number, write in enumerate([*self.writes, *self.writes]):
            name = f"{write.__name__}:{number}"
            self.acknowledged[name], self.refused[name], self.lost[name] = [], 0, 0
            self._threads.append(Thread(target=self._run, args=(name, write), daemon=True))
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def since(self, moment: float) -> dict[str, int]:
        """Writes acknowledged after *moment*, of the writers that had any."""
        counts = {n: sum(1 for at in times if at > moment) for n, times in self.acknowledged.items()}
        return {name: count for name, count in counts.items() if count}

    def all_wrote(self) -> bool:
        """Whether each writer was acknowledged a few times."""
        return all(len(times) > 3 for times in self.acknowledged.values())

    def all_refused(self) -> bool:
        """Whether each writer was refused a few times."""
        return all(count > 3 for count in self.refused.values())

    def _run(self, name: str, write: Write) -> None:
        client = application(self.url)
        while not self._stop.is_set():
            try:
                write(client, name)
            except LostConnection:
                self.lost[name] += 1
                client.close()
                client = application(self.url)
            except ResponseError:
                self.refused[name] += 1
                sleep(0.002)
            else:
                self.acknowledged[name].append(monotonic())
        with suppress(RedisError):
            client.close()


def until(true: Callable[[], bool], seconds: float = 15.0) -> None:
    """Wait for something that must come."""
    deadline = monotonic() + seconds
    while not true():
        assert monotonic() < deadline, "it did not come"
        sleep(0.005)
