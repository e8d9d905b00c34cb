"""Which servers the tests run against, and where they come from.

Looked for in this order: a URL in the environment, a program on PATH, a container, and else the tests that need it
are skipped with the reason.  ``GREENFLY_REQUIRE_SERVERS=1`` and ``GREENFLY_REQUIRE_DRAGONFLY=1`` turn that skip into
a refusal to run at all.

Servers named by a URL are flushed by the tests.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

import pytest
from redis import ConnectionPool, Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from greenfly.demo.process import dragonfly_options, read_identity, wait_until_ready
from greenfly.demo.servers import (
    DRAGONFLY_IMAGE,
    RunningServer,
    docker_answers,
    find_dragonfly,
    find_redis_server,
    start_dragonfly,
    start_redis,
)
from integrity.address import mask_url

Engine = Literal["redis", "dragonfly"]

REDIS_IMAGE: Final = "redis:7.0"
URL_VARIABLES: Final = {
    "blue": "GREENFLY_TEST_REDIS_URL",
    "green redis": "GREENFLY_TEST_REDIS_GREEN_URL",
    "green dragonfly": "GREENFLY_TEST_DRAGONFLY_URL",
}
_VERSION: Final = re.compile(r"v=?(\d+\.\d+\.\d+)")
_START_SECONDS: Final = 30.0


def connect(url: str, database: int = 0, *, ca_file: Path | None = None) -> Redis:
    """A client that sends nothing twice and decodes nothing."""
    trust = {"ssl_ca_certs": str(ca_file)} if ca_file else {}
    # With nothing to say on a new TLS 1.3 connection, redis-py takes the server's session tickets for stray data and
    # gives up; a client name is something to say.
    pool = ConnectionPool.from_url(
        url,
        protocol=2,
        driver_info=None,
        client_name="greenfly:test",
        retry=Retry(NoBackoff(), 0),
        socket_timeout=30.0,
        **trust,
    )
    pool.connection_kwargs["db"] = database
    return Redis.from_pool(pool)


@dataclass(frozen=True, slots=True)
class Store:
    """One server as a test sees it."""

    url: str
    engine: str
    version: str
    ca_file: Path | None = None
    server: RunningServer | None = None
    """The process, for a test that started it and wants to stop it."""
    _open: dict[int, Redis] = field(default_factory=dict, repr=False)

    @property
    def client(self) -> Redis:
        """Database 0."""
        return self.database(0)

    def database(self, number: int) -> Redis:
        """A client of one database; closed with the store."""
        if number not in self._open:
            self._open[number] = connect(self.url, number, ca_file=self.ca_file)
        return self._open[number]

    def close(self) -> None:
        """Close every client."""
        for client in self._open.values():
            client.close()
        self._open.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class Provision:
    """Where one server comes from; :attr:`start` is None when it cannot be had."""

    name: str
    found: str
    """For people, without a password: where it was found, or why it was not."""
    start: Callable[[], RunningServer] | None


def provide(name: str, engine: Engine, environ: Mapping[str, str] = os.environ) -> Provision:
    """Look for the server of one role: URL, program, container, nothing."""
    variable = URL_VARIABLES[name]
    if url := environ.get(variable):
        return Provision(name, f"{variable}={mask_url(url)}", lambda: _attach(name, url))
    program = find_redis_server() if engine == "redis" else find_dragonfly()
    if program is not None:
        starter = start_redis if engine == "redis" else start_dragonfly
        return Provision(
            name,
            f"{engine} {_program_version(program)} ({program})",
            lambda: starter(program, name=name, start_seconds=_START_SECONDS),
        )
    command = "redis-server" if engine == "redis" else "dragonfly"
    if not docker_answers():
        return Provision(
            name, f"none: {variable} is not set, no {command} on PATH, no Docker that answers", None
        )
    image = REDIS_IMAGE if engine == "redis" else DRAGONFLY_IMAGE
    return Provision(name, f"container {image}", lambda: _container(name, engine))


def _program_version(program: Path) -> str:
    done = subprocess.run(
        [str(program), "--version"], capture_output=True, text=True, timeout=10, check=False
    )
    match = _VERSION.search(done.stdout + done.stderr)
    return match.group(1) if match else "of unknown version"


def _attach(name: str, url: str) -> RunningServer:
    """A server that was there before us, and stays."""
    with connect(url) as client:
        engine, version, _ = read_identity(client.info("server"))
    return RunningServer(name, url, engine, version, None, lambda: None, lambda: "")


def _container(name: str, engine: Engine) -> RunningServer:
    """A server in a container, or a skip that tells why there is none."""
    # Imported here: most runs need neither, and both are slow to import.
    from docker.errors import DockerException
    from testcontainers.community.redis import RedisContainer
    from testcontainers.core.container import DockerContainer

    with ExitStack() as stack:
        container: DockerContainer
        try:
            if engine == "redis":
                container = RedisContainer(REDIS_IMAGE)
            else:
                command = " ".join(["dragonfly", "--port", "6379", *dragonfly_options()])
                container = DockerContainer(DRAGONFLY_IMAGE, command=command).with_exposed_ports(6379)
            stack.enter_context(container)
        except DockerException as error:
            pytest.skip(f"{name}: the container does not start: {error}")
        url = f"redis://{container.get_container_host_ip()}:{container.get_exposed_port(6379)}"
        found, version, _ = wait_until_ready(
            name, url, _START_SECONDS, ended=lambda: False, log=lambda: str(container.get_logs())
        )
        keep = stack.pop_all()
    return RunningServer(name, url, found, version, None, keep.close, lambda: str(container.get_logs()))
