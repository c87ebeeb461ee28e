"""A compiled program: instructions that name their maps, and what its maps must be like.

`bcc_process.py` answers with one, and `program_cache.py` stores it. It is the same for every
process that loads it: maps are referred to by name, not by descriptor.
"""

import struct
from collections.abc import Mapping
from functools import cache
from typing import Any

import cattrs
from attrs import asdict, field, frozen
from cattrs.errors import BaseValidationError

from infrasight_core.errors import KernelError
from infrasight_core.kernel.bcc_process import INSTRUCTION_BYTES, map_loads
from infrasight_core.settings.values import make_converter

_MAP_KINDS_OF_MAPS = (12, 13)  # their elements are maps, which no one would fill
_VALUE_OFFSET = 4  # in an instruction


@frozen
class CompiledMap:
    """A map that a program uses.

    Attributes:
        name: Its name in the C.
        kind: One of the kernel's `enum bpf_map_type`.
        key_bytes: The size of a key.
        value_bytes: The size of a value.
        entries: How many entries it has room for.
        flags: The kernel's flags.
    """

    name: str
    kind: int
    key_bytes: int
    value_bytes: int
    entries: int
    flags: int


@frozen
class MapReference:
    """An instruction that loads a map's descriptor.

    Attributes:
        instruction: The instruction's number, from 0.
        map: The map's name.
    """

    instruction: int
    map: str


@frozen
class CompiledFunction:
    """A function that can become a program.

    Attributes:
        name: Its name in the C.
        code: Its instructions in hexadecimal, with 0 for each descriptor of a map.
        references: Which instructions load which maps.
    """

    name: str
    code: str
    references: tuple[MapReference, ...]

    def instructions(self, maps: Mapping[str, int]) -> bytes:
        """Returns the instructions with the descriptors of maps."""
        code = bytearray.fromhex(self.code)
        for reference in self.references:
            offset = reference.instruction * INSTRUCTION_BYTES + _VALUE_OFFSET
            struct.pack_into("<i", code, offset, maps[reference.map])
        return bytes(code)


@frozen
class InputFile:
    """A file of the compiler: a library, or the interpreter that ran it.

    Attributes:
        path: Its path.
        size: Its size in bytes.
        changed_ns: When it was changed last, in nanoseconds since 1970.
    """

    path: str
    size: int
    changed_ns: int


@frozen
class CompiledProgram:
    """What the compiler made of a C file.

    Attributes:
        maps: Its maps.
        functions: Its functions.
        licence: Its licence, which decides which functions of the kernel it may call.
        slots: The slots of a block; 0 for a program without blocks.
        layout: BCC's description of `struct block`; empty for a program without blocks.
        compiler: The compiler's files.
        warnings: The compiler's warnings, each as `file:line: warning: …`.
    """

    maps: tuple[CompiledMap, ...]
    functions: tuple[CompiledFunction, ...]
    licence: str
    slots: int
    layout: tuple[Any, ...]
    compiler: tuple[InputFile, ...]
    warnings: tuple[str, ...] = field(default=())

    def function(self, name: str) -> CompiledFunction:
        """Returns a function. Raises KernelError if the C does not have it."""
        for function in self.functions:
            if function.name == name:
                return function
        raise KernelError(f"Unknown program {name}")

    def value_bytes(self, name: str) -> int:
        """Returns the size of a map's values. Raises KernelError if the C does not have the map."""
        for each in self.maps:
            if each.name == name:
                return each.value_bytes
        raise KernelError(f"Unknown map {name}")

    def to_json(self) -> dict[str, Any]:
        """Returns it as objects that JSON has."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Any) -> "CompiledProgram":
        """Reads what `to_json` returned, strictly.

        Raises:
            ValueError: It is something else.
        """
        try:
            program: CompiledProgram = _converter().structure(values, cls)
        except (BaseValidationError, cattrs.StructureHandlerNotFoundError) as error:
            raise ValueError("not a compiled program") from error
        known = {each.name for each in program.maps}
        for each in program.maps:
            if each.kind in _MAP_KINDS_OF_MAPS:
                raise ValueError(f"map {each.name}: maps of maps are not supported")
        for function in program.functions:
            _check(function, known)
        return program


@cache
def _converter() -> cattrs.Converter:
    return make_converter()


def _check(function: CompiledFunction, maps: set[str]) -> None:
    """Raises ValueError unless a function's references, and nothing else, load maps."""
    code = bytes.fromhex(function.code)
    if len(code) % INSTRUCTION_BYTES:
        raise ValueError(f"{function.name}: half an instruction")
    loads = set(map_loads(code))
    if loads != {reference.instruction for reference in function.references}:
        raise ValueError(f"{function.name}: its references are not its loads of maps")
    if not {reference.map for reference in function.references} <= maps:
        raise ValueError(f"{function.name}: a reference to an unknown map")
