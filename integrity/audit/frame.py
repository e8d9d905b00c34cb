"""A bundle as a container of files: what is in it, whether it is as it was exported, and who signed that.

Several texts can be the manifest: the one that lies there, and those that follow from the files.  The one that the
signature fits is the one that was exported; everything is then laid beside that one.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from integrity.audit.keys import PublicKey, Standing, Trust
from integrity.audit.manifest import (
    MANIFEST_NAME,
    SIGNATURE_NAME,
    SIGNATURE_TEXT_BYTES,
    Manifest,
    ManifestSignature,
    signature_frame,
    states_other_format,
)
from integrity.audit.model import Problem, ProblemKind, Span
from integrity.audit.pieces import Comparison, Damage, Known, Piece, lines_at

OpenFile = Callable[[], io.BufferedReader]
_TEXTS: Final = (".json", ".jsonl", ".csv", ".html", ".sig", ".txt")
_MOST_PROBLEMS_A_FILE: Final = 20
_MOST_RUNS: Final = 64
_SHORT_AGREEMENT: Final = 8


@dataclass(frozen=True, slots=True)
class Frame:
    """The files of a bundle."""

    form: Literal["folder", "zip"]
    manifest: Manifest | None
    standing: Standing | None
    """Of the manifest's signature; None where it is not signed."""
    key: PublicKey | None
    """That it says it was signed with."""
    problems: Sequence[Problem]
    whole: Mapping[str, OpenFile]
    """Files that are as the manifest says."""
    damaged: Mapping[str, OpenFile]
    """Files that are there and are not."""


@dataclass(frozen=True, slots=True)
class Settled:
    """The manifest that everything is laid beside."""

    manifest: Manifest
    data: bytes
    standing: Standing | None
    key: PublicKey | None
    signature: bytes | None
    """The signature file: as it should be, where that is known, else as it lies there."""
    of_another: bool = False
    """Whether that is a signature, but of another manifest."""

    @property
    def files(self) -> list[Known]:
        """Manifest and signature as they should be."""
        known = [Known.whole(MANIFEST_NAME, self.data)]
        if self.manifest.signed_by is None:
            return known
        if self.signature is not None and (self.of_another or self.standing is not Standing.FALSE):
            known.append(Known.whole(SIGNATURE_NAME, self.signature))
        elif self.key is not None:
            before, behind = signature_frame(self.key, self.data)
            known.append(Known(SIGNATURE_NAME, before, SIGNATURE_TEXT_BYTES, behind))
        else:
            before, behind = signature_frame(PublicKey(bytes(32)), self.data)
            size = len(before) + SIGNATURE_TEXT_BYTES + len(behind)
            known.append(Known(SIGNATURE_NAME, b"", size))
        return known


def settle(
    lying: bytes | None, derived: Iterable[bytes], signature: bytes | None, trust: Trust
) -> Settled | None:
    """The manifest that the signature fits, else the first text that is a manifest at all.

    :param lying: the manifest as it lies there.
    :param derived: manifests that follow from the files; made only where they are needed.
    """
    signed = read_signature(signature)
    standing = signed.standing(trust) if signed is not None else None
    first: tuple[Manifest, bytes] | None = None
    for data in _candidates(lying, derived, signed):
        try:
            manifest = Manifest.read(data)
        except ValueError:
            continue
        first = first or (manifest, data)
        if (
            signed is not None
            and standing is not Standing.FALSE
            and signed.signs(data)
            and manifest.signed_by == signed.public_key.id
        ):
            return Settled(manifest, data, standing, signed.public_key, signature)
    if first is None or (lying is not None and states_other_format(lying)):
        return None
    manifest, data = first
    if manifest.signed_by is None:
        return Settled(manifest, data, None, None, signature)
    key = trust.keys.get(manifest.signed_by)
    if key is None and signed is not None and signed.public_key.id == manifest.signed_by:
        key = signed.public_key
    mended = _mended_signature(key, data, signature)
    if mended is not None:
        return Settled(manifest, data, mended.standing(trust), key, mended.to_bytes())
    of_another = standing in (Standing.TRUSTED, Standing.UNKNOWN_KEY)
    return Settled(manifest, data, Standing.FALSE, key, signature, of_another)


def read_signature(data: bytes | None) -> ManifestSignature | None:
    """The signature, where there is one that can be read."""
    if data is None:
        return None
    try:
        return ManifestSignature.read(data)
    except ValueError:
        return None


def _mended_signature(
    key: PublicKey | None, manifest: bytes, signature: bytes | None
) -> ManifestSignature | None:
    """The signature, where only what stands around it in its file was changed."""
    if key is None or signature is None:
        return None
    before, behind = signature_frame(key, manifest)
    from_end = max(0, len(signature) - len(behind) - SIGNATURE_TEXT_BYTES)
    for start in (len(before), from_end):
        text = signature[start : start + SIGNATURE_TEXT_BYTES]
        signed = read_signature(before + text + behind)
        if signed is not None and signed.is_of_its_key():
            return signed
    return None


def _candidates(
    lying: bytes | None, derived: Iterable[bytes], signed: ManifestSignature | None
) -> Iterator[bytes]:
    if lying is not None:
        yield lying
    made: list[bytes] = []
    for other in derived:
        made.append(other)
        yield other
    if lying is None or signed is None:
        return
    for other in made:
        # A stretch of the manifest was changed, and files whose lines stand elsewhere in it: the stretch is what
        # follows from the files, and the rest is what lies there.
        if len(other) != len(lying):
            continue
        runs = _differing(lying, other)
        if len(runs) > _MOST_RUNS:
            continue
        for first in range(len(runs)):
            for last in range(first, len(runs)):
                start, end = runs[first][0], runs[last][1]
                mended = lying[:start] + other[start:end] + lying[end:]
                if signed.signs(mended):
                    yield mended


