"""Which server an application uses: ``DRAGONFLY_URL`` of its environment file if it is set, else ``REDIS_URL``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

_NAMES: Final = ("DRAGONFLY_URL", "REDIS_URL")


@dataclass(frozen=True, slots=True)
class Target:
    """A server, and since when it is the one."""

    host: str
    port: int
    user: str
    password: str
    generation: int
    """When the file was last changed or put into place, in nanoseconds: orders the switches for all processes.

    An older file that is put back counts as new, which its time of writing would not tell.
    """

    @property
    def side(self) -> str:
        """The server, without secrets."""
        return f"{self.host}:{self.port}"


class EnvironmentFile:
    """A dotenv file that is read again when it has changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self.target = self._read()

    def look(self) -> Target:
        """The server to use now.  A file that is away at this moment, or half written, changes nothing."""
        try:
            found = self._path.stat()
            if (found.st_ctime_ns, found.st_ino, found.st_size) != self._seen:
                self.target = self._read()
        except (OSError, LookupError, ValueError):
            pass
        return self.target

    def _read(self) -> Target:
        with self._path.open(encoding="utf-8") as file:
            found = os.fstat(file.fileno())
            values = dict(_assignment(line) for line in file if "=" in line and not line.startswith("#"))
        url = next((values[name] for name in _NAMES if values.get(name)), None)
        if url is None:
            raise LookupError(f"{self._path} sets none of {', '.join(_NAMES)}")
        parts = urlsplit(url)
        if parts.scheme != "redis":
            # Not an error that is passed over: the load would stay where it is and nobody would know why.
            raise NotImplementedError(f"the load speaks plain TCP, and {self._path} asks for {parts.scheme}")
        target = Target(
            parts.hostname or "127.0.0.1",
            parts.port or 6379,
            unquote(parts.username or ""),
            unquote(parts.password or ""),
            found.st_ctime_ns,
        )
        self._seen = found.st_ctime_ns, found.st_ino, found.st_size
        return target


def _assignment(line: str) -> tuple[str, str]:
    name, _, value = line.partition("=")
    return name.strip().removeprefix("export ").strip(), value.strip().strip("\"'")
