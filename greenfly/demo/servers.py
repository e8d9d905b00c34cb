"""Which servers the demonstration runs, and where they were found.

Blue is a Redis: ``redis-server`` on PATH, else one out of a Python wheel.  Green is a Dragonfly: ``dragonfly`` on PATH,
else its container image, else a second Redis as a stand-in, which is then called that wherever it is shown.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from greenfly.demo.containers import DRAGONFLY_IMAGE, Unavailable, docker_answers, dragonfly_from_docker
from greenfly.demo.process import RunningServer, TlsPair, free_port, start_dragonfly, start_redis
from greenfly.demo.wheel import redis_server_from_wheel

__all__ = [
    "DRAGONFLY_IMAGE",
    "Green",
    "RunningServer",
    "TlsPair",
    "Unavailable",
    "docker_answers",
    "dragonfly_from_docker",
    "find_dragonfly",
    "find_redis_server",
    "free_port",
    "redis_server_from_wheel",
    "start_blue",
    "start_dragonfly",
    "start_green",
    "start_redis",
]

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Green:
    """The target of the demonstration."""

    server: RunningServer
    stand_in: bool
    """Whether it is a second Redis, because no Dragonfly could be had."""
    found: str
    """Where it came from; for a stand-in, why there is no Dragonfly."""


def find_redis_server() -> Path | None:
    """``redis-server`` on PATH."""
    return _on_path("redis-server")


def find_dragonfly() -> Path | None:
    """``dragonfly`` on PATH."""
    return _on_path("dragonfly")


def start_blue(folder: Path, say: Say | None = None) -> RunningServer:
    """Start the source.

    :param folder: where a redis-server is installed when PATH has none.
    :param say: is told what is about to be downloaded.
    :raises ConfigurationError: there is no redis-server and none could be installed, or it does not start.
    :raises ServerUnreachable: it does not answer in time.
    """
    return start_redis(find_redis_server() or redis_server_from_wheel(folder, say), name="blue")


def start_green(folder: Path, say: Say | None = None, *, use_docker: bool = True) -> Green:
    """Start the target, the best that can be had.

    :param folder: where a redis-server is installed when a stand-in is needed and PATH has none.
    :param say: is told what is about to be downloaded.
    :raises ConfigurationError: a program that was found does not start, or nothing could be had.
    :raises ServerUnreachable: it does not answer in time.
    """
    program = find_dragonfly()
    if program is not None:
        return Green(start_dragonfly(program, name="green"), stand_in=False, found=str(program))
    container = (
        dragonfly_from_docker("green", say) if use_docker else Unavailable("containers were not asked for")
    )
    if isinstance(container, RunningServer):
        return Green(container, stand_in=False, found=DRAGONFLY_IMAGE)
    redis = find_redis_server() or redis_server_from_wheel(folder, say)
    server = start_redis(redis, name="green (a Redis standing in for Dragonfly)")
    return Green(server, stand_in=True, found=f"no dragonfly on PATH, and no container: {container.reason}")


def _on_path(program: str) -> Path | None:
    found = shutil.which(program)
    return Path(found) if found else None
