"""A key of any bytes on the page: readable text where it is text, hexadecimal digits beside it, and never the whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from reports import display

LIST_BYTES: Final = 240
PAGE_BYTES: Final = 4_000


@dataclass(frozen=True, slots=True)
class KeyView:
    """How a key begins, as text and as digits."""

    text: str
    hex: str | None
    """None where the text says the same."""
    left_out: int
    """Bytes that are not shown."""


def key_view(key: bytes, length: int | None = None, limit: int = LIST_BYTES) -> KeyView:
    """*key* cut between characters.

    :param length: of the whole key, where *key* is only its beginning.
    """
    whole = len(key) if length is None else length
    head = key[:limit]
    if len(key) > limit:
        end = limit
        while end > limit - 3 and key[end] & 0xC0 == 0x80:
            end -= 1
        head = key[:end]
    text = display.key_text(head)
    plain = head.isascii() and text == head.decode("ascii")
    return KeyView(text, None if plain else head.hex(), whole - len(head))
