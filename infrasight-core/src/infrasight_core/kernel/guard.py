"""The guard: forwards calls of the 32-bit ABI to the probes' programs, and counts the rest.

It is a separate program in the kernel, bpf/guard.bpf.c. The programs it forwards to write the
same blocks as for 64-bit calls.
"""

import mmap
import os
import struct
import threading
from collections.abc import Iterable, Mapping

import structlog
from attrs import define, field

from infrasight_core.kernel.bcc_client import run_bcc
from infrasight_core.kernel.compat import MARKS, NO_NUMBER, SOCKETCALL, compat_defines, compat_slots
from infrasight_core.kernel.loader import (
    HEADERS_FOLDER,
    LoadedProbe,
    LoadSettings,
    compiler_flags,
    core_source,
)
from infrasight_core.kernel.prog_info import Attachment, detached_events, program_id
from infrasight_core.kernel.written_map import WrittenMap
from infrasight_core.plugin.program import SOCKETCALL_LIMIT, SOCKETCALLS, Kernel, Tracepoint

log = structlog.get_logger(__name__)
_COUNTERS = "untraced"
_WRITTEN_MAPS = ("compat_enter", "compat_exit", "wanted")
_MAPS = (*_WRITTEN_MAPS, _COUNTERS)
_SLOTS = SOCKETCALLS + SOCKETCALL_LIMIT
_WAYS = ("compat", "x32")  # enum untraced_way
_POINTS = (("guard_enter", "raw_syscalls:sys_enter"), ("guard_exit", "raw_syscalls:sys_exit"))
_IS_WANTED = b"\1"
_IS_NOT_WANTED = b"\0"
_Slot = tuple[str, int]  # the name of an array and an index in it


@define
class _Layer:
    """One program of the guard.

    A slot holds one function, so that a second probe of the same calls needs a second layer.

    Attributes:
        maps: The maps that decide where a call goes, by name.
        attachments: Its programs at their tracepoints.
        counters: The map `untraced`, mapped.
        owners: The probe that occupies each slot.
    """

    maps: dict[str, WrittenMap]
    attachments: list[Attachment]
    counters: mmap.mmap
    owners: dict[_Slot, str] = field(factory=dict)

    def untraced(self) -> dict[str, int]:
        """Returns the counters of calls that reached no program, by the way they came."""
        counts = struct.unpack_from(f"<{len(_WAYS)}Q", self.counters)
        return dict(zip(_WAYS, counts, strict=True))

    def close(self) -> None:
        """Detaches the program and releases its maps."""
        self.counters.close()
        while self.attachments:
            attachment = self.attachments.pop()
            os.close(attachment.descriptor)
            os.close(attachment.program)
        while self.maps:
            self.maps.popitem()[1].close()


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
                layer.maps["wanted"].update(_word(number), _IS_WANTED)
            # Exits first, so that every entry that is recorded finds its exit.
            for side, number in sorted(slots, reverse=True):
                program = loaded.programs[slots[side, number]]
                reads_as = _word(program_id(program))
                layer.maps[side].update(_word(number), _word(program), reads_as)

    def remove(self, probe: str) -> None:
        """Stops forwarding to a probe and releases its programs. Closes layers that are unused."""
        with self._lock:
            for layer in list(self._layers):
                owned = sorted(slot for slot, owner in layer.owners.items() if owner == probe)
                for side, number in owned:
                    layer.maps["wanted"].update(_word(number), _IS_NOT_WANTED)
                    layer.maps[side].delete(_word(number))
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

    def restore(self) -> list[str]:
        """Compares the maps with what was written to them, and writes it again where they differ.

        The maps that the guard itself writes, counters and calls in progress, are not compared.

        Returns:
            The differences, each as a short text; empty if there is none.
        """
        with self._lock:
            maps = [each for layer in self._layers for each in layer.maps.values()]
            return [difference for each in maps for difference in each.restore()]

    def detached(self) -> list[str]:
        """Returns the tracepoints from which the kernel has detached the guard."""
        with self._lock:
            attachments = [each for layer in self._layers for each in layer.attachments]
            return detached_events(attachments)

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
            "SLOTS": _SLOTS,
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
        *written, counters_map = answer.descriptors[: len(_MAPS)]
        programs = answer.descriptors[len(_MAPS) : len(_MAPS) + len(_POINTS)]
        attached = answer.descriptors[len(_MAPS) + len(_POINTS) :]
        attachments = [
            Attachment(event, program, descriptor)
            for (_, event), program, descriptor in zip(_POINTS, programs, attached, strict=True)
        ]
        nothing_wanted = {_word(number): _IS_NOT_WANTED for number in range(_SLOTS)}
        maps = {
            name: WrittenMap(name, descriptor, nothing_wanted if name == "wanted" else {})
            for name, descriptor in zip(_WRITTEN_MAPS, written, strict=True)
        }
        counters = mmap.mmap(counters_map, mmap.PAGESIZE, prot=mmap.PROT_READ)
        os.close(counters_map)
        layer = _Layer(maps, attachments, counters)
        self._layers.append(layer)
        for warning in answer.warnings:
            log.warning("the compiler warns about the guard's C", warning=warning)
        log.info("guard attached: 32-bit calls are recorded", layer=len(self._layers))
        return layer


def _word(number: int) -> bytes:
    return struct.pack("<I", number)
