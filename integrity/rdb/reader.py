"""Reading an RDB file front to back, whoever wrote it.

Nothing but its type tells where a value ends, so every body is walked along.  That is done in a buffer that holds
whole keys: where one is cut off at its end, more is read and the key begun again.  A value beyond the bound is handed
out as a :class:`~integrity.rdb.big_entry.BigEntry`, which goes on through the file by itself.  Format: ``rdb.c``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from struct import Struct
from struct import error as StructError
from typing import Final, Literal, Protocol

import anycrc

from integrity.rdb import types
from integrity.rdb.big_entry import BigEntry
from integrity.rdb.body import Body, TooShort
from integrity.rdb.entry import Entry, FunctionLibrary, ModuleAux
from integrity.rdb.errors import MalformedBody, RdbDamaged, RdbError, RdbUnsupported, UnsupportedBody
from integrity.rdb.module_id import module_name
from integrity.rdb.strings import string_end
from integrity.rdb.walk import ONE_STRING, pass_module_values, walk_for

_CHUNK_BYTES: Final = 1 << 20
_MAGIC: Final = re.compile(rb"REDIS(\d{4})|VALKEY(\d{3})")
_MAGIC_BYTES: Final = 9
_CRC_BYTES: Final = 8
_BLOCK_BYTES: Final = 4096
_NO_EXPIRY: Final = -1
_MC_FLAGS: Final = 2
_milliseconds: Final = Struct("<q").unpack_from
HELD_BYTES: Final = 1 << 20
"""How long a value may be by default and still be held whole."""

Checksum = Literal["not read yet", "fits", "not computed", "none"]


class Stream(Protocol):
    """Something to read from, front to back."""

    def read(self, size: int, /) -> bytes:
        """At most *size* bytes; none at the end."""


class RdbReader:
    """Iterates over the keys of one RDB file, once.

    What belongs to no key is collected on the way.  After the last key the file's end and checksum are proved: a
    file whose iteration ended is whole.  A :class:`BigEntry` that was not read is passed over.

    :param stream: the file, at its beginning.
    :param path: its name, for errors.
    :param held_bytes: values longer than this come as :class:`BigEntry`; this bounds the memory used.
    :raises RdbDamaged: here and in the iteration: the file is cut off or was changed.
    :raises RdbUnsupported: here and in the iteration: its version, a type or an opcode is not known.
    """

    def __init__(self, stream: Stream, path: Path, *, held_bytes: int = HELD_BYTES) -> None:
        self._stream = stream
        self._path = path
        self._held_bytes = held_bytes
        self._model = anycrc.Model("CRC64-REDIS")
        self._crc: int = 0
        self._buffer = b""
        self.position = 0
        """Where in the file the next thing begins; all before it is in the checksum."""
        self.aux: dict[str, str] = {}
        """Fields at the file's beginning: ``redis-ver``, ``ctime``, ``repl-id``, ``repl-offset`` and others."""
        self.announced: dict[int, tuple[int, int]] = {}
        """Keys, and those that expire, by database, as the file says in advance; not every server does."""
        self.scripts: list[bytes] = []
        """Lua scripts that the server had in its cache, which some servers add."""
        self.libraries: list[FunctionLibrary] = []
        """Function libraries, which come before the keys."""
        self.module_aux: list[ModuleAux] = []
        """What modules wrote beside their keys, before and after all keys."""
        self.masked = 0
        """Keys to which Dragonfly added that they are sticky, or Memcached flags; neither is carried."""
        self.checksum: Checksum = "not read yet"
        """Whether the CRC-64 fits; ``none`` before version 5, ``not computed`` where the server left it out."""
        self.version = self._begin()
        """RDB version; from 80 on Valkey's."""

    def __iter__(self) -> Iterator[Entry | BigEntry]:
        version, held = self.version, self._held_bytes
        # Half the price of calling the type, and it is paid for every key.
        new = tuple.__new__
        database, expiry = 0, None
        buffer, at, base = self._buffer, 0, self.position
        size = len(buffer)
        while True:
            start, body_at = at, size + 1
            try:
                opcode = buffer[at]
                if opcode <= types.LAST_TYPE:
                    walk = None if opcode in ONE_STRING else walk_for(opcode, version)
                    first = buffer[at + 1]
                    if first < 0x40:
                        body_at = at + 2 + first
                        key = buffer[at + 2 : body_at]
                    else:
                        body = Body((), buffer, at + 1)
                        key, body_at = body.string(), body.at
                    at = body_at
                    if walk is None:
                        at = string_end(buffer, at)
                    else:
                        body = Body((), buffer, at)
                        walk(body)
                        at = body.at
                    length = at - body_at
                    if at <= size and length <= held:
                        yield new(
                            Entry, (database, key, opcode, expiry, base + body_at, length, buffer[body_at:at])
                        )
                        expiry = None
                        continue
                elif opcode == types.EXPIRY_MS:
                    expiry = _expiry(_milliseconds(buffer, at + 1)[0])
                    at += 9
                elif opcode == types.EXPIRY_SECONDS:
                    seconds = int.from_bytes(buffer[at + 1 : at + 5], "little", signed=True)
                    expiry, at = _expiry(seconds * 1000), at + 5
                elif opcode == types.END:
                    at += 1 + (_CRC_BYTES if version >= types.FIRST_VERSION_WITH_CHECKSUM else 0)
                    if at <= size:
                        self._finish(buffer, start + 1, at)
                        return
                else:
                    body = Body((), buffer, at + 1)
                    if opcode == types.SELECT:
                        database = body.length()
                    else:
                        self._note(opcode, body, database, base + at)
                    at = body.at
                if at <= size and body_at > size:
                    continue
            except (IndexError, TooShort, StructError):
                pass
            except MalformedBody as error:
                raise self._refusal(error, base, start) from error
            # It is cut off, or a value that is too big.
            if size - body_at > held:
                self._drop(buffer, body_at)
                big = BigEntry(self, self._path, version, database, key, opcode, expiry)
                yield big
                big.skim()
                expiry = None
            else:
                self._drop(buffer, start)
                self._read_more()
            buffer, at, base = self._buffer, 0, self.position
            size = len(buffer)

    # -- for big values ----------------------------------------------------------------------------------------------

    def take_chunk(self) -> bytes:
        """What follows what was consumed; none at the file's end."""
        if not self._buffer:
            return self._stream.read(_CHUNK_BYTES)
        chunk, self._buffer = self._buffer, b""
        return chunk

    def consumed(self, data: bytes | memoryview) -> None:
        """Count bytes that were taken."""
        self._crc = self._model.calc(data, self._crc)
        self.position += len(data)

    def give_back(self, data: bytes) -> None:
        """Take back bytes that were taken and not consumed."""
        self._buffer = data

    # ----------------------------------------------------------------------------------------------------------------

    def _begin(self) -> int:
        while len(self._buffer) < _MAGIC_BYTES and (chunk := self._stream.read(_CHUNK_BYTES)):
            self._buffer += chunk
        match = _MAGIC.match(self._buffer)
        if match is None:
            if len(self._buffer) < _MAGIC_BYTES:
                raise RdbDamaged(self._path, "the file ends too early", len(self._buffer))
            raise RdbUnsupported(self._path, "it does not begin as an RDB file does", 0)
        redis, valkey = match.groups()
        version = int(redis or valkey)
        if not (
            1 <= version <= types.NEWEST_REDIS_VERSION
            if redis
            else types.FIRST_VALKEY_VERSION <= version <= types.NEWEST_VALKEY_VERSION
        ):
            raise RdbUnsupported(self._path, f"RDB version {match.group().decode()} is not known", 0)
        self._drop(self._buffer, _MAGIC_BYTES)
        return version

    def _drop(self, buffer: bytes, count: int) -> None:
        """Leave the first *count* bytes of the buffer behind."""
        self.consumed(memoryview(buffer)[:count])
        self._buffer = buffer[count:]

    def _read_more(self) -> None:
        chunk = self._stream.read(max(_CHUNK_BYTES, len(self._buffer)))
        if not chunk:
            raise RdbDamaged(self._path, "the file ends too early", self.position + len(self._buffer))
        self._buffer += chunk

    def _note(self, opcode: int, body: Body, database: int, offset: int) -> None:
        """Take in what stands before a key or between keys."""
        if opcode in (types.IDLE, types.ENTERPRISE_LRU, types.ENTERPRISE_SLOT):
            body.length()
        elif opcode == types.FREQUENCY:
            body.take(1)
        elif opcode == types.AUX:
            name, value = body.string(), body.string()
            if name == b"lua":
                self.scripts.append(value)
            else:
                self.aux[name.decode(errors="backslashreplace")] = value.decode(errors="backslashreplace")
        elif opcode == types.RESIZE:
            self.announced[database] = (body.length(), body.length())
        elif opcode == types.SLOT_INFO:
            for _ in range(3):
                body.length()
        elif opcode == types.FUNCTION:
            self.libraries.append(FunctionLibrary(body.string(), offset))
        elif opcode == types.MODULE_AUX:
            begin = body.at
            module = module_name(body.length())
            pass_module_values(body)
            self.module_aux.append(ModuleAux(module, offset, body.at - begin + 1))
        elif opcode == types.DRAGONFLY_MASK and self.version <= types.NEWEST_DRAGONFLY_VERSION:
            flags = int.from_bytes(body.take(4), "little")
            if flags & _MC_FLAGS:
                body.take(4)
            self.masked += 1
        elif opcode == types.FUNCTION_OLD:
            raise UnsupportedBody("a function library in a form of before Redis 7.0 (opcode 246)")
        else:
            raise UnsupportedBody(f"RDB opcode {opcode} is not known")

    def _refusal(self, error: MalformedBody, base: int, start: int) -> RdbError:
        offset = base + (start if error.at is None else error.at)
        kind = RdbUnsupported if isinstance(error, UnsupportedBody) else RdbDamaged
        return kind(self._path, str(error), offset)

    def _finish(self, buffer: bytes, crc_at: int, end: int) -> None:
        """Prove the end of the file: *buffer* is whole up to *end*, its CRC-64 stands at *crc_at*."""
        self._drop(buffer, crc_at)
        crc_offset = self.position
        if crc_at == end:
            self.checksum = "none"
        else:
            stored = int.from_bytes(buffer[crc_at:end], "little")
            if stored not in (0, self._crc):
                raise RdbDamaged(self._path, "its CRC-64 does not fit what stands before it", crc_offset)
            self.checksum = "fits" if stored else "not computed"
        self.position += end - crc_at
        self._buffer = b""
        rest = buffer[end:] + self._stream.read(_BLOCK_BYTES)
        # Dragonfly writes whole blocks, and what fills the last one up is whatever lay in its memory.
        padded = "df-ver" in self.aux and len(rest) == -self.position % _BLOCK_BYTES
        if rest and not padded:
            what = "more follows its end, as in an append-only file that begins like this"
            raise RdbDamaged(self._path, what, self.position)


def _expiry(milliseconds: int) -> int | None:
    return None if milliseconds == _NO_EXPIRY else milliseconds
