"""Filters: which events a probe's programs record, decided in the kernel (bpf/filter.bpf.h) and changed while they run."""

import ctypes
import os
import re
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from attrs import Attribute, evolve, field, fields, frozen

from infrasight_core.errors import ConfigError, KernelError

VALUES, PREFIXES = (
    8192,
    1024,
)  # the most that a probe's filters may name, and paths among them; the maps hold two such banks
NOBODY = 0xFFFFFFFF  # no process has this number
MAPS = ("filter_state", "filter_values", "filter_prefixes")
_EXCLUDE, _INCLUDE = 1, 2
_KINDS = ("pid", "uid", "comm", "cgroup", "path")  # enum filter_kind
_HELP = "write pid=, uid= or cgroup=NUMBER, comm=NAME, path=/PREFIX"
_PATH_BYTES, _COMM_BYTES = 255, 15
_SYSCALL_MEMBARRIER = {"x86_64": 324, "aarch64": 283}

Write = tuple[str, bytes, bytes]  # a map's name, a key, its value


def _numbers(least: int, most: int) -> Any:
    def check(_: object, attribute: "Attribute[Any]", values: Iterable[int]) -> None:
        for value in values:
            if not least <= value <= most:
                raise ValueError(
                    f"'{attribute.name}' {value} is not a number from {least} to {most}"
                )

    return check


def _texts(least: bytes, most: int, what: str) -> Any:
    def check(_: object, attribute: "Attribute[Any]", values: Iterable[str]) -> None:
        for value in values:
            encoded = _bytes(value)
            if (
                not encoded
                or not encoded.startswith(least)
                or len(encoded) > most
                or b"\0" in encoded
            ):
                raise ValueError(
                    f"'{attribute.name}' {value[:100]!r} is not {what} of 1 to {most} bytes"
                )

    return check


_PIDS, _UIDS, _CGROUPS = (
    _numbers(1, (1 << 22) - 1),
    _numbers(0, (1 << 32) - 1),
    _numbers(1, (1 << 64) - 1),
)
_COMMS, _PATHS = (
    _texts(b"", _COMM_BYTES, "a name"),
    _texts(b"/", _PATH_BYTES, "the beginning of an absolute path,"),
)


@frozen
class Filters:
    """Which events are recorded: those that fit every kind of `include` that is not empty, and no `exclude`.

    Attributes:
        include_pid: Processes, by their `pid` in the events.
        include_uid: Users.
        include_comm: Names of threads, whole; the kernel keeps 15 bytes.
        include_cgroup: Control groups, by the events' `cgroup_id`: the inode number of the group's directory in cgroup v2, or,
            where that is not in use, in v1 (the hierarchy of `memory`, as a rule) plus 2^63; not those below.
        include_path: What the event's path begins with, byte by byte: `/etc/` is what lies in that directory. An event whose
            path is missing or cut is recorded, because it is not known to lie elsewhere.
        exclude_pid: And so on.
    """

    include_pid: tuple[int, ...] = field(default=(), validator=_PIDS)
    include_uid: tuple[int, ...] = field(default=(), validator=_UIDS)
    include_comm: tuple[str, ...] = field(default=(), validator=_COMMS)
    include_cgroup: tuple[int, ...] = field(default=(), validator=_CGROUPS)
    include_path: tuple[str, ...] = field(default=(), validator=_PATHS)
    exclude_pid: tuple[int, ...] = field(default=(), validator=_PIDS)
    exclude_uid: tuple[int, ...] = field(default=(), validator=_UIDS)
    exclude_comm: tuple[str, ...] = field(default=(), validator=_COMMS)
    exclude_cgroup: tuple[int, ...] = field(default=(), validator=_CGROUPS)
    exclude_path: tuple[str, ...] = field(default=(), validator=_PATHS)

    def __attrs_post_init__(self) -> None:
        paths, values = len(self._fits("path")), sum(len(self._fits(kind)) for kind in _KINDS[:-1])
        if paths > PREFIXES or values > VALUES:
            raise ValueError(
                f"{paths} paths and {values} other values: at most {PREFIXES} and {VALUES}"
            )

    @classmethod
    def parse(cls, include: Iterable[str], exclude: Iterable[str]) -> "Filters":
        """Reads `kind=value` of a command's options. Raises ConfigError, which says what is allowed."""
        filters = cls()
        for which, texts in (("include", include), ("exclude", exclude)):
            for text in texts:
                kind, _, value = text.partition("=")
                if kind not in _KINDS or not value:
                    raise ConfigError(f"--{which} {text[:100]!r}: {_HELP}")
                name = f"{which}_{kind}"
                if kind not in ("comm", "path") and not re.fullmatch("[0-9]{1,20}", value):
                    raise ConfigError(f"--{which} {text[:100]!r}: not a number; {_HELP}")
                try:
                    item = value if kind in ("comm", "path") else int(value)
                    filters = evolve(filters, **{name: (*getattr(filters, name), item)})
                except ValueError as error:
                    said = str(error).removeprefix(f"'{name}' ")
                    raise ConfigError(f"--{which} {text[:100]!r}: {said}; {_HELP}") from None
        return filters

    @property
    def has_paths(self) -> bool:
        """Whether there is a filter by path."""
        return bool(self.include_path or self.exclude_path)

    def merged(self, stronger: "Filters") -> "Filters":
        """These, key by key replaced by what `stronger` sets."""
        names = [attribute.name for attribute in fields(Filters)]
        return Filters(**{name: getattr(stronger, name) or getattr(self, name) for name in names})

    def state(self, bank: int, ours: int) -> bytes:
        """The word that brings a bank into force.

        Args:
            bank: 0 or 1.
            ours: The agent's process, as the kernel numbers it; NOBODY to record the agent's own work too.
        """
        word = ours << 32 | bank << 16
        for number, kind in enumerate(_KINDS):
            word |= (
                _EXCLUDE * bool(self._of("exclude", kind))
                | _INCLUDE * bool(self._of("include", kind))
            ) << 2 * number
        return struct.pack("<Q", word)

    def writes(self, bank: int) -> Iterator[Write]:
        """What a bank holds."""
        for number, kind in enumerate(_KINDS[:-1]):
            for value, fits in self._fits(kind).items():
                words = (
                    value.ljust(16, b"\0")
                    if isinstance(value, bytes)
                    else struct.pack("<QQ", value, 0)
                )
                yield (
                    "filter_values",
                    struct.pack("<Q", bank << 8 | number) + words,
                    struct.pack("<Q", fits),
                )
        prefixes = self._fits("path")
        for prefix in prefixes:
            fits = 0  # the kernel finds the longest prefix alone, so that it tells of all the shorter ones too
            for shorter, what in prefixes.items():
                fits |= what if prefix.startswith(shorter) else 0
            key = struct.pack("<IB", 8 + 8 * len(prefix), bank) + prefix.ljust(_PATH_BYTES, b"\0")
            yield "filter_prefixes", key, struct.pack("<Q", fits)

    def _of(self, which: str, kind: str) -> Sequence[Any]:
        values: Sequence[Any] = getattr(self, f"{which}_{kind}")
        return values

    def _fits(self, kind: str) -> dict[Any, int]:
        """What each value of a kind is for."""
        found: dict[Any, int] = {}
        for which, bit in (("exclude", _EXCLUDE), ("include", _INCLUDE)):
            for value in self._of(which, kind):
                key = _bytes(value) if isinstance(value, str) else value
                found[key] = found.get(key, 0) | bit
        return found


