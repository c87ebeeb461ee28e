"""The dispatcher: brings system calls to the probes that handle them.

It is a separate program in the kernel, bpf/dispatcher.bpf.c, on the raw tracepoints sys_enter and
sys_exit. For each call it jumps to the program of the first handler; that one jumps to the program
of the next, which is in the first one's own array, and so on. A probe is put at the beginning of
these chains and taken out of them by single writes to arrays, so that no other handler misses a
call.
"""

import mmap
import os
import struct
import threading
from collections.abc import Iterable
from contextlib import closing

import structlog
from attrs import define, frozen

from infrasight_core.errors import KernelError
from infrasight_core.kernel.compiler import compile_program
from infrasight_core.kernel.grace_period import wait_for_programs
from infrasight_core.kernel.loader import LoadedProbe, LoadSettings, core_program
from infrasight_core.kernel.prog_info import Link, is_attached, link_of, program_id, skipped_runs
from infrasight_core.kernel.programs import KernelObjects, ProgramType
from infrasight_core.kernel.system_calls import compat_defines, number_of, slots_of
from infrasight_core.kernel.written_map import WrittenMap
from infrasight_core.plugin.program import Kernel, SystemCall

log = structlog.get_logger(__name__)
MOST_HANDLERS = 32  # MAX_TAIL_CALL_CNT is 33: the kernel ends a longer chain
_ARRAYS = ("handled_enter", "handled_exit", "first_enter", "first_exit")
_POINTS = (("dispatch_enter", "sys_enter"), ("dispatch_exit", "sys_exit"))
_ROUTES = {"enter": "route_enter", "exit": "route_exit"}
# Exits are attached first and detached last, so that every entry that is stored finds its exit.
_SIDES = ("exit", "enter")


@frozen
class _Place:
    """One side of one way to make a call: `enter` or `exit`, and the slot."""

    side: str
    slot: int


@frozen(eq=False)
class _Handler:
    """A probe's program in one chain.

    Attributes:
        owner: The probe.
        call: The call's name.
        program: The program's descriptor.
        following: The array that holds the next handler's program.
    """

    owner: LoadedProbe
    call: str
    program: int
    following: WrittenMap


@define
class _Kernel:
    """The dispatcher in the kernel.

    Attributes:
        arrays: Its arrays of programs by name: `first_…` holds the first handler's by slot,
            `handled_…` the dispatcher's own by a number that has handlers.
        programs: The descriptors of its attached programs.
        routes: The descriptors of those that find a handler, by side.
        attachments: The raw tracepoint, the attachment and its descriptor of each program.
        x32_calls: The map of that name, mapped.
    """

    arrays: dict[str, WrittenMap]
    programs: list[int]
    routes: dict[str, int]
    attachments: list[tuple[str, Link, int]]
    x32_calls: mmap.mmap

    def close(self) -> None:
        """Detaches the programs and releases the maps."""
        self.x32_calls.close()
        for _, _, descriptor in self.attachments:
            os.close(descriptor)
        for program in (*self.programs, *self.routes.values()):
            os.close(program)
        for array in self.arrays.values():
            array.close()


