"""The manifest of a bundle: every file with its size and hashes, in order; and its signature.

Nothing is in the manifest that does not follow from the files and the key, so that a checker can make it anew and see
which byte of it was changed.  Besides the hash of a whole file it holds hashes of its blocks, at most 1,024 a file,
which tell where in the file a change is.
"""

from __future__ import annotations

import base64
import hashlib
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO, Final, Self

from integrity.audit.keys import PublicKey, SigningKey, Standing, Trust, exact_base64
from integrity.audit.texts import line_of, number_at, parse_table, read_table, require_names, shown, text_at
from integrity.ledger.audit import canonical

_FORMATS: Final = "greenfly-audit-bundle "
FORMAT: Final = _FORMATS + "1"
SIGNATURE_FORMAT: Final = "greenfly-audit-signature 1"
MANIFEST_NAME: Final = "manifest.json"
SIGNATURE_NAME: Final = "manifest.sig"
MOST_MANIFEST_BYTES: Final = 64 * 1024 * 1024
MOST_SIGNATURE_BYTES: Final = 4096
FILE_NAME: Final = re.compile(r"[a-z0-9][A-Za-z0-9._-]{0,150}")
"""No folder, no hidden file, nothing that leads elsewhere."""

_BLOCKS: Final = 1024
_SMALLEST_BLOCK: Final = 1024
_BLOCK_DIGITS: Final = 32
_HEX64: Final = re.compile(r"[0-9a-f]{64}")
_HEX8: Final = re.compile(r"[0-9a-f]{8}")
_HEX32: Final = re.compile(r"[0-9a-f]{32}")


def block_bytes_for(size: int) -> int:
    """Bytes of a block of a file of *size*: a power of two, at least 1,024."""
    block = _SMALLEST_BLOCK
    while block * _BLOCKS < size:
        block *= 2
    return block


