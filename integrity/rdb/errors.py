"""What is wrong with an RDB file, and where."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

from integrity.errors import ArtifactError

_DAMAGED: Final = "Use another copy of the file, or have the server write it again."
_UNKNOWN: Final = "Have the server write the file without it, or use a version of Greenfly that knows it."


class MalformedBody(ValueError):
    """Bytes are not what the file's format says.

    :param at: where, counted from the beginning of what was decoded; None where that is not known.
    """

    def __init__(self, what: str, at: int | None = None) -> None:
        super().__init__(what)
        self.at = at


class UnsupportedBody(MalformedBody):
    """Bytes of a format that this version of Greenfly does not know."""


MALFORMED: Final = (IndexError, struct.error, ValueError)
"""What decoding raises for bytes that are cut off or not what they should be; :class:`MalformedBody` is among them."""


class RdbError(ArtifactError):
    """An RDB file cannot be used.

    :param offset: where, in bytes from the file's beginning.
    """

    def __init__(self, path: Path, what: str, offset: int, remedy: str) -> None:
        super().__init__(f"{path}: {what} (at byte {offset:,}).", remedy)
        self.path = path
        self.what = what
        self.offset = offset


class RdbDamaged(RdbError):
    """An RDB file is cut off, or was changed."""

    def __init__(self, path: Path, what: str, offset: int) -> None:
        super().__init__(path, what, offset, _DAMAGED)


class RdbUnsupported(RdbError):
    """An RDB file holds something that this version of Greenfly does not know; nothing of it is guessed."""

    def __init__(self, path: Path, what: str, offset: int) -> None:
        super().__init__(path, what, offset, _UNKNOWN)
