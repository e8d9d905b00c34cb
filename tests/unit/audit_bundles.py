"""Bundles of runs with made-up facts, and ways to tamper with them."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from greenfly.commands.audit import write_reports
from integrity.audit.container import stored, write_container
from integrity.audit.export import Exported, export
from integrity.audit.keys import PublicKey, SigningKey, Trust, generate_key
from integrity.audit.manifest import Manifest, ManifestSignature, hash_file
from integrity.audit.model import Examination, Problem, Span
from integrity.audit.settings import AuditSettings
from integrity.audit.texts import line_of
from integrity.ledger import Ledger, open_ledger
from integrity.ledger.audit import GENESIS, event_hash
from integrity.settings import Settings
from tests.unit import report_fixtures as runs


@dataclass
class Office:
    """A ledger with a key, two runs in it, and a file of checkpoints elsewhere."""

    folder: Path
    settings: Settings
    ledger: Ledger
    key: PublicKey
    passed: str
    failed: str

    @property
    def kept(self) -> Path:
        """The checkpoints that are kept elsewhere."""
        path = self.settings.audit.checkpoint_file
        assert path is not None
        return path

    @property
    def trust(self) -> Trust:
        """Of an auditor who was told the key."""
        return Trust([self.key])

    def export(self, name: str, run: str | None = None, **options: bool) -> Exported:
        """Export a run, the failed one unless another is named."""
        found = self.ledger.find_run(run or self.failed)
        return export(
            self.settings,
            self.ledger,
            found,
            self.folder / name,
            lambda folder: write_reports(self.ledger, found.id, folder),
            **options,
        )


def open_office(folder: Path, *, signs: bool = True) -> Office:
    """A ledger in *folder*; the caller closes it."""
    key = generate_key(folder / "key")
    audit = AuditSettings(key_file=folder / "key", checkpoint_file=folder / "kept.jsonl") if signs else None
    settings = Settings(state_dir=folder / "state", audit=audit or AuditSettings())
    ledger = open_ledger(settings)
    passed, failed = runs.passed(ledger, folder / "state"), runs.failed(ledger, folder / "state")
    return Office(folder, settings, ledger, key, passed, failed)


def repacked(folder: Path, to: Path, names: list[str]) -> Path:
    """A zip file, made as Greenfly makes it, of the files *names* of a folder in this order."""
    parts = []
    for name in names:
        data = (folder / name).read_bytes()
        parts.append((stored(name, data), folder / name))
    with to.open("wb") as file:
        write_container(parts, file)
    return to


def order_of(folder: Path) -> list[str]:
    """The names of a folder's files in the order of a bundle."""
    first = [name for name in ("manifest.json", "manifest.sig") if (folder / name).exists()]
    return first + sorted(path.name for path in folder.iterdir() if path.name not in first)


# -- tampering at random ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tampered:
    """A text that was tampered with, and where it first became different."""

    how: str
    data: bytes
    differs: tuple[int, ...]
    """Places, as exported: all that differ where the length is the same, else the first."""


def tamper(data: bytes, rng: random.Random) -> Tampered:
    """*data* with one change of some kind; never without any."""
    while True:
        how = rng.choice(sorted(_WAYS))
        changed = _WAYS[how](data, rng)
        if changed != data:
            return Tampered(how, changed, tuple(_differences(data, changed)))


def _differences(before: bytes, after: bytes) -> Iterator[int]:
    places = (i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b)
    if len(before) == len(after):
        yield from places
    else:
        yield next(places, min(len(before), len(after)))


def _stretch(data: bytes, rng: random.Random, most: int = 300) -> tuple[int, int]:
    start = rng.randrange(len(data))
    return start, min(len(data), start + rng.choice((1, 1, 2, rng.randint(1, most))))


def _replace(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ rng.randint(1, 255)]) + data[at + 1 :]


