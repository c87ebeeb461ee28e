"""The guard in the kernel (bpf/guard.bpf.c): calls of the 32-bit ABI for the probes' own programs, the rest counted."""

import ctypes
import mmap
import os
import struct
import threading
from collections.abc import Iterable, Mapping
from importlib import resources

import structlog
from attrs import define, field

from infrasight_core.errors import KernelError
from infrasight_core.kernel.compat import MARKS, NO_NUMBER, SOCKETCALL, compat_defines, compat_slots
from infrasight_core.kernel.loader import LoadedProbe, LoadSettings, ask_loader, inlined
from infrasight_core.plugin.program import SOCKETCALL_LIMIT, SOCKETCALLS, Kernel, Tracepoint

log = structlog.get_logger(__name__)
_MAPS = ("compat_enter", "compat_exit", "wanted", "untraced")
_WAYS = ("compat", "x32")  # enum untraced_way
_POINTS = (("guard_enter", "raw_syscalls:sys_enter"), ("guard_exit", "raw_syscalls:sys_exit"))
_Slot = tuple[str, int]


@define
class _Layer:
    """One program of the guard. A slot holds one function, so that a second probe of the same calls needs a second layer."""

    maps: dict[str, int]
    descriptors: list[int]
    area: mmap.mmap
    taken: dict[_Slot, str] = field(factory=dict)  # by which probe

    def untraced(self) -> dict[str, int]:
        return dict(zip(_WAYS, struct.unpack_from(f"<{len(_WAYS)}Q", self.area), strict=True))

    def close(self) -> None:
        self.area.close()
        while self.descriptors:
            os.close(self.descriptors.pop())
        while self.maps:
            os.close(self.maps.popitem()[1])


class Guard:
    """What brings 32-bit calls to the probes. It is loaded with the first probe that wants any.

    Args:
        kernel: The kernel.
        settings: How programs are loaded.
    """

    def __init__(self, kernel: Kernel, settings: LoadSettings) -> None:
        self._kernel, self._settings = kernel, settings
        self._layers: list[_Layer] = []
        self._gone = dict.fromkeys(_WAYS, 0)
        self._lock = threading.Lock()
        self._lib = ctypes.CDLL("libbpf.so.1", use_errno=True)

    def put(self, loaded: LoadedProbe, points: Iterable[Tracepoint]) -> None:
        """Brings the probe the 32-bit calls that it wants, from now on.

        Raises:
            KernelError: They cannot be brought; they are counted where the guard runs, and the probe's other events come.
        """
        slots = {
            (side, number): function
            for side, number, function in compat_slots(points, self._kernel.machine)
        }
        slots = {slot: function for slot, function in slots.items() if function in loaded.programs}
        if not slots or not self._settings.compat or self._kernel.machine not in MARKS:
            return
        with self._lock:
            free = (layer for layer in self._layers if not slots.keys() & layer.taken.keys())
            layer = next(free, None) or self._load()
            layer.taken |= dict.fromkeys(slots, loaded.name)
            for _, number in slots:
                self._update(layer, "wanted", number, b"\1")
            for (side, number), function in sorted(
                slots.items(), reverse=True
            ):  # exits first: every entry finds its exit
                self._update(layer, side, number, struct.pack("<I", loaded.programs[function]))

    def remove(self, probe: str) -> None:
        """Brings the probe nothing any more, and lets its programs go. A layer that nobody needs goes too."""
        with self._lock:
            for layer in list(self._layers):
                for side, number in sorted(
                    slot for slot, owner in layer.taken.items() if owner == probe
                ):
                    self._update(layer, "wanted", number, b"\0")
                    self._lib.bpf_map_delete_elem(layer.maps[side], struct.pack("<I", number))
                    del layer.taken[side, number]
                if not layer.taken:
                    self._layers.remove(layer)
                    for way, count in layer.untraced().items():
                        self._gone[way] += count
                    layer.close()

    def untraced(self) -> Mapping[str, int]:
        """How many calls came that a probe wanted and did not get, by the way they came."""
        with self._lock:
            total = dict(self._gone)
            for number, layer in enumerate(self._layers):
                for way, count in layer.untraced().items():
                    total[way] += (
                        count if way != "x32" or number == 0 else 0
                    )  # every layer sees the same of these
            return total

    def _load(self) -> _Layer:
        bpf = resources.files("infrasight_core") / "bpf"
        slots = SOCKETCALLS + SOCKETCALL_LIMIT
        defines = {
            "SLOTS": slots,
            "ENTRIES": self._settings.entries,
            **compat_defines(self._kernel.machine),
        }
        defines["SOCKETCALL"] = SOCKETCALL.get(self._kernel.machine, NO_NUMBER)
        request = {
            "source": inlined(
                bpf / "guard.bpf.c", {header.name: header for header in bpf.iterdir()}
            ),
            "cflags": [
                *(f"-D{name}={value}" for name, value in defines.items()),
                "-Wno-everything",
            ],
            "attach": _POINTS,
            "headers": str(bpf),
            "maps": _MAPS,
        }
        _, descriptors = ask_loader(request, self._settings.python)
        maps = dict(zip(_MAPS, descriptors, strict=False))
        layer = _Layer(
            maps,
            descriptors[len(_MAPS) :],
            mmap.mmap(maps["untraced"], mmap.PAGESIZE, prot=mmap.PROT_READ),
        )
        self._layers.append(layer)
        log.info("guard attached: calls of the 32-bit ABI are seen", layer=len(self._layers))
        return layer

    def _update(self, layer: _Layer, name: str, number: int, value: bytes) -> None:
        if self._lib.bpf_map_update_elem(
            layer.maps[name], struct.pack("<I", number), value, ctypes.c_ulonglong(0)
        ):
            raise KernelError(
                f"32-bit calls: {name} of {number} cannot be written: {os.strerror(ctypes.get_errno())}"
            )
