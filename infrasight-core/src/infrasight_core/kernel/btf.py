"""Where members stand in the running kernel's structs, from its own BTF, through libbpf.

Source: Documentation/bpf/btf.rst, include/uapi/linux/btf.h.
"""

import ctypes
from collections.abc import Iterable, Iterator

from infrasight_core.errors import KernelError

_STRUCT, _UNION, _ENUM = 4, 5, 6
_MODIFIERS = frozenset({8, 9, 10, 11, 18})  # typedef, volatile, const, restrict, type tag


class _Type(ctypes.Structure):
    _fields_ = (("name", ctypes.c_uint32), ("info", ctypes.c_uint32), ("type", ctypes.c_uint32))


class _Member(ctypes.Structure):
    _fields_ = (("name", ctypes.c_uint32), ("type", ctypes.c_uint32), ("offset", ctypes.c_uint32))


class _Enumerator(ctypes.Structure):
    _fields_ = (("name", ctypes.c_uint32), ("value", ctypes.c_int32))


def kernel_offsets(fields: Iterable[str], optional: Iterable[str] = ()) -> dict[str, int]:
    """The offsets in bytes of `struct.member[.member…]`, by that name; 0.03 s for the first. Optional ones that are not are -1.

    Raises:
        KernelError: There is no BTF, no libbpf, or no such member in this kernel.
    """
    with _Btf() as btf:
        found = {name: btf.offset(name) for name in fields}
        for name in optional:
            try:
                found[name] = btf.offset(name)
            except KernelError:
                found[name] = -1
        return found


def kernel_enum(name: str) -> dict[str, int]:
    """The values of one of the kernel's enums, by their names.

    Raises:
        KernelError: There is no BTF, no libbpf, or no such enum in this kernel.
    """
    with _Btf() as btf:
        return dict(btf.enumerators(name))


class _Btf:
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
                "the kernel's BTF cannot be read at /sys/kernel/btf/vmlinux: a kernel with CONFIG_DEBUG_INFO_BTF is needed"
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._lib.btf__free(self._btf)

    def offset(self, name: str) -> int:
        """The offset of one member in bytes."""
        struct, *path = name.split(".")
        kind_id = self._lib.btf__find_by_name_kind(self._btf, struct.encode(), _STRUCT)
        if kind_id < 0 or not path:
            raise KernelError(f"kernel field {name!r}: this kernel has no struct {struct!r}")
        bits = 0
        for part in path:
            found = self._find(self._resolve(kind_id), part)
            if found is None:
                raise KernelError(
                    f"kernel field {name!r}: this kernel has no member {part!r} there"
                )
            bits, kind_id = bits + found[0], found[1]
        return bits // 8

    def enumerators(self, name: str) -> Iterator[tuple[str, int]]:
        """The names and values of an enum."""
        kind_id = self._lib.btf__find_by_name_kind(self._btf, name.encode(), _ENUM)
        if kind_id < 0:
            raise KernelError(f"kernel enum {name!r}: this kernel has none of that name")
        address, kind = self._type(kind_id)
        for i in range(kind.info & 0xFFFF):
            item = _Enumerator.from_address(
                address + ctypes.sizeof(_Type) + i * ctypes.sizeof(_Enumerator)
            )
            yield self._lib.btf__name_by_offset(self._btf, item.name).decode(), item.value

    def _type(self, type_id: int) -> tuple[int, _Type]:
        address = self._lib.btf__type_by_id(self._btf, type_id)
        return address, _Type.from_address(address)

    def _resolve(self, type_id: int) -> int:
        while (kind := self._type(type_id)[1]).info >> 24 & 0x1F in _MODIFIERS:
            type_id = kind.type
        return type_id

    def _members(self, type_id: int) -> Iterator[tuple[str, int, int]]:
        address, kind = self._type(type_id)
        if kind.info >> 24 & 0x1F not in (_STRUCT, _UNION):
            return
        has_bitfields = kind.info >> 31
        for i in range(kind.info & 0xFFFF):
            member = _Member.from_address(
                address + ctypes.sizeof(_Type) + i * ctypes.sizeof(_Member)
            )
            name = self._lib.btf__name_by_offset(self._btf, member.name).decode()
            yield name, member.offset & 0xFFFFFF if has_bitfields else member.offset, member.type

    def _find(self, type_id: int, name: str) -> tuple[int, int] | None:
        for member, bits, member_type in self._members(type_id):
            if member == name:
                return bits, member_type
            if not member and (inner := self._find(self._resolve(member_type), name)):
                return bits + inner[0], inner[1]
        return None
