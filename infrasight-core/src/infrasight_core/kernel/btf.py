"""Reads struct offsets and enum values from the BTF of the running kernel, through libbpf.

Source: Documentation/bpf/btf.rst, include/uapi/linux/btf.h.
"""

import ctypes
from collections.abc import Iterable, Iterator

from attrs import frozen

from infrasight_core.errors import KernelError

_STRUCT = 4
_UNION = 5
_ENUM = 6
_FUNCTION = 12
_MODIFIERS = frozenset({8, 9, 10, 11, 18})  # typedef, volatile, const, restrict, type tag


class _Type(ctypes.Structure):
    _fields_ = (("name", ctypes.c_uint32), ("info", ctypes.c_uint32), ("type", ctypes.c_uint32))


class _Member(ctypes.Structure):
    _fields_ = (("name", ctypes.c_uint32), ("type", ctypes.c_uint32), ("offset", ctypes.c_uint32))


class _Enumerator(ctypes.Structure):
    _fields_ = (("name", ctypes.c_uint32), ("value", ctypes.c_int32))


@frozen
class Offsets:
    """The result of a lookup of kernel fields, each by its name `struct.member[.member…]`.

    Attributes:
        found: The offset of each field in bytes.
        missing: For each field that this kernel does not have, which part of its name is unknown.
    """

    found: dict[str, int]
    missing: dict[str, str]


def kernel_offsets(names: Iterable[str]) -> Offsets:
    """Looks up fields of kernel structs by their names; the first lookup takes 0.03 s.

    Raises:
        KernelError: There is no BTF or no libbpf.
    """
    offsets = Offsets({}, {})
    with _Btf() as btf:
        for name in names:
            try:
                offsets.found[name] = btf.offset(name)
            except LookupError as error:
                offsets.missing[name] = str(error.args[0])
    return offsets


def kernel_enum(name: str) -> dict[str, int]:
    """Returns the values of one of the kernel's enums by their names.

    Raises:
        KernelError: There is no BTF, no libbpf, or no such enum in this kernel.
    """
    with _Btf() as btf:
        return dict(btf.enumerators(name))


def function_number(name: str) -> int:
    """Returns the number of a kernel function in the kernel's BTF; 0 if it is not there.

    Raises:
        KernelError: There is no BTF or no libbpf.
    """
    with _Btf() as btf:
        return btf.function(name)


class _Btf:
    """The kernel's BTF, loaded while the context is open."""

    def __enter__(self) -> "_Btf":
        try:
            self._lib = lib = ctypes.CDLL("libbpf.so.1")
        except OSError as error:
            raise KernelError(
                f"libbpf.so.1 cannot be loaded ({error}): apt-get install libbpf1"
            ) from error
        lib.btf__load_vmlinux_btf.restype = ctypes.c_void_p
        lib.btf__free.argtypes = [ctypes.c_void_p]
        lib.btf__find_by_name_kind.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint32]
        lib.btf__type_by_id.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
        lib.btf__type_by_id.restype = ctypes.c_void_p
        lib.btf__name_by_offset.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
        lib.btf__name_by_offset.restype = ctypes.c_char_p
        self._btf = lib.btf__load_vmlinux_btf()
        if not self._btf or self._btf > 2**64 - 4096:
            raise KernelError(
                "the kernel's BTF cannot be read at /sys/kernel/btf/vmlinux: "
                "a kernel with CONFIG_DEBUG_INFO_BTF is needed"
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._lib.btf__free(self._btf)

    def offset(self, name: str) -> int:
        """Returns the offset of one member in bytes. Raises LookupError, which says why."""
        struct, *path = name.split(".")
        type_id = self._lib.btf__find_by_name_kind(self._btf, struct.encode(), _STRUCT)
        if type_id < 0 or not path:
            raise LookupError(f"this kernel has no struct {struct!r}")
        bits = 0
        owner = f"struct {struct!r}"
        for part in path:
            member = self._find_member(self._resolve(type_id), part)
            if member is None:
                raise LookupError(f"this kernel's {owner} has no member {part!r}")
            member_bits, type_id = member
            bits += member_bits
            owner = f"member {part!r}"
        return bits // 8

    def function(self, name: str) -> int:
        """Returns the number of a function; 0 if there is none."""
        found: int = self._lib.btf__find_by_name_kind(self._btf, name.encode(), _FUNCTION)
        return max(found, 0)

    def enumerators(self, name: str) -> Iterator[tuple[str, int]]:
        """Yields the names and values of an enum."""
        type_id = self._lib.btf__find_by_name_kind(self._btf, name.encode(), _ENUM)
        if type_id < 0:
            raise KernelError(f"kernel enum {name!r}: this kernel has no enum of that name")
        address, enum = self._type(type_id)
        for i in range(enum.info & 0xFFFF):
            item = _Enumerator.from_address(
                address + ctypes.sizeof(_Type) + i * ctypes.sizeof(_Enumerator)
            )
            yield self._lib.btf__name_by_offset(self._btf, item.name).decode(), item.value

    def _type(self, type_id: int) -> tuple[int, _Type]:
        address = self._lib.btf__type_by_id(self._btf, type_id)
        return address, _Type.from_address(address)

    def _resolve(self, type_id: int) -> int:
        """Follows typedefs and qualifiers to the type itself."""
        while (type_ := self._type(type_id)[1]).info >> 24 & 0x1F in _MODIFIERS:
            type_id = type_.type
        return type_id

    def _members(self, type_id: int) -> Iterator[tuple[str, int, int]]:
        """Yields the name, the offset in bits and the type of each member of a struct or union."""
        address, struct = self._type(type_id)
        if struct.info >> 24 & 0x1F not in (_STRUCT, _UNION):
            return
        has_bitfields = struct.info >> 31
        for i in range(struct.info & 0xFFFF):
            member = _Member.from_address(
                address + ctypes.sizeof(_Type) + i * ctypes.sizeof(_Member)
            )
            name = self._lib.btf__name_by_offset(self._btf, member.name).decode()
            bits = member.offset & 0xFFFFFF if has_bitfields else member.offset
            yield name, bits, member.type

    def _find_member(self, type_id: int, name: str) -> tuple[int, int] | None:
        """Finds a member's offset in bits and its type, in anonymous members as well."""
        for member, bits, member_type in self._members(type_id):
            if member == name:
                return bits, member_type
            if member:
                continue
            inner = self._find_member(self._resolve(member_type), name)
            if inner is not None:
                inner_bits, inner_type = inner
                return bits + inner_bits, inner_type
        return None
