"""One module per Redis type: how to read it, its canonical digest, and how two values differ in words."""

from __future__ import annotations

from typing import Final

from integrity.kinds.base import Kind, MalformedReply
from integrity.kinds.hash import HashKind
from integrity.kinds.json import JsonKind
from integrity.kinds.list import ListKind
from integrity.kinds.set import SetKind
from integrity.kinds.stream import StreamKind
from integrity.kinds.string import StringKind
from integrity.kinds.zset import SortedSetKind

STREAM: Final = StreamKind()
HASH: Final = HashKind()
KINDS: Final[dict[bytes, Kind]] = {
    kind.name.encode(): kind
    for kind in (StringKind(), ListKind(), SetKind(), HASH, SortedSetKind(), STREAM, JsonKind())
}
"""By the name that TYPE answers.  A type that is not here is a finding, never skipped."""

__all__ = ["HASH", "KINDS", "STREAM", "Kind", "MalformedReply"]
