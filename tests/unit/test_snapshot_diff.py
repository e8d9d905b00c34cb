"""What changed between two manifests, against two plain dictionaries."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from integrity.checksum import DEFINITION
from integrity.errors import ArtifactError, Refused
from integrity.snapshot import diff
from integrity.snapshot.artifact import Artifact
from integrity.snapshot.diff import NO_PREFIX, OTHER_PREFIXES, Difference, compare_snapshots
from integrity.snapshot.files import hash_file
from integrity.snapshot.header import MANIFEST_NAME, FileEntry, Header
from integrity.snapshot.manifest import ManifestWriter
from integrity.snapshot.sealing import NO_KEYS

NOW = datetime.now(UTC)
Place = tuple[int, bytes]


@dataclass(frozen=True)
class Value:
    """What a manifest tells of one key."""

    kind: str = "string"
    digest: int | None = 1
    expiry_ms: int | None = None
    body: int | None = 1


Side = dict[Place, Value]


def snapshot(folder: Path, side: Side, *, definition: str = DEFINITION, backwards: bool = False) -> Artifact:
    """A snapshot as far as its manifest."""
    folder.mkdir(parents=True)
    rows = list(side.items())
    with ManifestWriter(folder / MANIFEST_NAME) as manifest:
        for (database, key), value in reversed(rows) if backwards else rows:
            digest = value.digest.to_bytes(16, "big") if value.digest is not None else None
            manifest.add(database, key, value.kind, 0, value.expiry_ms, digest, 0, 0, value.body)
    facts = hash_file(folder / MANIFEST_NAME)
    header = Header(
        format="greenfly-snapshot/2",
        greenfly_version="0",
        checksum_definition=definition,
        consistency="",
        source={},
        started_at=NOW,
        ended_at=NOW,
        keys=len(side),
        vanished_while_reading=0,
        without_digest=0,
        duplicates_dropped=0,
        rdb_version=10,
        databases={},
        files={MANIFEST_NAME: FileEntry(bytes=facts.bytes, xxh3_128=facts.xxh3_128)},
    )
    return Artifact(folder, header, NO_KEYS)


def compare(
    folder: Path, before: Side, after: Side, *, keys: int = 1_000, tolerance_ms: int = 0
) -> Difference:
    return compare_snapshots(
        snapshot(folder / "a", before),
        snapshot(folder / "b", after, backwards=True),
        separator=b":",
        list_keys=keys,
        tolerance_ms=tolerance_ms,
    )


def expected(before: Side, after: Side, tolerance_ms: int) -> dict[Place, set[str]]:
    """The changes of each key that has any, by the plainest reading."""
    found: dict[Place, set[str]] = {}
    for place in before.keys() | after.keys():
        old, new = before.get(place), after.get(place)
        if old is None or new is None:
            found[place] = {"added" if old is None else "removed"}
            continue
        changes = set()
        if old.kind != new.kind:
            changes.add("type")
        elif old.digest is not None and new.digest is not None:
            changes |= {"value"} if old.digest != new.digest else set()
        elif old.body is None or old.body != new.body:
            changes.add("uncompared")
        if (old.expiry_ms is None) != (new.expiry_ms is None) or (
            old.expiry_ms is not None
            and new.expiry_ms is not None
            and abs(old.expiry_ms - new.expiry_ms) > tolerance_ms
        ):
            changes.add("expiry")
        if changes:
            found[place] = changes
    return found


values = st.builds(
    Value,
    kind=st.sampled_from(["string", "hash"]),
    digest=st.sampled_from([None, 0, 1, 2**128 - 1]),
    expiry_ms=st.sampled_from([None, 1, 1_000, 1_900_000_000_000]),
    body=st.sampled_from([None, 0, 1, 2**64 - 1]),
)
places = st.tuples(st.integers(0, 2), st.sampled_from([b"", b"a", b"a:b", b"a:c", b"\xff:x", b":", b"b"]))
sides = st.dictionaries(places, values, max_size=14)


@given(sides, sides, st.sampled_from([0, 999, 5_000]), st.booleans())
@settings(max_examples=150, deadline=None)
def test_the_difference_is_that_of_two_dictionaries(
    tmp_path_factory: pytest.TempPathFactory, before: Side, after: Side, tolerance_ms: int, sliced: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if sliced:
            patch.setattr(diff, "_SLICE_ROWS", 3)
        found = compare(tmp_path_factory.mktemp("diff"), before, after, tolerance_ms=tolerance_ms)

    wanted = expected(before, after, tolerance_ms)
    assert {(k.database, k.key): {*k.change} for k in found.listed} == wanted
    assert len(found.listed) == len(wanted)
    counts = Counter(change for changes in wanted.values() for change in changes)
    assert found.counts == {name: counts[name] for name in diff.CHANGES}
    assert (found.added, found.removed) == (counts["added"], counts["removed"])
    assert found.changed == sum(bool(changes & {"value", "expiry", "type"}) for changes in wanted.values())
    assert (found.keys_before, found.keys_after) == (len(before), len(after))
    assert found.same is all(changes == {"uncompared"} for changes in wanted.values())
    groups: dict[tuple[int, str, str], Counter[str]] = {}
    for (database, key), changes in wanted.items():
        kind = (before.get((database, key)) or after[database, key]).kind
        prefix = key.split(b":")[0].decode("utf-8", "backslashreplace") if b":" in key else NO_PREFIX
        groups.setdefault((database, kind, prefix), Counter()).update(changes)
    assert found.groups == groups


def test_more_keys_than_a_row_group_and_a_slice_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diff, "_SLICE_ROWS", 9_000)
    before: Side = {(n % 3, b"k%d:x" % n): Value(digest=n) for n in range(45_000)}
    after = dict(list(before.items())[100:])
    after |= {(0, b"new:%d" % n): Value() for n in range(50)}
    changed = list(before)[1_000:1_025]
    after |= {place: Value(digest=10**9) for place in changed}

    found = compare(tmp_path, before, after)

    assert (found.added, found.removed, found.changed) == (50, 100, 25)
    assert {(k.database, k.key) for k in found.listed if k.change == ("value",)} == {*changed}


def test_only_so_many_keys_are_listed_and_all_are_counted(tmp_path: Path) -> None:
    found = compare(tmp_path, {(0, b"%d" % n): Value() for n in range(30)}, {}, keys=7)

    assert (len(found.listed), found.removed) == (7, 30)


def test_prefixes_beyond_a_bound_are_put_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diff, "_MOST_GROUPS", 5)

    found = compare(tmp_path, {}, {(0, b"%d:x" % n): Value() for n in range(30)})

    assert len(found.groups) == 6
    assert found.groups[0, "string", OTHER_PREFIXES] == {"added": 25}
    assert found.added == 30


def test_digests_of_two_definitions_are_not_compared(tmp_path: Path) -> None:
    before = snapshot(tmp_path / "a", {})
    after = snapshot(tmp_path / "b", {}, definition="greenfly-canonical/9 xxh3-128")

    with pytest.raises(Refused, match="greenfly-canonical/9"):
        compare_snapshots(before, after, separator=b":", list_keys=0, tolerance_ms=0)


def test_a_manifest_that_the_header_does_not_know_is_refused(tmp_path: Path) -> None:
    before = snapshot(tmp_path / "a", {(0, b"a"): Value()})
    after = snapshot(tmp_path / "b", {(0, b"a"): Value(digest=2)})
    after.manifest.write_bytes(before.manifest.read_bytes())

    with pytest.raises(ArtifactError, match=r"b/manifest\.parquet"):
        compare_snapshots(before, after, separator=b":", list_keys=0, tolerance_ms=0)
