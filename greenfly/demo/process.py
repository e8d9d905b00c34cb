"""One server process on loopback: started, waited for, and stopped, and nothing else touched.

A server keeps its data in memory and its files in a temporary folder of its own, listens on 127.0.0.1 only, and runs
in its own session: Ctrl-C in a terminal reaches Greenfly, which then stops the server, and not the server before
Greenfly has put its affairs in order.
"""

from __future__ import annotations

import errno
import secrets
import socket
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import Final, Self

from redis.exceptions import AuthenticationError, BusyLoadingError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from greenfly.demo.clients import open_client
from integrity.errors import ConfigurationError, ServerUnreachable

START_SECONDS: Final = 20.0
STOP_SECONDS: Final = 10.0
DRAGONFLY_THREADS: Final = 2
_LOG_LINES: Final = 12
# Another process can take a free port between our look and the server's bind.
_PORT_ATTEMPTS: Final = 3
_PORTS: Final = range(10_240, 32_768)
"""Below those that systems give to connections going out: such a connection may take the port of a server that is
about to come back, and a client that tries it again and again may end up connected to itself."""
_PORTS_TRIED: Final = 100


@dataclass(frozen=True, slots=True)
class TlsPair:
    """What a Redis needs to speak TLS, and what its clients need to believe it."""

    ca_file: Path
    cert_file: Path
    key_file: Path


@dataclass(frozen=True, slots=True)
class RunningServer:
    """One server that we started.  It ends with the ``with`` block, or with :meth:`stop`."""

    name: str
    url: str
    engine: str
    """``redis``, ``valkey`` or ``dragonfly``, as the server itself says; ``unknown`` when it keeps that to itself."""
    version: str
    pid: int | None
    """None for a server in a container."""
    _stop: Callable[[], None] = field(repr=False)
    _log: Callable[[], str] = field(repr=False)

    @property
    def title(self) -> str:
        """For people: ``Redis 7.0.15``."""
        return f"{self.engine.capitalize()} {self.version}"

    @property
    def log(self) -> str:
        """The last lines that the server wrote."""
        return self._log()

    def stop(self) -> None:
        """End the server, by force when it does not end by itself.  A second call does nothing."""
        self._stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def start_redis(
    program: Path,
    *extra: str,
    name: str = "redis",
    password: str | None = None,
    tls: TlsPair | None = None,
    start_seconds: float = START_SECONDS,
) -> RunningServer:
    """Start a Redis (or Valkey) that keeps nothing on disk.

    :param extra: further arguments, e.g. ``"--maxmemory", "100mb"``.
    :param password: what the server asks for; it becomes part of :attr:`RunningServer.url`.
    :param tls: serve TLS only; the URL is then a ``rediss://`` one.
    :raises ConfigurationError: the program cannot be run, or it ended at once; with its last log lines.
    :raises ServerUnreachable: it does not answer in time; with its last log lines.
    """

    def arguments(port: int, folder: Path) -> list[str]:
        listen = ["--port", str(port)]
        if tls is not None:
            listen = ["--port", "0", "--tls-port", str(port), "--tls-auth-clients", "no"]
            listen += ["--tls-cert-file", str(tls.cert_file), "--tls-key-file", str(tls.key_file)]
            listen += ["--tls-ca-cert-file", str(tls.ca_file)]
        quiet = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder)]
        return [*listen, *quiet, *(["--requirepass", password] if password else []), *extra]

    return _start(program, arguments, name, password, tls, start_seconds)


