"""Reads and writes the BPF maps of another process by their ids, as root can (bpftool does it)."""

import ctypes
import os
import re
import weakref
from pathlib import Path

_INFO_BYTES = 88
_NAME_OFFSET = 24  # in struct bpf_map_info of include/uapi/linux/bpf.h
_lib = ctypes.CDLL("libbpf.so.1", use_errno=True)


class BpfMap:
    """A map, by its id. Its descriptor is closed when the object is no longer used.

    Args:
        number: The id.
    """

    def __init__(self, number: int) -> None:
        self._descriptor = int(_lib.bpf_map_get_fd_by_id(ctypes.c_uint32(number)))
        assert self._descriptor >= 0, os.strerror(ctypes.get_errno())
        weakref.finalize(self, os.close, self._descriptor)
        info = ctypes.create_string_buffer(_INFO_BYTES)
        size = ctypes.c_uint32(_INFO_BYTES)
        assert not _lib.bpf_obj_get_info_by_fd(self._descriptor, info, ctypes.byref(size))
        self.name = info.raw[_NAME_OFFSET : _NAME_OFFSET + 16].split(b"\0")[0].decode()

    def write(self, key: bytes, value: bytes) -> None:
        """Writes an entry."""
        assert not _lib.bpf_map_update_elem(self._descriptor, key, value, ctypes.c_ulonglong(0))

    def delete(self, key: bytes) -> None:
        """Deletes an entry."""
        assert not _lib.bpf_map_delete_elem(self._descriptor, key)

    def read(self, key: bytes) -> bytes | None:
        """Returns the 8 bytes of an entry; None if there is none."""
        value = ctypes.create_string_buffer(8)
        if _lib.bpf_map_lookup_elem(self._descriptor, key, value):
            return None
        return value.raw


def maps_of(process: int, name: str) -> list[BpfMap]:
    """Returns the maps of this name that a process holds descriptors of."""
    numbers = set()
    for entry in Path(f"/proc/{process}/fdinfo").iterdir():
        try:
            text = entry.read_text()
        except OSError:  # the descriptor was closed
            continue
        numbers |= {int(number) for number in re.findall(r"^map_id:\s*(\d+)$", text, re.M)}
    return [each for each in map(BpfMap, sorted(numbers)) if each.name == name]
