"""The guard: forwards calls of the 32-bit ABI to the probes' programs, and counts the rest.

It is a separate program in the kernel, bpf/guard.bpf.c. The programs it forwards to write the
same blocks as for 64-bit calls.
"""

import ctypes
import mmap
import os
import struct
import threading
from collections.abc import Iterable, Mapping

import structlog
from attrs import define, field

from infrasight_core.errors import KernelError
from infrasight_core.kernel.bcc_client import run_bcc
from infrasight_core.kernel.compat import MARKS, NO_NUMBER, SOCKETCALL, compat_defines, compat_slots
from infrasight_core.kernel.loader import (
    HEADERS_FOLDER,
    LoadedProbe,
    LoadSettings,
    compiler_flags,
    core_source,
)
from infrasight_core.plugin.program import SOCKETCALL_LIMIT, SOCKETCALLS, Kernel, Tracepoint

log = structlog.get_logger(__name__)
_MAPS = ("compat_enter", "compat_exit", "wanted", "untraced")
_WAYS = ("compat", "x32")  # enum untraced_way
_POINTS = (("guard_enter", "raw_syscalls:sys_enter"), ("guard_exit", "raw_syscalls:sys_exit"))
_Slot = tuple[str, int]  # the name of an array and an index in it


@define
class _Layer:
    """One program of the guard.

    A slot holds one function, so that a second probe of the same calls needs a second layer.

    Attributes:
        maps: The descriptors of its maps, by name.
        descriptors: The descriptors of its programs and attachments.
        counters: The map `untraced`, mapped.
        owners: The probe that occupies each slot.
    """

    maps: dict[str, int]
    descriptors: list[int]
    counters: mmap.mmap
    owners: dict[_Slot, str] = field(factory=dict)

    def untraced(self) -> dict[str, int]:
        """Returns the counters of calls that reached no program, by the way they came."""
        counts = struct.unpack_from(f"<{len(_WAYS)}Q", self.counters)
        return dict(zip(_WAYS, counts, strict=True))

    def close(self) -> None:
        """Detaches the program and releases its maps."""
        self.counters.close()
        while self.descriptors:
            os.close(self.descriptors.pop())
        while self.maps:
            os.close(self.maps.popitem()[1])


class Guard:
    """Forwards 32-bit calls to probes. It is loaded with the first probe that wants any.

    Args:
        kernel: The kernel.
        settings: How programs are loaded.
    """

    def __init__(self, kernel: Kernel, settings: LoadSettings) -> None:
        self._kernel = kernel
        self._settings = settings
        self._layers: list[_Layer] = []
        self._counted_before = dict.fromkeys(_WAYS, 0)  # by layers that are closed
        self._lock = threading.Lock()
        self._lib = ctypes.CDLL("libbpf.so.1", use_errno=True)

    def put(self, loaded: LoadedProbe, points: Iterable[Tracepoint]) -> None:
        """Forwards the 32-bit calls that a probe's points want from now on.

        Raises:
            KernelError: They cannot be forwarded. They are counted where the guard runs; the
                probe's other events are recorded.
        """
        slots = {
            (side, number): function
            for side, number, function in compat_slots(points, self._kernel.machine)
            if function in loaded.programs
        }
        if not slots or not self._settings.compat or self._kernel.machine not in MARKS:
            return
        with self._lock:
            layer = self._free_layer(slots) or self._load()
            layer.owners |= dict.fromkeys(slots, loaded.name)
            for _, number in slots:
                self._update(layer, "wanted", number, b"\1")
            # Exits first, so that every entry that is recorded finds its exit.
            for side, number in sorted(slots, reverse=True):
                program = loaded.programs[slots[side, number]]
                self._update(layer, side, number, struct.pack("<I", program))

    def remove(self, probe: str) -> None:
        """Stops forwarding to a probe and releases its programs. Closes layers that are unused."""
        with self._lock:
            for layer in list(self._layers):
                owned = sorted(slot for slot, owner in layer.owners.items() if owner == probe)
                for side, number in owned:
                    self._update(layer, "wanted", number, b"\0")
                    self._lib.bpf_map_delete_elem(layer.maps[side], struct.pack("<I", number))
                    del layer.owners[side, number]
                if not layer.owners:
                    self._layers.remove(layer)
                    for way, count in layer.untraced().items():
                        self._counted_before[way] += count
                    layer.close()

    def untraced(self) -> Mapping[str, int]:
        """Returns how many calls a probe wanted and did not get, by the way they came."""
        with self._lock:
            total = dict(self._counted_before)
            for number, layer in enumerate(self._layers):
                for way, count in layer.untraced().items():
                    if way == "x32" and number > 0:
                        continue  # every layer counts the same calls
                    total[way] += count
            return total

    def _free_layer(self, slots: Iterable[_Slot]) -> _Layer | None:
        """Finds a layer in which all of these slots are free."""
        wanted = set(slots)
        for layer in self._layers:
            if not wanted & layer.owners.keys():
                return layer
        return None

    def _load(self) -> _Layer:
        """Loads and attaches another layer."""
        defines = {
            "SLOTS": SOCKETCALLS + SOCKETCALL_LIMIT,
            "ENTRIES": self._settings.entries,
            "SOCKETCALL": SOCKETCALL.get(self._kernel.machine, NO_NUMBER),
            **compat_defines(self._kernel.machine),
        }
        request = {
            "source": core_source("guard.bpf.c"),
            "cflags": compiler_flags(defines),
            "attach": _POINTS,
            "headers": str(HEADERS_FOLDER),
            "maps": _MAPS,
        }
        answer = run_bcc(request, self._settings.python)
        maps = dict(zip(_MAPS, answer.descriptors, strict=False))
        counters = mmap.mmap(maps["untraced"], mmap.PAGESIZE, prot=mmap.PROT_READ)
        layer = _Layer(maps, answer.descriptors[len(_MAPS) :], counters)
        self._layers.append(layer)
        for warning in answer.warnings:
            log.warning("the compiler warns about the guard's C", warning=warning)
        log.info("guard attached: 32-bit calls are recorded", layer=len(self._layers))
        return layer

    def _update(self, layer: _Layer, name: str, number: int, value: bytes) -> None:
        key = struct.pack("<I", number)
        if self._lib.bpf_map_update_elem(layer.maps[name], key, value, ctypes.c_ulonglong(0)):
            reason = os.strerror(ctypes.get_errno())
            raise KernelError(f"32-bit calls: {name} of {number} cannot be written: {reason}")
