"""Loading cases into a source: each writes one key, and proves that the server encodes it as the case means."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from tests.matrix.servers import Server
from tests.raw import Argument, Raw, Reply, as_bytes, as_list

_ARGUMENTS: Final = 5000
_LIMITS: Final[dict[bytes, int]] = {
    b"hash-max-ziplist-entries": 512,
    b"zset-max-ziplist-entries": 128,
    b"set-max-intset-entries": 512,
    b"set-max-listpack-entries": 128,
}
"""Redis' own, for servers that do not tell."""


class Loader:
    """One connection to a source, with what cases need to write themselves."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._raw = Raw(server.url)
        self._limits: dict[bytes, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._raw.__exit__(kind, error, trace)

    def __call__(self, *command: Argument) -> Reply:
        """One command.

        :raises UnexpectedReply: the server answered with an error.
        """
        return self._raw(*command)

    def many(self, command: bytes, key: bytes, arguments: Sequence[Argument]) -> None:
        """One command whose arguments may be more than a server takes at once; an even number of them each time."""
        for start in range(0, len(arguments), _ARGUMENTS * 2):
            self._raw(command, key, *arguments[start : start + _ARGUMENTS * 2])

    def entries(self, key: bytes, ids: Sequence[bytes], width: int = 20) -> None:
        """XADD one entry for each of *ids*."""
        for identifier in ids:
            self._raw(b"XADD", key, identifier, b"field", b"x" * width, b"number", identifier)

    def limit(self, name: bytes) -> int:
        """How many elements the compact encoding may have, as the server is configured."""
        if name not in self._limits:
            told: list[Reply] = []
            if self.server.engine != "dragonfly":
                told = as_list(self._raw(b"CONFIG", b"GET", name))
            self._limits[name] = int(as_bytes(told[1])) if told else _LIMITS[name]
        return self._limits[name]

    def expire_fields(self, key: bytes, when_ms: int, pairs: Sequence[bytes]) -> None:
        """Give the fields of *pairs* (field, value, …) an absolute expiry."""
        when, count = b"%d" % when_ms, b"%d" % (len(pairs) // 2)
        if self.server.knows(b"HPEXPIREAT"):
            self._raw(b"HPEXPIREAT", key, when, b"FIELDS", count, *pairs[::2])
        else:
            self._raw(b"HSETEX", key, b"PXAT", when, b"FIELDS", count, *pairs)

    def persist_fields(self, key: bytes, fields: Sequence[bytes]) -> None:
        """Take their expiries away."""
        count = b"%d" % len(fields)
        if self.server.knows(b"HPERSIST"):
            self._raw(b"HPERSIST", key, b"FIELDS", count, *fields)
        else:
            self._raw(b"HGETEX", key, b"PERSIST", b"FIELDS", count, *fields)

    def encoding(self, key: bytes) -> str | None:
        """As OBJECT ENCODING says; None on servers that have no such encodings."""
        if self.server.engine == "dragonfly":
            return None
        return as_bytes(self._raw(b"OBJECT", b"ENCODING", key)).decode()


Load = Callable[[Loader, bytes], None]


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of value in one shape."""

    name: str
    """``kind/variant``, in the tables."""
    load: Load
    encodings: frozenset[str] = frozenset()
    """One of these is what Redis and Valkey must have made of it; empty for any."""
    needs: frozenset[bytes] = frozenset()
    """Commands without which the source cannot hold it."""
    engines: frozenset[str] = frozenset({"redis", "valkey", "dragonfly"})
    """Sources that can hold it."""
    key: bytes = b""
    """Under another name than the case's own."""
    big: bool = False
    """Larger than the run's ``big_values.threshold_bytes``: copied and compared in pieces."""

    @property
    def place(self) -> bytes:
        """The key."""
        return self.key or self.name.encode()

    def fits(self, server: Server) -> bool:
        """Whether *server* can hold it."""
        return server.engine in self.engines and server.knows(*self.needs)


def load_cases(server: Server, cases: Sequence[Case]) -> list[Case]:
    """Write every case that *server* can hold, and return those.

    :raises AssertionError: a case was refused, or is encoded in another way than it is there for.
    """
    fitting = [case for case in cases if case.fits(server)]
    with Loader(server) as loader:
        for case in fitting:
            case.load(loader, case.place)
        time.sleep(1.5)  # some fields are to expire, and times of use must lie before the copy
        for case in fitting:
            encoding = loader.encoding(case.place)
            if encoding is not None and case.encodings and encoding not in case.encodings:
                raise AssertionError(
                    f"{server.title}: {case.name} is encoded as {encoding}, not as {'/'.join(case.encodings)}"
                )
    return fitting


def noise(size: int, seed: int = 1) -> bytes:
    """Bytes that do not compress, the same in every run."""
    import random

    return random.Random(seed).randbytes(size)


def pairs(count: int, width: int = 8, first: int = 0) -> list[bytes]:
    """``field:0, value, field:1, value …``"""
    return [item for i in range(first, first + count) for item in (b"field:%d" % i, b"%0*d" % (width, i))]


def words(count: int, width: int = 8) -> Iterator[bytes]:
    """Distinct strings."""
    return (b"w" + b"%0*d" % (width - 1, i) for i in range(count))
