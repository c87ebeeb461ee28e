"""The layout of a block, from what BCC says of the compiled `struct block`: the C column list is its only source."""

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
    """An array of `slots` values: a number's dtype, or `S<width>` for CHARS."""

    name: str
    offset: int
    dtype: np.dtype[Any]


@frozen
class TextColumn:
    """Ends per slot (uint32, heap positions that wrap) and a heap of `heap_size` bytes with a guard behind it."""

    name: str
    index: int
    ends_offset: int
    heap_offset: int
    heap_size: int
    heap_bytes: int


@frozen
class Layout:
    """Where everything stands in a block, in bytes from its beginning.

    Attributes:
        slots: Events that a block holds, a power of two.
        size: The bytes of a block.
        fixed: FIXED and CHARS columns, in C order.
        texts: TEXT columns, in C order, which is also the order of their bits in `quality`.
        description: What all this was read from.
        flags: The probe's own bits of `quality`, behind those of its texts, in C order.
        scalars: The uint64 positions and counters: `head`, `tail`, `heap_tail`, `seen`, `block_full` and the others.
    """

    slots: int
    size: int
    fixed: tuple[FixedColumn, ...]
    texts: tuple[TextColumn, ...]
    scalars: dict[str, int]
    description: Sequence[Any] = field(repr=False)
    flags: tuple[str, ...] = ()


def layout_of(description: Sequence[Any], slots: int, size: int) -> Layout:
    """Reads BCC's `[name, [[member, type, [count]?], …], "struct_packed"]`.

    Raises:
        KernelError: A type is not known, or the members do not add up to `size` bytes.
    """
    offset, members = 0, {}
    for name, kind, *count in description[1]:
        length = count[0][0] if count else 1
        if kind not in _SIZES:
            raise KernelError(
                f"column {name!r}: type {kind!r} is not one of {', '.join(sorted(_SIZES))}"
            )
        members[name] = (offset, kind, length)
        offset += _SIZES[kind] * length
    if (offset + 7) // 8 * 8 != (size + 7) // 8 * 8:
        raise KernelError(
            f"the layout of the block is {offset} bytes by its description and {size} by its map: a bug, please report"
        )
    fixed: list[FixedColumn] = []
    texts: list[TextColumn] = []
    flags: list[str] = []
    for name, (at, _, length) in members.items():
        column, _, part = name.partition("__")
        if name.startswith("_") or part in ("type", "heap"):
            continue
        if part == "flag":
            flags.append(column)
            continue
        if part == "end":
            heap_at, _, heap = members[f"{column}__heap"]
            texts.append(
                TextColumn(column, len(texts), at, heap_at, 1 << (heap.bit_length() - 1), heap)
            )
        elif kind := members.get(f"{name}__type"):
            fixed.append(FixedColumn(name, at, np.dtype(_DTYPES[kind[1]])))
        else:
            fixed.append(FixedColumn(name, at, np.dtype(f"S{length // slots}")))
    scalars = {name[1:]: at for name, (at, *_) in members.items() if name.startswith("_")}
    return Layout(slots, size, tuple(fixed), tuple(texts), scalars, description, tuple(flags))