class Dispatcher:
    """Attaches probes to system calls. It is loaded with the first probe that handles any.

    Args:
        kernel: The kernel.
        settings: How programs are loaded.
    """

    def __init__(self, kernel: Kernel, settings: LoadSettings) -> None:
        self._kernel = kernel
        self._settings = settings
        self._loaded: _Kernel | None = None
        self._chains: dict[_Place, list[_Handler]] = {}
        self._x32_before = 0  # counted by programs that are closed
        self._skipped_before = 0
        self._changes = threading.Lock()  # held while a probe is attached or detached
        self._lock = threading.Lock()  # of the state, which others read; held briefly

    def attach(self, loaded: LoadedProbe, calls: Iterable[SystemCall]) -> None:
        """Runs a probe's functions for its calls from now on.

        Raises:
            KernelError: The dispatcher cannot be loaded or the probe not be attached. It handles
                none of its calls then; its other programs run.
        """
        handlers = self._handlers(loaded, calls)
        if not handlers:
            return
        with self._changes:
            kernel = self._loaded or self._load()
            try:
                with self._lock:
                    self._loaded = kernel
                    for side in _SIDES:
                        for place, handler in handlers.items():
                            if place.side == side:
                                self._put(kernel, place, handler)
            except KernelError:
                self._remove(kernel, loaded)
                raise

    def detach(self, loaded: LoadedProbe) -> None:
        """Runs none of a probe's functions from now on; returns when the last one has ended."""
        with self._changes:
            if self._loaded is not None and self._handles_calls(loaded):
                self._remove(self._loaded, loaded)

    def restore(self) -> list[str]:
        """Compares the arrays with what was written, and writes it again where they differ.

        Returns:
            The differences, each as a short text; empty if there is none.
        """
        with self._lock:
            arrays = list(self._loaded.arrays.values()) if self._loaded else []
            for chain in self._chains.values():
                arrays += [handler.following for handler in chain]
            distinct = {id(array): array for array in arrays}.values()
            return [difference for array in distinct for difference in array.restore()]

    def detached(self) -> list[str]:
        """Returns the raw tracepoints from which the dispatcher is detached."""
        with self._lock:
            attachments = self._loaded.attachments if self._loaded else []
            return [event for event, link, held in attachments if not is_attached(link, held)]

    def x32_calls(self) -> int:
        """Returns how many calls of the x32 ABI have been made; no probe handles them."""
        with self._lock:
            if self._loaded is None:
                return self._x32_before
            return self._x32_before + _count_x32(self._loaded)

    def skipped_runs(self) -> int:
        """Counts the calls that reached no probe because the kernel skipped the dispatcher."""
        with self._lock:
            if self._loaded is None:
                return self._skipped_before
            return self._skipped_before + skipped_runs(self._loaded.programs)

    def _handlers(self, loaded: LoadedProbe, calls: Iterable[SystemCall]) -> dict[_Place, _Handler]:
        """Returns a probe's handlers by their place. Raises KernelError."""
        handlers: dict[_Place, _Handler] = {}
        for call in calls:
            slots = slots_of(call.name, self._kernel.machine)
            if not slots:
                log.info("this machine has no such call", probe=loaded.name, call=call.name)
            for side, function in (("enter", call.enter), ("exit", call.exit)):
                for slot in slots if function else ():
                    place = _Place(side, slot)
                    if place in handlers:
                        raise KernelError(f"{call.name} is declared twice")
                    handlers[place] = _Handler(
                        loaded,
                        call.name,
                        loaded.programs[function],
                        loaded.next_maps[f"next_{side}"],
                    )
        return handlers

    def _put(self, kernel: _Kernel, place: _Place, handler: _Handler) -> None:
        """Puts a handler at the beginning of a chain."""
        chain = self._chains.setdefault(place, [])
        if len(chain) == MOST_HANDLERS:
            raise KernelError(f"{handler.call}: {MOST_HANDLERS} probes handle this call already")
        if chain:
            _update(handler.following, place.slot, chain[0].program)
        _update(kernel.arrays[f"first_{place.side}"], place.slot, handler.program)
        handled = kernel.arrays[f"handled_{place.side}"]
        _update(handled, number_of(place.slot, self._kernel.machine), kernel.routes[place.side])
        chain.insert(0, handler)

    def _remove(self, kernel: _Kernel, loaded: LoadedProbe) -> None:
        """Takes a probe out of every chain, and unloads the dispatcher after the last one."""
        with self._lock:
            for side in reversed(_SIDES):
                for place, chain in self._chains.items():
                    if place.side == side:
                        _take_out(kernel.arrays[f"first_{side}"], place.slot, chain, loaded)
            self._forget_unhandled(kernel)
        # A handler that still runs jumps to the next one through the probe's arrays.
        wait_for_programs()
        if self._chains:
            return
        with self._lock:
            self._x32_before += _count_x32(kernel)
            self._skipped_before += skipped_runs(kernel.programs)
            self._loaded = None
        kernel.close()

    def _forget_unhandled(self, kernel: _Kernel) -> None:
        """Removes empty chains, and the numbers that have no handler any more."""
        before = {(each.side, number_of(each.slot, self._kernel.machine)) for each in self._chains}
        self._chains = {place: chain for place, chain in self._chains.items() if chain}
        after = {(each.side, number_of(each.slot, self._kernel.machine)) for each in self._chains}
        for side, number in before - after:
            kernel.arrays[f"handled_{side}"].delete(_word(number))

    def _handles_calls(self, loaded: LoadedProbe) -> bool:
        chains = self._chains.values()
        return any(handler.owner is loaded for chain in chains for handler in chain)

    def _load(self) -> _Kernel:
        """Loads and attaches the dispatcher. Raises KernelError."""
        request = core_program("dispatcher.bpf.c", compat_defines(self._kernel.machine))
        compiled = compile_program(request, self._settings.python, self._settings.cache)
        for warning in compiled.warnings:
            log.warning("the compiler warns about the dispatcher's C", warning=warning)
        with closing(KernelObjects.create(compiled)) as objects:
            for function in (*dict(_POINTS), *_ROUTES.values()):
                objects.load(function, ProgramType.RAW_TRACEPOINT, compiled, function)
            for function, event in _POINTS:
                objects.attach_raw(function, event)
            x32_calls = mmap.mmap(objects.maps["x32_calls"], mmap.PAGESIZE, prot=mmap.PROT_READ)
            arrays = {name: WrittenMap(name, objects.take_map(name)) for name in _ARRAYS}
            loaded = objects.take_programs()
            descriptors = objects.take_attachments()
        programs = [loaded[function] for function, _ in _POINTS]
        routes = {side: loaded[function] for side, function in _ROUTES.items()}
        attachments = [
            (event, link_of(descriptor), descriptor)
            for (_, event), descriptor in zip(_POINTS, descriptors, strict=True)
        ]
        log.info("system calls are dispatched")
        return _Kernel(arrays, programs, routes, attachments, x32_calls)


def _take_out(array: WrittenMap, slot: int, chain: list[_Handler], loaded: LoadedProbe) -> None:
    """Lets the handler before a probe's jump to the one after it."""
    for index, handler in enumerate(chain):
        if handler.owner is loaded:
            following = chain[index + 1 : index + 2]
            if following:
                _update(array, slot, following[0].program)
            else:
                array.delete(_word(slot))
            chain.remove(handler)
            return
        array = handler.following


def _update(array: WrittenMap, slot: int, program: int) -> None:
    """Puts a program into a slot. Raises KernelError."""
    array.update(_word(slot), _word(program), reads_as=_word(program_id(program)))


def _word(number: int) -> bytes:
    return struct.pack("<I", number)


def _count_x32(kernel: _Kernel) -> int:
    count: int = struct.unpack_from("<Q", kernel.x32_calls)[0]
    return count
