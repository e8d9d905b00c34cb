"""The servers of a matrix: one source and one target of each program, on loopback."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from greenfly.demo.servers import (
    RunningServer,
    find_dragonfly,
    find_redis_server,
    start_dragonfly,
    start_redis,
)
from tests.raw import Raw, as_bytes, as_list

_ENGINES: Final = ("dragonfly", "valkey", "redis")
_VERSION: Final = re.compile(r"v=?(\d+)\.(\d+)\.(\d+)")


@dataclass(frozen=True, slots=True)
class Program:
    """A server program, as it describes itself."""

    path: Path
    engine: str
    version: tuple[int, ...]

    @property
    def title(self) -> str:
        """``Redis 7.0.15``."""
        return f"{self.engine.capitalize()} {'.'.join(map(str, self.version))}"

    def start(self) -> RunningServer:
        """A server that keeps nothing on disk; ends with its ``with`` block."""
        return (start_dragonfly if self.engine == "dragonfly" else start_redis)(self.path, name=self.title)


@dataclass(frozen=True, slots=True)
class Server:
    """A running server and the commands that it knows."""

    program: Program
    url: str
    commands: frozenset[bytes]
    """Upper case, as COMMAND lists them."""

    @property
    def engine(self) -> str:
        """``redis``, ``valkey`` or ``dragonfly``."""
        return self.program.engine

    @property
    def title(self) -> str:
        """``Redis 7.0.15``."""
        return self.program.title

    def knows(self, *commands: bytes) -> bool:
        """Whether the server has all of *commands*."""
        return self.commands.issuperset(commands)

    @classmethod
    def of(cls, program: Program, running: RunningServer) -> Server:
        """Ask the server what it knows."""
        with Raw(running.url) as raw:
            names = {as_bytes(as_list(entry)[0]).upper() for entry in as_list(raw(b"COMMAND"))}
        return cls(program, running.url, frozenset(names))


def read_programs(paths: Sequence[Path]) -> list[Program]:
    """What each program says it is: Redis, then Valkey, then Dragonfly, each by version.

    :raises ValueError: one is no server, or two are of one version.
    """
    programs = [_describe(path) for path in paths]
    titles = [program.title for program in programs]
    twice = {title for title in titles if titles.count(title) > 1}
    if twice:
        raise ValueError(f"{', '.join(sorted(twice))} is given twice")
    return sorted(programs, key=lambda p: (-_ENGINES.index(p.engine), p.version))


def programs_on_path() -> list[Path]:
    """``redis-server`` and ``dragonfly``, where PATH has them."""
    return [path for path in (find_redis_server(), find_dragonfly()) if path is not None]


def _describe(path: Path) -> Program:
    done = subprocess.run([str(path), "--version"], capture_output=True, text=True, timeout=30, check=False)
    text = done.stdout + done.stderr
    engine = next((engine for engine in _ENGINES if engine in text.lower()), None)
    match = _VERSION.search(text)
    if engine is None or match is None:
        raise ValueError(f"{path} does not say which server it is")
    return Program(path, engine, tuple(map(int, match.groups())))
