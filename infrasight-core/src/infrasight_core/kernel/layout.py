"""Describes the layout of a block, as the compiler made it from the column list in the C.

The list in C is the layout's only source: BCC reports the members of the compiled `struct block`.
`block.py` maps a block by this layout.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from attrs import field, frozen

from infrasight_core.errors import KernelError

_SIZES = {
    "char": 1,
    "unsigned char": 1,
    "unsigned short": 2,
    "unsigned int": 4,
    "int": 4,
    "unsigned long long": 8,
    "long long": 8,
}
_DTYPES = {
    "unsigned char": "<u1",
    "unsigned short": "<u2",
    "unsigned int": "<u4",
    "int": "<i4",
    "unsigned long long": "<u8",
    "long long": "<i8",
}


@frozen
class FixedColumn:
    """An array of `slots` values: of a number's dtype, or of `S<width>` for CHARS."""

    name: str
    offset: int
    dtype: np.dtype[Any]


@frozen
class TextColumn:
    """An array of ends and a heap.

    Attributes:
        name: The column.
        index: Its number among the TEXT columns.
        ends_offset: The array of ends: for each slot a heap position, as a uint32 that wraps.
        heap_offset: The heap.
        heap_size: The bytes after which positions start again at the heap's beginning.
        heap_bytes: The bytes of the heap with the guard behind it.
    """

    name: str
    index: int
    ends_offset: int
    heap_offset: int
    heap_size: int
    heap_bytes: int


@frozen
class Layout:
    """The members of a block and their offsets in bytes.

    Attributes:
        slots: The number of events that a block holds, a power of two.
        size: The bytes of a block.
        fixed: The FIXED and CHARS columns, in C order.
        texts: The TEXT columns, in C order, which is also the order of their bits in `quality`.
        scalars: The uint64 positions and counters: `head`, `tail`, `heap_tail`, `seen` and others.
        description: BCC's description, from which this was read.
        flags: The probe's own bits of `quality`, after those of its texts, in C order.
    """

    slots: int
    size: int
    fixed: tuple[FixedColumn, ...]
    texts: tuple[TextColumn, ...]
    scalars: dict[str, int]
    description: Sequence[Any] = field(repr=False)
    flags: tuple[str, ...] = ()


@frozen
class _Member:
    offset: int
    type: str
    length: int


def layout_of(description: Sequence[Any], slots: int, size: int) -> Layout:
    """Reads BCC's description, `[name, [[member, type, [length]?], …], "struct_packed"]`.

    Raises:
        KernelError: A type is unknown, or the members do not add up to `size` bytes.
    """
    members = _members(description, size)
    fixed: list[FixedColumn] = []
    texts: list[TextColumn] = []
    flags: list[str] = []
    scalars: dict[str, int] = {}
    for name, member in members.items():
        column, _, part = name.partition("__")
        if name.startswith("_"):
            scalars[name[1:]] = member.offset
        elif part == "flag":
            flags.append(column)
        elif part == "end":
            heap = members[f"{column}__heap"]
            texts.append(
                TextColumn(
                    name=column,
                    index=len(texts),
                    ends_offset=member.offset,
                    heap_offset=heap.offset,
                    heap_size=1 << (heap.length.bit_length() - 1),
                    heap_bytes=heap.length,
                )
            )
        elif not part:
            type_member = members.get(f"{name}__type")
            dtype = _DTYPES[type_member.type] if type_member else f"S{member.length // slots}"
            fixed.append(FixedColumn(name, member.offset, np.dtype(dtype)))
    return Layout(slots, size, tuple(fixed), tuple(texts), scalars, description, tuple(flags))


def _members(description: Sequence[Any], size: int) -> dict[str, _Member]:
    """The members of the block by name."""
    members: dict[str, _Member] = {}
    offset = 0
    for name, type_, *count in description[1]:
        if type_ not in _SIZES:
            allowed = ", ".join(sorted(_SIZES))
            raise KernelError(f"column {name!r}: type {type_!r} is not one of {allowed}")
        length = count[0][0] if count else 1
        members[name] = _Member(offset, type_, length)
        offset += _SIZES[type_] * length
    if _aligned(offset) != _aligned(size):
        raise KernelError(
            f"the layout of the block is {offset} bytes by its description "
            f"and {size} by its map: a bug, please report"
        )
    return members


def _aligned(size: int) -> int:
    return (size + 7) // 8 * 8
