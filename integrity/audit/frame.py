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
)
from integrity.audit.model import Problem, ProblemKind, Span
from integrity.audit.pieces import Comparison, Damage, Known, Piece, lines_at

OpenFile = Callable[[], io.BufferedReader]
_TEXTS: Final = (".json", ".jsonl", ".csv", ".html", ".sig", ".txt")
_MOST_PROBLEMS_A_FILE: Final = 20


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
    """The signature file as it lies there."""

    @property
    def files(self) -> list[Known]:
        """Manifest and signature as they should be."""
        known = [Known.whole(MANIFEST_NAME, self.data)]
        if self.manifest.signed_by is None:
            return known
        if self.signature is not None and self.standing in (Standing.TRUSTED, Standing.UNKNOWN_KEY):
            known.append(Known.whole(SIGNATURE_NAME, self.signature))
        elif self.key is not None:
            before, behind = signature_frame(self.key, self.data)
            known.append(Known(SIGNATURE_NAME, before, SIGNATURE_TEXT_BYTES, behind))
        else:
            before, behind = signature_frame(PublicKey(bytes(32)), self.data)
            size = len(before) + SIGNATURE_TEXT_BYTES + len(behind)
            known.append(Known(SIGNATURE_NAME, b"", size))
        return known


def settle(candidates: Iterable[bytes], signature: bytes | None, trust: Trust) -> Settled | None:
    """The first of *candidates* that the signature fits, else the first that is a manifest at all."""
    signed: ManifestSignature | None = None
    if signature is not None:
        try:
            signed = ManifestSignature.read(signature)
        except ValueError:
            signed = None
    standing = signed.standing(trust) if signed is not None else None
    first: tuple[Manifest, bytes] | None = None
    for data in candidates:
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
    if first is None:
        return None
    manifest, data = first
    if manifest.signed_by is None:
        return Settled(manifest, data, None, None, signature)
    key = trust.keys.get(manifest.signed_by)
    if key is None and signed is not None and signed.public_key.id == manifest.signed_by:
        key = signed.public_key
    return Settled(manifest, data, Standing.FALSE, key, signature)


def signature_problems(settled: Settled) -> Iterator[Problem]:
    """What is wrong between manifest and signature, where no signed manifest was found."""
    if settled.manifest.signed_by is None:
        if settled.signature is not None:
            yield Problem(
                ProblemKind.EXTRA, "the manifest says that the bundle is not signed", SIGNATURE_NAME
            )
        return
    if settled.standing is not Standing.FALSE:
        return
    if settled.signature is None:
        yield Problem(
            ProblemKind.MISSING,
            f"it is missing, and the manifest says that key {settled.manifest.signed_by} signed it",
            SIGNATURE_NAME,
        )
        return
    yield Problem(
        ProblemKind.SIGNATURE,
        "it is not the signature of this manifest: one of the two was changed",
        SIGNATURE_NAME,
        bytes=changed_signature(settled),
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