def _differing(one: bytes, two: bytes) -> list[tuple[int, int]]:
    """Begin and end of the stretches that differ; short agreements between them count as differing."""
    runs: list[tuple[int, int]] = []
    for place, (a, b) in enumerate(zip(one, two, strict=True)):
        if a == b:
            continue
        if runs and place - runs[-1][1] < _SHORT_AGREEMENT:
            runs[-1] = (runs[-1][0], place + 1)
        else:
            runs.append((place, place + 1))
    return runs


def signature_problems(settled: Settled, others: Sequence[Problem]) -> Iterator[Problem]:
    """What is wrong between manifest and signature.

    :param others: what else was found.
    """
    if settled.manifest.signed_by is None:
        if settled.signature is not None:
            yield Problem(
                ProblemKind.EXTRA, "the manifest says that the bundle is not signed", SIGNATURE_NAME
            )
        return
    if settled.standing is not Standing.FALSE:
        return
    told = any(problem.file == SIGNATURE_NAME for problem in others)
    if settled.signature is None and not told:
        yield Problem(
            ProblemKind.MISSING,
            f"it is missing, and the manifest says that key {settled.manifest.signed_by} signed it",
            SIGNATURE_NAME,
        )
    elif not settled.of_another and not told:
        yield Problem(
            ProblemKind.SIGNATURE,
            "it is not the signature of this manifest",
            SIGNATURE_NAME,
            bytes=changed_signature(settled),
        )
    if settled.of_another or any(problem.file != SIGNATURE_NAME for problem in others):
        yield Problem(
            ProblemKind.SIGNATURE,
            "it is not what was signed; where in it, and in what it lists, cannot be told",
            MANIFEST_NAME,
            bytes=Span(0, len(settled.data) - 1),
        )


def changed_signature(settled: Settled) -> Span:
    """The bytes of the signature file that cannot be right, as far as it can be made anew."""
    data = settled.signature or b""
    whole = Span(0, max(0, len(data) - 1))
    if settled.key is None:
        return whole
    before, behind = signature_frame(settled.key, settled.data)
    if len(data) != len(before) + SIGNATURE_TEXT_BYTES + len(behind):
        return whole
    text_end = len(before) + SIGNATURE_TEXT_BYTES
    wrong = [place for place, byte in enumerate(before) if data[place] != byte]
    wrong += [text_end + place for place, byte in enumerate(behind) if data[text_end + place] != byte]
    return Span(wrong[0], wrong[-1]) if wrong else Span(len(before), text_end - 1)


class FileHashes:
    """SHA-256 of whole files, taken while their pieces are read."""

    def __init__(self) -> None:
        self._hashes: dict[str, hashlib._Hash] = {}

    def see(self, piece: Piece, data: bytes) -> None:
        """The next piece."""
        if piece.file is not None:
            self._hashes.setdefault(piece.file, hashlib.sha256()).update(data)

    def of(self, name: str) -> str:
        """Of the file *name*."""
        return self._hashes.get(name, hashlib.sha256()).hexdigest()


def damage_problems(
    comparison: Comparison, *, in_container: bool, files: Mapping[str, OpenFile]
) -> Iterator[Problem]:
    """What a comparison found, in words.

    :param files: those that lie where they were exported to, to tell lines.
    """
    by_file: dict[str | None, int] = {}
    for damage in comparison.damages:
        by_file[damage.file] = by_file.get(damage.file, 0) + 1
        if by_file[damage.file] > _MOST_PROBLEMS_A_FILE:
            continue
        kind, text = _told(damage, comparison)
        lines = None
        moved = in_container and comparison.longer_by
        if damage.file is not None and damage.file in files and damage.file.endswith(_TEXTS) and not moved:
            with files[damage.file]() as file:
                lines = lines_at(file, damage.bytes)
        yield Problem(
            kind,
            text,
            damage.file,
            bytes=damage.bytes if damage.file is not None else None,
            lines=lines,
            container_bytes=damage.place if in_container else None,
        )
    for name, count in by_file.items():
        if count > _MOST_PROBLEMS_A_FILE:
            yield Problem(
                ProblemKind.CHANGED, f"{count - _MOST_PROBLEMS_A_FILE} more places were changed", name
            )


def _told(damage: Damage, comparison: Comparison) -> tuple[ProblemKind, str]:
    longer_by, label = comparison.longer_by, damage.label
    changed = ProblemKind.CHANGED if damage.file is not None else ProblemKind.CONTAINER
    what = "it was changed" if damage.file is not None else f"{label} was changed"
    if not longer_by:
        return changed, what
    if longer_by < 0 and comparison.to_the_end:
        return ProblemKind.CUT_OFF, f"it ends too early: {-longer_by:,} bytes are missing"
    if longer_by < 0:
        return changed, f"{what}: {-longer_by:,} bytes are missing here"
    if damage.file is None and comparison.to_the_end and damage == comparison.damages[0]:
        return ProblemKind.LONGER, f"{longer_by:,} bytes too many, here or at the end"
    return ProblemKind.LONGER, f"{what}: {longer_by:,} bytes too many here"