def start_dragonfly(
    program: Path,
    *extra: str,
    name: str = "dragonfly",
    password: str | None = None,
    start_seconds: float = START_SECONDS,
) -> RunningServer:
    """Start a Dragonfly with two threads that keeps nothing on disk and asks no one for a newer version.

    :raises ConfigurationError: the program cannot be run, or it ended at once; with its last log lines.
    :raises ServerUnreachable: it does not answer in time; with its last log lines.
    """

    def arguments(port: int, folder: Path) -> list[str]:
        listen = ["--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder)]
        return [*listen, *dragonfly_options(), *(["--requirepass", password] if password else []), *extra]

    return _start(program, arguments, name, password, None, start_seconds)


def dragonfly_options() -> list[str]:
    """The options of every Dragonfly that we start.  It wants at least 256 MiB per thread."""
    memory = ["--maxmemory", "1gb", "--proactor_threads", str(DRAGONFLY_THREADS)]
    return ["--version_check=false", "--dbfilename=", "--logtostderr", *memory]


def free_port() -> int:
    """A TCP port on loopback that nobody listens on at this moment.

    :raises OSError: there is none.
    """
    for port in secrets.SystemRandom().sample(_PORTS, _PORTS_TRIED):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError(errno.EADDRINUSE, "no free port on 127.0.0.1")


def wait_until_ready(
    name: str,
    url: str,
    seconds: float,
    *,
    ended: Callable[[], bool],
    log: Callable[[], str],
    ca_file: Path | None = None,
) -> tuple[str, str, int | None]:
    """Ask until the server answers; return its engine, version and, where it tells, its process id.

    :param ended: whether the server has given up, so that waiting longer is of no use.
    :raises ServerUnreachable: it ended, or it did not answer in time.
    """
    give_up = monotonic() + seconds
    with open_client(url, timeout=2.0, ca_file=ca_file) as client:
        while True:
            try:
                return read_identity(client.info("server"))
            except (RedisConnectionError, RedisTimeoutError, BusyLoadingError) as error:
                if isinstance(error, AuthenticationError):
                    return "unknown", "unknown", None
                stopped = ended()
                if stopped or monotonic() > give_up:
                    problem = "ended while it started" if stopped else f"did not answer within {seconds:g} s"
                    raise ServerUnreachable(
                        "server",
                        name,
                        f"{problem}. Its last lines:\n{log()}",
                        "Read them, then start it again.",
                    ) from error
            except ResponseError:
                # It answers, but not to us (NOAUTH, NOPERM): a test asked for such a server.
                return "unknown", "unknown", None
            sleep(0.02)


def read_identity(info: object) -> tuple[str, str, int | None]:
    """Engine, version and process id out of INFO's server section."""
    facts = info if isinstance(info, dict) else {}
    pid = facts.get("process_id")
    process = pid if isinstance(pid, int) else None
    for engine in ("dragonfly", "valkey"):
        if version := facts.get(f"{engine}_version"):
            return engine, str(version).removeprefix("df-").removeprefix("v"), process
    return "redis", str(facts.get("redis_version", "unknown")), process


def _start(
    program: Path,
    arguments: Callable[[int, Path], Sequence[str]],
    name: str,
    password: str | None,
    tls: TlsPair | None,
    start_seconds: float,
) -> RunningServer:
    for attempt in range(1, _PORT_ATTEMPTS + 1):
        port = free_port()
        folder = tempfile.TemporaryDirectory(prefix="greenfly-server-")
        log_file = Path(folder.name) / "server.log"
        process = _spawn(program, arguments(port, Path(folder.name)), log_file, folder)
        credentials = f":{password}@" if password else ""
        url = f"{'rediss' if tls else 'redis'}://{credentials}127.0.0.1:{port}"

        def log(log_file: Path = log_file) -> str:
            return last_lines(log_file)

        def stop(
            process: subprocess.Popen[bytes] = process, folder: tempfile.TemporaryDirectory[str] = folder
        ) -> None:
            end_process(process)
            folder.cleanup()

        def ended(process: subprocess.Popen[bytes] = process) -> bool:
            return process.poll() is not None

        try:
            engine, version, pid = wait_until_ready(
                name, url, start_seconds, ended=ended, log=log, ca_file=tls.ca_file if tls else None
            )
        except ServerUnreachable as error:
            lines, gave_up = log(), ended()
            stop()
            if gave_up and "in use" in lines.lower() and attempt < _PORT_ATTEMPTS:
                continue
            if gave_up:
                raise ConfigurationError(
                    f"{program.name} ended with code {process.returncode} when it was started:\n{lines}",
                    "Correct its options, or use another build.",
                ) from error
            raise
        except BaseException:
            stop()
            raise
        if ended() or pid not in {None, process.pid}:
            # Somebody else's server answered on the port that ours did not get.
            stop()
            continue
        return RunningServer(name, url, engine, version, process.pid, stop, log)
    raise ConfigurationError(
        f"No free port for {program.name} was found in {_PORT_ATTEMPTS} attempts.", "Start it again."
    )


def _spawn(
    program: Path, arguments: Sequence[str], log_file: Path, folder: tempfile.TemporaryDirectory[str]
) -> subprocess.Popen[bytes]:
    with log_file.open("wb") as log:
        try:
            return subprocess.Popen(
                [str(program), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=folder.name,
                start_new_session=True,
            )
        except OSError as error:
            folder.cleanup()
            raise ConfigurationError(
                f"{program} cannot be run ({error.strerror}).", "Name a program that this machine can run."
            ) from error


def end_process(
    process: subprocess.Popen[bytes] | subprocess.Popen[str], seconds: float = STOP_SECONDS
) -> None:
    """Ask one child to end, then insist; return when it is gone."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def last_lines(path: Path, count: int = _LOG_LINES) -> str:
    """The end of a log file; empty when there is none."""
    try:
        text = path.read_text("utf-8", "replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-count:])
