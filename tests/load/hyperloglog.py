"""The registers of a HyperLogLog, from the elements that were added to it.

Both servers hash with MurmurHash64A and one seed, and keep 2^14 registers.
"""

from __future__ import annotations

from typing import Final, TypeAlias

Registers: TypeAlias = dict[int, int]
"""Register → longest run of zero bits seen, plus one; registers that are zero are left out."""

_MASK: Final = 2**64 - 1
_FACTOR: Final = 0xC6A4A7935BD1E995
_SHIFT: Final = 47
_SEED: Final = 0xADC83B19
_INDEX_BITS: Final = 14


def add(registers: Registers, element: bytes) -> bool:
    """Add an element; whether a register changed."""
    hashed = _murmur64a(element)
    index = hashed & (1 << _INDEX_BITS) - 1
    # The bit at the end stops the run of zeros, as the servers do.
    rest = hashed >> _INDEX_BITS | 1 << 64 - _INDEX_BITS
    run = (rest & -rest).bit_length()
    if run <= registers.get(index, 0):
        return False
    registers[index] = run
    return True


def _murmur64a(data: bytes) -> int:
    hashed = _SEED ^ (len(data) * _FACTOR & _MASK)
    whole = len(data) & ~7
    for start in range(0, whole, 8):
        part = int.from_bytes(data[start : start + 8], "little") * _FACTOR & _MASK
        part = (part ^ part >> _SHIFT) * _FACTOR & _MASK
        hashed = (hashed ^ part) * _FACTOR & _MASK
    if len(data) > whole:
        hashed = (hashed ^ int.from_bytes(data[whole:], "little")) * _FACTOR & _MASK
    hashed = (hashed ^ hashed >> _SHIFT) * _FACTOR & _MASK
    return hashed ^ hashed >> _SHIFT