def block_hash(data: bytes) -> str:
    """The hash of one block."""
    return hashlib.sha256(data).hexdigest()[:_BLOCK_DIGITS]


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a bundle."""

    name: str
    size: int
    sha256: str
    crc32: int
    """What zip asks for; in the file as 8 hexadecimal digits."""
    blocks: tuple[str, ...]

    @property
    def block_bytes(self) -> int:
        """Of all blocks but the last."""
        return block_bytes_for(self.size)

    def to_line(self) -> str:
        """Its JSON form."""
        return canonical(
            {
                "name": self.name,
                "bytes": self.size,
                "sha256": self.sha256,
                "crc32": f"{self.crc32:08x}",
                "block_bytes": self.block_bytes,
                "blocks": list(self.blocks),
            }
        )

    @classmethod
    def read(cls, value: object) -> Self:
        """From its JSON form.

        :raises ValueError: it is none.
        """
        if not isinstance(value, dict):
            raise ValueError("a file in it is no table")
        name, size, sha256 = text_at(value, "name"), number_at(value, "bytes"), text_at(value, "sha256")
        blocks = value.get("blocks")
        if not FILE_NAME.fullmatch(name) or name in (MANIFEST_NAME, SIGNATURE_NAME):
            raise ValueError(f"it names a file {shown(name)}, which no bundle holds")
        if size >= 2**63 or not _HEX64.fullmatch(sha256) or not isinstance(blocks, list):
            raise ValueError(f"what it says about {name} is not understood")
        if len(blocks) != -(-size // block_bytes_for(size)) or not all(
            isinstance(block, str) and _HEX32.fullmatch(block) for block in blocks
        ):
            raise ValueError(f"its blocks of {name} are not those of {size:,} bytes")
        crc32 = text_at(value, "crc32")
        if not _HEX8.fullmatch(crc32):
            raise ValueError(f"its crc32 of {name} is none")
        return cls(name, size, sha256, int(crc32, 16), tuple(blocks))


def hash_file(name: str, file: BinaryIO, size: int) -> FileEntry:
    """Size and hashes of a file, read front to back.

    :raises ValueError: it has not *size* bytes.
    """
    whole, crc, blocks, block_bytes, left = hashlib.sha256(), 0, [], block_bytes_for(size), size
    while left:
        data = file.read(min(block_bytes, left))
        if len(data) != min(block_bytes, left):
            break
        left -= len(data)
        whole.update(data)
        crc = zlib.crc32(data, crc)
        blocks.append(block_hash(data))
    if left or file.read(1):
        raise ValueError(f"{name} changed while it was read")
    return FileEntry(name, size, whole.hexdigest(), crc, tuple(blocks))


@dataclass(frozen=True, slots=True)
class Manifest:
    """All files of a bundle but itself and its signature, in the order of their names."""

    files: tuple[FileEntry, ...]
    signed_by: str | None
    """Id of the key; None for a bundle that is not signed."""

    def to_bytes(self) -> bytes:
        """The file: one line for each file of the bundle."""
        files = ",\n".join(file.to_line() for file in self.files)
        rest = canonical({"format": FORMAT, "signed_by": self.signed_by}).removeprefix("{")
        return f'{{"files":[\n{files}\n],{rest}\n'.encode("ascii")

    @classmethod
    def read(cls, data: bytes) -> Self:
        """From the file.

        :raises ValueError: it is none, or of a format that this version does not know.
        """
        table = parse_table(data)
        stated = table.get("format")
        if stated != FORMAT:
            raise ValueError(f"its format is {shown(stated)}, and this version knows {FORMAT!r} only")
        files, signed_by = table.get("files"), table.get("signed_by")
        if not isinstance(files, list):
            raise ValueError("it lists no files")
        if signed_by is not None and not (isinstance(signed_by, str) and _HEX32.fullmatch(signed_by)):
            raise ValueError("signed_by is no id of a key")
        manifest = cls(tuple(map(FileEntry.read, files)), signed_by)
        names = [file.name for file in manifest.files]
        if sorted(set(names)) != names:
            raise ValueError("its files are not in the order of their names, each once")
        if manifest.to_bytes() != data:
            raise ValueError("it is not spelled as Greenfly spells it")
        return manifest

    def by_name(self) -> Mapping[str, FileEntry]:
        """The entries by name."""
        return {file.name: file for file in self.files}


def states_other_format(data: bytes) -> bool:
    """Whether *data* is a manifest of a version that this one does not know."""
    try:
        stated = parse_table(data).get("format")
    except ValueError:
        return False
    return isinstance(stated, str) and stated.startswith(_FORMATS) and stated != FORMAT


_SIGNATURE_NAMES: Final = frozenset({"format", "key_id", "manifest_sha256", "public_key", "signature"})


@dataclass(frozen=True, slots=True)
class ManifestSignature:
    """The signature of a manifest."""

    public_key: PublicKey
    manifest_sha256: str
    signature: bytes

    @classmethod
    def make(cls, key: SigningKey, manifest: bytes) -> Self:
        """Sign *manifest*."""
        digest = hashlib.sha256(manifest).hexdigest()
        return cls(key.public, digest, key.sign(_message(key.public, digest)))

    def to_bytes(self) -> bytes:
        """The file; only what stands between the last quotes cannot be made anew without the private key."""
        return line_of(
            _fields(self.public_key, self.manifest_sha256)
            | {"signature": base64.b64encode(self.signature).decode("ascii")}
        )

    @classmethod
    def read(cls, data: bytes) -> Self:
        """From the file.

        :raises ValueError: it is none.
        """
        table = read_table(data)
        if table.get("format") != SIGNATURE_FORMAT:
            raise ValueError(f"its format is not {SIGNATURE_FORMAT!r}")
        require_names(table, _SIGNATURE_NAMES)
        key, digest = PublicKey.parse(text_at(table, "public_key")), text_at(table, "manifest_sha256")
        if text_at(table, "key_id") != key.id:
            raise ValueError("its key_id is not that of its public_key")
        if not _HEX64.fullmatch(digest):
            raise ValueError("its manifest_sha256 is none")
        return cls(key, digest, exact_base64(text_at(table, "signature"), 64))

    def standing(self, trust: Trust) -> Standing:
        """What it is worth, for the manifest whose hash it names."""
        message = _message(self.public_key, self.manifest_sha256)
        return trust.judge(self.public_key.id, self.signature, message, self.public_key)

    def is_of_its_key(self) -> bool:
        """Whether the key that it names made it."""
        return self.public_key.made(self.signature, _message(self.public_key, self.manifest_sha256))

    def signs(self, manifest: bytes) -> bool:
        """Whether it names the hash of *manifest*."""
        return hashlib.sha256(manifest).hexdigest() == self.manifest_sha256


def signature_frame(key: PublicKey, manifest: bytes) -> tuple[bytes, bytes]:
    """What stands in the signature file before and behind the signature, which only the private key can make."""
    blank = ManifestSignature(key, hashlib.sha256(manifest).hexdigest(), bytes(64)).to_bytes()
    text = base64.b64encode(bytes(64))
    start = blank.index(text)
    return blank[:start], blank[start + len(text) :]


SIGNATURE_TEXT_BYTES: Final = 88
"""Of the signature in its file."""


def _fields(key: PublicKey, digest: str) -> dict[str, object]:
    return {
        "format": SIGNATURE_FORMAT,
        "key_id": key.id,
        "manifest_sha256": digest,
        "public_key": str(key),
    }


def _message(key: PublicKey, digest: str) -> bytes:
    return canonical(_fields(key, digest)).encode("ascii")