EVERYTHING = Filters()


class FilterMaps:
    """A running probe's filters in the kernel.

    Args:
        descriptors: Of `MAPS`, in that order; taken over.
        ours: The agent's process, as the kernel numbers it, or NOBODY.
        filters: What the loader has written into bank 0 and brought into force.
    """

    def __init__(self, descriptors: Sequence[int], ours: int, filters: Filters) -> None:
        self._maps = dict(zip(MAPS, descriptors, strict=True))
        self._ours, self._bank = ours, 0
        self._keys: list[list[Write]] = [list(filters.writes(0)), []]
        self._lib = ctypes.CDLL("libbpf.so.1", use_errno=True)
        self.filters = filters

    def apply(self, filters: Filters) -> None:
        """Changes the filters while programs run; every event is judged wholly by the old ones or wholly by the new.

        The bank that is not in force is emptied and filled, and only then is the state written, which is one aligned store of
        eight bytes, so that no program sees half of a change. Before the bank is emptied, a barrier waits for the programs that
        may have seen it in force before the last change. If anything fails, the old filters stay in force.

        Raises:
            KernelError: The kernel refused; the old filters are in force.
        """
        bank = 1 - self._bank
        self._wait_for_programs()
        for name, key, _ in self._keys[bank]:
            self._lib.bpf_map_delete_elem(self._maps[name], key)
        self._keys[bank] = list(filters.writes(bank))
        for name, key, value in self._keys[bank]:
            self._update(name, key, value)
        self._update("filter_state", bytes(4), filters.state(bank, self._ours))
        self._bank, self.filters = bank, filters

    def close(self) -> None:
        """Lets the maps go."""
        while self._maps:
            os.close(self._maps.popitem()[1])

    def _update(self, name: str, key: bytes, value: bytes) -> None:
        if self._lib.bpf_map_update_elem(self._maps[name], key, value, ctypes.c_ulonglong(0)):
            raise KernelError(
                f"filters: {name} cannot be written: {os.strerror(ctypes.get_errno())}"
            )

    def _wait_for_programs(self) -> None:
        """Until every program that runs now has ended: MEMBARRIER_CMD_GLOBAL waits for a grace period of RCU."""
        number = _SYSCALL_MEMBARRIER.get(os.uname().machine)
        if number is None or ctypes.CDLL(None).syscall(number, 1, 0, 0):
            time.sleep(
                0.1
            )  # a kernel with nohz_full has no such barrier; a program runs for microseconds


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