def _flip(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def _delete(data: bytes, rng: random.Random) -> bytes:
    start, end = _stretch(data, rng)
    return data[:start] + data[end:]


def _insert(data: bytes, rng: random.Random) -> bytes:
    at = rng.randint(0, len(data))
    return data[:at] + rng.randbytes(rng.choice((1, 1, 2, rng.randint(1, 300)))) + data[at:]


def _repeat(data: bytes, rng: random.Random) -> bytes:
    start, end = _stretch(data, rng)
    return data[:end] + data[start:]


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def _cut_front(data: bytes, rng: random.Random) -> bytes:
    return data[rng.randint(1, len(data)) :]


def _blank(data: bytes, rng: random.Random) -> bytes:
    start, end = _stretch(data, rng, 3_000)
    return data[:start] + bytes(end - start) + data[end:]


def _exchange(data: bytes, rng: random.Random) -> bytes:
    """Two stretches of the same length in each other's place."""
    length = rng.choice((1, 4, 50, 1000))
    if len(data) < 2 * length:
        return data
    first = rng.randint(0, len(data) - 2 * length)
    second = rng.randint(first + length, len(data) - length)
    one, two = data[first : first + length], data[second : second + length]
    return data[:first] + two + data[first + length : second] + one + data[second + length :]


def _move(data: bytes, rng: random.Random) -> bytes:
    """A stretch to another place."""
    start, end = _stretch(data, rng)
    rest = data[:start] + data[end:]
    to = rng.randint(0, len(rest))
    return rest[:to] + data[start:end] + rest[to:]


def _lines_exchanged(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    if len(lines) < 2:
        return data
    one = rng.randrange(len(lines) - 1)
    two = rng.choice((one + 1, rng.randrange(len(lines))))
    lines[one], lines[two] = lines[two], lines[one]
    return b"".join(lines)


def _line_deleted(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    del lines[rng.randrange(len(lines))]
    return b"".join(lines)


_WAYS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "a byte replaced": _replace,
    "a bit flipped": _flip,
    "a stretch deleted": _delete,
    "bytes inserted": _insert,
    "a stretch repeated": _repeat,
    "the end cut off": _cut,
    "the beginning cut off": _cut_front,
    "a stretch blanked": _blank,
    "two stretches exchanged": _exchange,
    "a stretch moved": _move,
    "two lines exchanged": _lines_exchanged,
    "a line deleted": _line_deleted,
}


def covered(places: tuple[int, ...], spans: list[Span]) -> bool:
    """Whether each of *places* is in one of *spans*."""
    return all(any(span.first <= place <= span.last for span in spans) for place in places)


# -- tampering with whole files ----------------------------------------------------------------------------------------


@dataclass
class FolderTampering:
    """One change of the files of a folder, and the names of those that have to be told."""

    how: str
    told: set[str] = field(default_factory=set)


def tamper_with_files(folder: Path, rng: random.Random) -> FolderTampering:
    """Change *folder* as a whole."""
    names = sorted(path.name for path in folder.iterdir())
    one, two = rng.sample(names, 2)
    how = rng.choice(("deleted", "added", "exchanged", "copied", "renamed", "emptied", "linked", "a folder"))
    a, b, new = folder / one, folder / two, folder / f"z{rng.randrange(10**6)}.json"
    match how:
        case "deleted":
            a.unlink()
            return FolderTampering(how, {one})
        case "added":
            new.write_bytes(rng.randbytes(rng.randint(0, 50)))
            return FolderTampering(how, {new.name})
        case "exchanged":
            held = a.read_bytes()
            a.write_bytes(b.read_bytes())
            b.write_bytes(held)
            return FolderTampering(how, {one, two})
        case "copied":
            shutil.copyfile(a, b)
            return FolderTampering(how, {two})
        case "renamed":
            a.rename(new)
            return FolderTampering(how, {one, new.name})
        case "emptied":
            a.write_bytes(b"")
            return FolderTampering(how, {one})
        case "linked":
            held_elsewhere = folder.parent / f"held-{rng.randrange(10**9)}"
            a.rename(held_elsewhere)
            a.symlink_to(held_elsewhere)
            return FolderTampering(how, {one})
        case _:
            new.mkdir()
            return FolderTampering(how, {new.name})


def files_told(found: Examination) -> set[str]:
    """The files that the problems name."""
    return {problem.file for problem in found.problems if problem.file is not None}


def spans_of(problems: tuple[Problem, ...], file: str | None) -> list[Span]:
    """Byte ranges of one file, or of the container for None."""
    if file is None:
        return [problem.container_bytes for problem in problems if problem.container_bytes is not None]
    return [problem.bytes for problem in problems if problem.file == file and problem.bytes is not None]


# -- somebody who makes all hashes anew --------------------------------------------------------------------------------


def resealed(folder: Path, key: SigningKey | None = None) -> Path:
    """*folder* with a manifest that fits its files, signed with *key* or not at all."""
    for name in ("manifest.json", "manifest.sig"):
        (folder / name).unlink(missing_ok=True)
    entries = []
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            entries.append(hash_file(path.name, file, path.stat().st_size))
    data = Manifest(tuple(entries), key.public.id if key is not None else None).to_bytes()
    (folder / "manifest.json").write_bytes(data)
    if key is not None:
        (folder / "manifest.sig").write_bytes(ManifestSignature.make(key, data).to_bytes())
    return folder


def chain_made_anew(folder: Path, change: Callable[[list[dict[str, object]]], None]) -> None:
    """The chain of a bundle after *change*, with all hashes right; ``bundle.json`` says the same."""
    path = folder / "chain.jsonl"
    events: list[dict[str, object]] = [json.loads(line) for line in path.read_bytes().splitlines()]
    change(events)
    previous = GENESIS
    for event in events:
        event["previous_hash"] = previous
        told = [event[name] for name in ("sequence", "run_id", "at", "actor", "kind", "payload")]
        event["hash"] = previous = event_hash(previous, *told)  # type: ignore[arg-type]
    path.write_bytes(b"".join(map(line_of, events)))
    facts = json.loads((folder / "bundle.json").read_bytes())
    facts |= {"ledger": events[0]["hash"], "head": previous, "events": len(events)}
    (folder / "bundle.json").write_bytes(line_of(facts))
