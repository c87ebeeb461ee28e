"""A map in the kernel that this process alone writes, so that foreign changes can be found."""

import ctypes
import os

from attrs import frozen

from infrasight_core.errors import KernelError
from infrasight_core.kernel.prog_info import map_shape


@frozen
class _Entry:
    """An entry as it must be.

    Attributes:
        value: What is written.
        reads_as: What the kernel returns for it.
    """

    value: bytes
    reads_as: bytes


class WrittenMap:
    """A map that this process alone writes: it knows what the map must hold.

    It is not for maps that programs in the kernel write. Its user holds a lock.

    Args:
        name: Its name, for messages.
        descriptor: The descriptor of an empty map, which is closed with this object.

    Raises:
        KernelError: The descriptor is not a map's.
    """

    def __init__(self, name: str, descriptor: int) -> None:
        self._name = name
        self._descriptor = descriptor
        self._shape = map_shape(descriptor)
        self._wanted: dict[bytes, _Entry] = {}
        self._lib = ctypes.CDLL("libbpf.so.1", use_errno=True)

    def update(self, key: bytes, value: bytes, reads_as: bytes | None = None) -> None:
        """Writes an entry.

        Args:
            key: The key.
            value: The value.
            reads_as: What the kernel returns for this value, if it is another one: for the
                descriptor of a program, the program's number.

        Raises:
            KernelError: The kernel does not permit it.
        """
        self._write(key, value)
        self._wanted[key] = _Entry(value, value if reads_as is None else reads_as)

    def delete(self, key: bytes) -> None:
        """Deletes an entry, if it exists."""
        self._lib.bpf_map_delete_elem(self._descriptor, key)
        self._wanted.pop(key, None)

    def restore(self) -> list[str]:
        """Compares the map with what was written, and writes it again where it differs.

        Returns:
            The differences, each as a short text, and why one cannot be restored; empty if there
            is none.
        """
        actual = self._read()
        kept = self._wanted.keys() & actual.keys()
        deleted = self._wanted.keys() - kept
        added = actual.keys() - kept
        changed = {key for key in kept if self._wanted[key].reads_as != actual[key]}
        counts = {"deleted": len(deleted), "added": len(added), "changed": len(changed)}
        differences = [f"{self._name}: {count} {what}" for what, count in counts.items() if count]
        for key in added:
            self._lib.bpf_map_delete_elem(self._descriptor, key)
        try:
            for key in (*deleted, *changed):
                self._write(key, self._wanted[key].value)
        except KernelError as error:
            differences.append(str(error))
        return differences

    def close(self) -> None:
        """Releases the map."""
        os.close(self._descriptor)

    def _read(self) -> dict[bytes, bytes]:
        """Returns what the map holds."""
        held: dict[bytes, bytes] = {}
        key = None
        following = ctypes.create_string_buffer(self._shape.key_bytes)
        value = ctypes.create_string_buffer(self._shape.value_bytes)
        for _ in range(self._shape.most_entries):
            if self._lib.bpf_map_get_next_key(self._descriptor, key, following):
                break
            key = following.raw
            if not self._lib.bpf_map_lookup_elem(self._descriptor, key, value):
                held[key] = value.raw
        return held

    def _write(self, key: bytes, value: bytes) -> None:
        if self._lib.bpf_map_update_elem(self._descriptor, key, value, ctypes.c_ulonglong(0)):
            reason = os.strerror(ctypes.get_errno())
            raise KernelError(f"{self._name} cannot be written: {reason}")
