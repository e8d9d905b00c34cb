"""Version numbers of servers, and what follows from them."""

from __future__ import annotations

from typing import Final

from integrity.endpoint import Identity

# Redis ``rdb.h`` (RDB_VERSION) and Valkey's, by the first version that writes it.
_REDIS_RDB: Final = (((8, 6), 13), ((7, 4), 12), ((7, 2), 11), ((7, 0), 10), ((5, 0), 9))
_VALKEY_RDB: Final = (((9, 0), 80), ((7, 2), 11))


def version_of(text: str) -> tuple[int, int]:
    """Major and minor number; (0, 0) where they cannot be read."""
    numbers = [int(part) if part.isdecimal() else 0 for part in text.split(".")[:2]]
    return (numbers[0], numbers[1]) if len(numbers) == 2 else (0, 0)


def rdb_version_of(identity: Identity) -> int | None:
    """The version of the RDB files that a server writes, by its own version; None where that is not known."""
    if identity.engine == "dragonfly":
        return 9
    table = _VALKEY_RDB if identity.engine == "valkey" else _REDIS_RDB
    version = version_of(identity.version)
    return next((rdb for since, rdb in table if version >= since), None)
