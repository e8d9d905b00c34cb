"""What a census comes to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

_MISS: Final = 0.05
"""How likely a sample may miss something and still count as having looked for it."""


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
    """Elements, or bytes of a string; 0 where it was not asked or is gone."""
    detail: str = ""
    heat: int = 0
    """By OBJECT FREQ, 255 at most; 0 where it was not asked."""


@dataclass(frozen=True, slots=True)
class Seen:
    """How much of one database was looked at."""

    present: int
    """Keys by DBSIZE, when the census began."""
    looked_at: int
    whole: bool
    """Every key that was there all the time was looked at."""


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
    databases: Mapping[int, Seen] = field(default_factory=dict)
    excluded: Mapping[str, int] = field(default_factory=dict)
    """Rule of the run → keys looked at that it leaves out; they are in none of the counts below."""
    types: Mapping[str, int] = field(default_factory=dict)
    """Type → keys."""
    encodings: Mapping[str, int] = field(default_factory=dict)
    """``type/encoding`` → keys; empty where the server does not tell."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Class of size in bytes of memory (``<=64 B``, ``<=256 B`` …) → keys, in rising order."""
    expiries: Mapping[str, int] = field(default_factory=dict)
    """Class of time left (``none``, ``<=1 min`` …) → keys, in rising order."""
    bytes_by_type: Mapping[str, int] = field(default_factory=dict)
    sizes_told: bool = True
    """Whether the server tells the memory use of a key; else sizes are lengths of strings, or nothing."""
    longest_name: int = 0
    """Bytes of the longest name of a key."""
    big: tuple[KeyFact, ...] = ()
    """The biggest, the biggest first."""
    longest: tuple[KeyFact, ...] = ()
    """The longest strings, the longest first."""
    hot: tuple[KeyFact, ...] = ()
    """The hottest by the server's own counts; empty where it does not count."""
    hot_method: str = ""
    """How heat was told, or why it could not be."""
    field_expiry_hashes: int = 0
    """Hashes stored in a form that is made for expiries of fields (``listpackex``, RDB type 25), whether or not a field
    expires now."""
    field_expiry_live: int = 0
    """Of these, as many as were looked into, hashes of which a field does expire."""
    field_expiry_former: int = 0
    """Of these, hashes of which none expires any more."""
    field_expiry_told: int | None = 0
    """Hashes with expiring fields by the server's own count, in these databases, when it began; None where it does not
    count.  Redis counts some of which no field expires any more."""
    field_expiry_examples: tuple[KeyFact, ...] = ()
    """Of hashes of which a field does expire."""
    field_expiry_former_examples: tuple[KeyFact, ...] = ()
    beyond_expiry: int = 0
    """Keys that expire in more than 268,435,455 seconds (8.5 years), which is as far as Dragonfly keeps."""
    beyond_expiry_examples: tuple[KeyFact, ...] = ()
    stream_groups: int = 0
    """Streams that have groups."""
    stream_entries_read: int = 0
    """Streams with a group that knows how many entries it has read."""

    @property
    def unseen_at_most(self) -> int:
        """How many keys of a kind of which none was seen there may be all the same, with 95 % certainty.

        0 where every key was looked at.  With a share *f* looked at, M such keys all escape with a probability of
        (1 − f)^M at most; with a thousandth looked at that is 5 % for M = 2,995 (the rule of three: 3 / f).
        """
        shares = [s.looked_at / s.present for s in self.databases.values() if not s.whole and s.present]
        if not shares:
            return 0
        share = min(shares)
        if share <= 0:
            return self.keys_present
        if share >= 1:
            return 1  # Looked at as many as there were, but not from end to end.
        return min(self.keys_present, math.ceil(math.log(_MISS) / math.log1p(-share)))
