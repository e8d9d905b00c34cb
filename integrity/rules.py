"""The rules of a run: which keys it is about, which database and which name each one gets.

One object serves copy, verify and repair, so that they cannot disagree.  Selection looks at the key as the source
has it (name, type, memory use); then the database map and the first rename that fits say where it goes.  Backward,
from a key of the target, :meth:`Rules.sources` names every place of the source that it can come from.

What is not known excludes nothing: a size of 0 (the server did not tell) and the type ``none`` (the key vanished) are
kept, and whoever reads the key finds out.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

from pydantic import ValidationError

from integrity.errors import LedgerError
from integrity.glob import compile_patterns
from integrity.rule_text import read_pattern, read_prefix
from integrity.settings import RuleSettings

_UNKNOWN_TYPES: Final = (b"", b"none")
_ALSO: Final = {"json": "rejson-rl"}
"""Types that people call by another name than TYPE does."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What the rules keep of a page."""

    kept: list[int]
    """Positions in the page, ascending."""
    excluded: dict[str, int]
    """Rule id → keys that it left out; each key under the first rule that leaves it out."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of one run; two are equal when they were written alike.

    Rule ids, in the order in which a key is tried against them: ``include`` (no pattern of the list matches),
    ``exclude PATTERN``, ``type NAME``, ``min_bytes``, ``max_bytes``.
    """

    settings: RuleSettings
    selects_all: bool = field(compare=False)
    """No key is left out; :meth:`select` need not be asked."""
    maps_nothing: bool = field(compare=False)
    """Every key keeps its database and its name."""
    needs_types: bool = field(compare=False)
    """Selecting needs each key's type."""
    needs_sizes: bool = field(compare=False)
    """Selecting needs each key's memory use on the source."""
    merges: bool = field(compare=False)
    """Two keys of the source may go to one place; :meth:`merges_over` knows better for given databases."""
    _included: re.Pattern[bytes] | None = field(compare=False, repr=False)
    _excluded: re.Pattern[bytes] | None = field(compare=False, repr=False)
    _exclude_ids: tuple[str, ...] = field(compare=False, repr=False)
    """By the pattern's place, counted from 1."""
    _only_types: frozenset[bytes] | None = field(compare=False, repr=False)
    _not_types: frozenset[bytes] = field(compare=False, repr=False)
    _renames: tuple[tuple[bytes, bytes], ...] = field(compare=False, repr=False)
    _prefixes: tuple[bytes, ...] = field(compare=False, repr=False)
    _renames_merge: bool = field(compare=False, repr=False)

    @classmethod
    def of(cls, settings: RuleSettings) -> Self:
        """The rules that *settings* write down."""
        renames = tuple((read_prefix(rename.from_), read_prefix(rename.to)) for rename in settings.rename)
        prefixes = tuple(old for old, _ in renames)
        # Where two renames, or one and a key that keeps its name, meet at all, they meet at the bare new beginning.
        renames_merge = any(len(_originals(new, renames)) > 1 for _, new in renames)
        needs_types = bool(settings.include_types or settings.exclude_types)
        needs_sizes = settings.min_bytes is not None or settings.max_bytes is not None
        return cls(
            settings=settings,
            selects_all=not (settings.include or settings.exclude or needs_types or needs_sizes),
            maps_nothing=not renames and all(old == new for old, new in settings.databases.items()),
            needs_types=needs_types,
            needs_sizes=needs_sizes,
            merges=renames_merge or _databases_merge(settings.databases),
            _included=_compiled(settings.include),
            _excluded=_compiled(settings.exclude),
            _exclude_ids=("", *(f"exclude {text}" for text in settings.exclude)),
            _only_types=_types(settings.include_types) if settings.include_types else None,
            _not_types=_types(settings.exclude_types),
            _renames=renames,
            _prefixes=prefixes,
            _renames_merge=renames_merge,
        )

    @classmethod
    def from_recorded(cls, recorded: object) -> Self:
        """The rules of an earlier run, from the ``rules`` table of its recorded settings.

        :param recorded: what :meth:`to_json` gave; ``None`` (a run before there were rules) is no rules.
        :raises LedgerError: it was written by a version with other rules.
        """
        try:
            return cls.of(RuleSettings.model_validate({} if recorded is None else recorded))
        except ValidationError as error:
            raise LedgerError(
                "The rules that are recorded with the run are not understood.",
                "Use the version of Greenfly that recorded them.",
            ) from error

    def to_json(self) -> dict[str, object]:
        """Every rule as plain JSON values: what the ledger records as the ``rules`` of a run's settings."""
        return self.settings.model_dump(mode="json", by_alias=True)

    def describe(self) -> dict[str, object]:
        """Only the rules that are set, in the order of the settings, as plain JSON values."""
        return {name: value for name, value in self.to_json().items() if value not in (None, [], {})}

    # -- selection ----------------------------------------------------------------------------------------------

    def select(self, keys: Sequence[bytes], types: Sequence[bytes], sizes: Sequence[int]) -> Selection:
        """Which keys of a page the run is about.

        :param types: as TYPE answers, one per key; may be empty unless :attr:`needs_types`.
        :param sizes: bytes as MEMORY USAGE answers, 0 where not known, one per key; may be empty unless
            :attr:`needs_sizes`.
        :raises ValueError: types or sizes are needed and were not given for every key.
        """
        count = len(keys)
        if (self.needs_types and len(types) != count) or (self.needs_sizes and len(sizes) != count):
            raise ValueError("the rules need a type and a size for every key")
        kept = list(range(count))
        excluded: dict[str, int] = {}
        if self._included is not None:
            match = self._included.match
            kept = [position for position in kept if match(keys[position])]
            if len(kept) < count:
                excluded["include"] = count - len(kept)
        if self._excluded is not None:
            match = self._excluded.match
            rest = []
            for position in kept:
                found = match(keys[position])
                if found is None:
                    rest.append(position)
                else:
                    _count(excluded, self._exclude_ids[found.lastindex or 0])
            kept = rest
        if self.needs_types or self.needs_sizes:
            rest = []
            for position in kept:
                rule = self._by_type(types[position]) if self.needs_types else None
                if rule is None and self.needs_sizes:
                    rule = self._by_size(sizes[position])
                if rule is None:
                    rest.append(position)
                else:
                    _count(excluded, rule)
            kept = rest
        return Selection(kept, excluded)

    def selects(self, key: bytes, key_type: bytes = b"", size: int = 0) -> str | None:
        """The id of the first rule that leaves this key out, or None when the run is about it.

        :param key_type: as TYPE answers; not looked at unless :attr:`needs_types`.
        :param size: bytes as MEMORY USAGE answers, 0 where not known; not looked at unless :attr:`needs_sizes`.
        """
        if self._included is not None and self._included.match(key) is None:
            return "include"
        if self._excluded is not None and (found := self._excluded.match(key)) is not None:
            return self._exclude_ids[found.lastindex or 0]
        rule = self._by_type(key_type) if self.needs_types else None
        return self._by_size(size) if rule is None and self.needs_sizes else rule

    def _by_type(self, key_type: bytes) -> str | None:
        folded = key_type.lower()
        if folded in _UNKNOWN_TYPES:
            return None
        if folded in self._not_types or (self._only_types is not None and folded not in self._only_types):
            return f"type {key_type.decode('ascii', 'backslashreplace')}"
        return None

    def _by_size(self, size: int) -> str | None:
        if size <= 0:
            return None
        if self.settings.min_bytes is not None and size < self.settings.min_bytes:
            return "min_bytes"
        if self.settings.max_bytes is not None and size > self.settings.max_bytes:
            return "max_bytes"
        return None

    # -- databases ----------------------------------------------------------------------------------------------

    def target_database(self, database: int) -> int:
        """The database of the target that a database of the source goes to."""
        return self.settings.databases.get(database, database)

    def target_databases(self, databases: Iterable[int]) -> list[int]:
        """The databases of the target that these of the source go to, ascending, each once."""
        return sorted({self.target_database(database) for database in databases})

    def source_databases(self, target_database: int, candidates: Iterable[int]) -> list[int]:
        """Those of *candidates* (databases of the source) that go to *target_database*, in their order."""
        return [database for database in candidates if self.target_database(database) == target_database]

    def merges_over(self, databases: Collection[int]) -> bool:
        """Whether two keys may go to one place when only these databases of the source hold keys."""
        chosen = set(databases)
        return bool(chosen) and (self._renames_merge or len(self.target_databases(chosen)) < len(chosen))

    # -- names --------------------------------------------------------------------------------------------------

    def rename(self, key: bytes) -> bytes:
        """The key's name on the target: the first rename whose beginning fits, or the name it has."""
        for old, new in self._renames:
            if key.startswith(old):
                return new + key[len(old) :]
        return key

    def rename_all(self, keys: Sequence[bytes]) -> list[bytes]:
        """The names of a page of keys on the target, in their order."""
        if not self._renames:
            return list(keys)
        prefixes, rename = self._prefixes, self.rename
        return [rename(key) if key.startswith(prefixes) else key for key in keys]

    def originals(self, key: bytes) -> list[bytes]:
        """Every name that :meth:`rename` turns into *key*, each once; there may be none.

        Whether the source has such a key, and whether it is selected, is not looked at.
        """
        return _originals(key, self._renames) if self._renames else [key]

    def sources(self, target_database: int, key: bytes, candidates: Iterable[int]) -> list[tuple[int, bytes]]:
        """Every place of the source (database, key) that goes to this place of the target.

        A key of the target is extra when the source has none of them, or none that is selected.  More than one
        that the source has and selects is a collision.

        :param candidates: the databases of the source that the run is about.
        """
        names = self.originals(key)
        return [
            (database, name)
            for database in self.source_databases(target_database, candidates)
            for name in names
        ]


def _originals(key: bytes, renames: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
    found = [] if any(key.startswith(old) for old, _ in renames) else [key]
    for place, (old, new) in enumerate(renames):
        if key.startswith(new):
            original = old + key[len(new) :]
            # An earlier rename may take this name for itself, and then it goes elsewhere.
            if not any(original.startswith(earlier) for earlier, _ in renames[:place]):
                found.append(original)
    return found


def _databases_merge(databases: Mapping[int, int]) -> bool:
    """Whether two databases go to one, any database that is not mentioned included: it keeps its number."""
    targets = list(databases.values())
    return len(set(targets)) < len(targets) or any(target not in databases for target in targets)


def _compiled(texts: Sequence[str]) -> re.Pattern[bytes] | None:
    return compile_patterns([read_pattern(text) for text in texts]) if texts else None


def _types(names: Iterable[str]) -> frozenset[bytes]:
    folded = {name.lower() for name in names}
    return frozenset(name.encode() for name in folded | {_ALSO[name] for name in folded.intersection(_ALSO)})


def _count(excluded: dict[str, int], rule: str) -> None:
    excluded[rule] = excluded.get(rule, 0) + 1
