"""What a comparison covered; the parts that several workers covered add up to the whole."""

from __future__ import annotations

from dataclasses import dataclass, field

from integrity.checksum import Fingerprint


@dataclass(slots=True)
class CompareTotals:
    """What one comparison covered, growing while it runs."""

    scanned: int = 0
    """Keys the source's SCAN returned."""
    vanished: int = 0
    """Gone from both sides before they were compared (expired or deleted)."""
    target_scanned: int = 0
    max_expiry_drift_ms: int = 0
    """Largest distance between two expiries that were within the tolerance."""
    excluded: dict[str, int] = field(default_factory=dict)
    """Rule → keys of the source that it left out."""
    big: int = 0
    """Keys that were compared in pieces."""
    out_of_scope: int = 0
    """Keys of the target that no selected key of the source could have become."""
    tallies: dict[tuple[int, str], int] = field(default_factory=dict)
    equal: dict[int, Fingerprint] = field(default_factory=dict)
    """By database: keys whose value and expiry are equal on both sides."""
    only_source: dict[int, Fingerprint] = field(default_factory=dict)
    """By database: the source's digest of keys that are not equal."""
    only_target: dict[int, Fingerprint] = field(default_factory=dict)

    @property
    def equal_keys(self) -> int:
        """Keys that were equal at first sight or at the careful look."""
        return sum(fingerprint.keys for fingerprint in self.equal.values())

    def merge(self, other: CompareTotals) -> None:
        """Count in what another worker covered."""
        self.scanned += other.scanned
        self.vanished += other.vanished
        self.target_scanned += other.target_scanned
        self.big += other.big
        self.out_of_scope += other.out_of_scope
        self.max_expiry_drift_ms = max(self.max_expiry_drift_ms, other.max_expiry_drift_ms)
        for rule, count in other.excluded.items():
            self.excluded[rule] = self.excluded.get(rule, 0) + count
        for place, count in other.tallies.items():
            self.tallies[place] = self.tallies.get(place, 0) + count
        for mine, theirs in (
            (self.equal, other.equal),
            (self.only_source, other.only_source),
            (self.only_target, other.only_target),
        ):
            for database, fingerprint in theirs.items():
                mine.setdefault(database, Fingerprint()).merge(fingerprint)

    def fingerprints(self) -> dict[str, dict[str, str]]:
        """Side → database → fingerprint of the whole database as it was compared, in hexadecimal digits."""
        sides = {"source": self.only_source, "target": self.only_target}
        databases = sorted({*self.equal, *self.only_source, *self.only_target})
        result: dict[str, dict[str, str]] = {}
        for side, rest in sides.items():
            result[side] = {}
            for database in databases:
                whole = Fingerprint()
                for part in (self.equal.get(database), rest.get(database)):
                    if part is not None:
                        whole.merge(part)
                result[side][str(database)] = whole.hex()
        return result
