"""The census: what keys a server holds, counted over all of them or over a sample, and where the sample came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from integrity.endpoint import Endpoint, Identity
from integrity.progress import Progress
from integrity.settings import Settings


@dataclass(frozen=True, slots=True)
class KeyFact:
    """One key that stands out."""

    database: int
    key: bytes
    kind: str
    """As TYPE names it."""
    bytes: int
    """Memory on the server (MEMORY USAGE); 0 where it does not tell."""
    elements: int
    """Elements, or bytes of a string."""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Census:
    """What the keys of one server are like.

    Counts are of the keys that were looked at; :attr:`keys_looked_at` of :attr:`keys_present` says how many.
    """

    full: bool
    """Whether every key was looked at."""
    keys_present: int
    """By DBSIZE, when it began."""
    keys_looked_at: int
    seconds: float
    method: str
    """How the keys were chosen, for people."""
    types: Mapping[str, int] = field(default_factory=dict)
    """Type → keys."""
    encodings: Mapping[str, int] = field(default_factory=dict)
    """``type/encoding`` → keys; empty where the server does not tell."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Class of size in bytes of memory (``<=64``, ``<=256`` …) → keys, in rising order."""
    expiries: Mapping[str, int] = field(default_factory=dict)
    """Class of time left (``none``, ``<=1 min`` …) → keys, in rising order."""
    bytes_by_type: Mapping[str, int] = field(default_factory=dict)
    big: tuple[KeyFact, ...] = ()
    """The biggest, the biggest first."""
    hot: tuple[KeyFact, ...] = ()
    """The hottest by the server's own counts; empty where it does not count."""
    hot_method: str = ""
    """How heat was told, or why it could not be."""
    field_expiry_hashes: int = 0
    """Hashes stored in a form that can hold expiries of fields (RDB types 22 to 25)."""
    field_expiry_examples: tuple[KeyFact, ...] = ()
    beyond_expiry: int = 0
    """Keys whose expiry lies further away than the target keeps."""
    beyond_expiry_examples: tuple[KeyFact, ...] = ()
    too_long: tuple[KeyFact, ...] = ()
    """Values longer than the target takes."""
    stream_groups: int = 0
    """Streams that have groups."""


def take_census(
    source: Endpoint,
    identity: Identity,
    databases: tuple[int, ...],
    settings: Settings,
    progress: Progress,
) -> Census:
    """Look at the keys of *source*, all or a sample, as ``assess.mode`` says.

    :raises ServerError: it is lost or refuses.
    """
    raise NotImplementedError
