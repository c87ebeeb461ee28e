"""Filters: decide in the kernel which events a probe records, and change while programs run.

`FilterMaps` writes them to the maps that bpf/filter.bpf.h reads.
"""

import re
import struct
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from attrs import Attribute, evolve, field, fields, frozen

from infrasight_core.errors import ConfigError, KernelError
from infrasight_core.kernel.grace_period import wait_for_programs
from infrasight_core.kernel.store_files import FURTHER_FILES, StoreFiles
from infrasight_core.kernel.written_map import WrittenMap

# The most values and paths that a probe's filters may name. The maps hold two such banks.
VALUES = 8192
PREFIXES = 1024
NOBODY = 0xFFFFFFFF  # stands for "no agent": no process has this number
CANARY_THREAD = b"infra-canary"  # the name of the thread whose events pass every filter
MAPS = ("filter_state", "filter_values", "filter_prefixes")
_EXCLUDE = 1
_INCLUDE = 2
_KINDS = ("pid", "uid", "comm", "cgroup", "path")  # enum filter_kind
_TEXT_KINDS = ("comm", "path")
_HELP = "write pid=, uid= or cgroup=NUMBER, comm=NAME, path=/PREFIX"
_PATH_BYTES = 255
_STATE_KEY = struct.pack("<I", 0)
_STORE_KEY = struct.pack("<I", 1)  # STORE_INDEX
_STORE_BANK = 2
_NO_STORE = bytes(8)
_COMM_BYTES = 15

Write = tuple[str, bytes, bytes]  # a map's name, a key, its value


def _numbers(least: int, most: int) -> Any:
    """A validator of lists of numbers."""

    def check(_: object, attribute: "Attribute[Any]", values: Iterable[int]) -> None:
        for value in values:
            if not least <= value <= most:
                raise ValueError(
                    f"'{attribute.name}' {value} is not a number from {least} to {most}"
                )

    return check


def _texts(prefix: bytes, most: int, meaning: str) -> Any:
    """A validator of lists of texts, by their bytes."""

    def check(_: object, attribute: "Attribute[Any]", values: Iterable[str]) -> None:
        for value in values:
            try:
                text = _bytes(value)
            except UnicodeEncodeError:  # JSON can hold half of a character
                text = b""
            is_valid = 0 < len(text) <= most and text.startswith(prefix) and b"\0" not in text
            if not is_valid:
                raise ValueError(
                    f"'{attribute.name}' {value[:100]!r} is not {meaning} of 1 to {most} bytes"
                )

    return check


_PIDS = _numbers(1, (1 << 22) - 1)
_UIDS = _numbers(0, (1 << 32) - 1)
_CGROUPS = _numbers(1, (1 << 64) - 1)
_COMMS = _texts(b"", _COMM_BYTES, "a name")
_PATHS = _texts(b"/", _PATH_BYTES, "the beginning of an absolute path,")


@frozen
class Filters:
    """Which events are recorded: those that match every `include` that is set and no `exclude`.

    Attributes:
        include_pid: Processes, by the `pid` of their events.
        include_uid: Users.
        include_comm: Whole names of threads; the kernel keeps 15 bytes of a name.
        include_cgroup: Control groups, by the `cgroup_id` of their events: the inode number of the
            group's directory in cgroup v2, or, where v2 is not in use, that in v1 (usually in the
            hierarchy of `memory`) plus 2^63. Groups below it do not match.
        include_path: The first bytes of the event's path: `/etc/` matches everything in that
            directory. An event whose path is missing or truncated is recorded, because its path
            might match.
        exclude_pid: Processes whose events are not recorded.
        exclude_uid: Users whose events are not recorded.
        exclude_comm: Names of threads whose events are not recorded.
        exclude_cgroup: Control groups whose events are not recorded.
        exclude_path: First bytes of paths whose events are not recorded.
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
        paths = len(self._bits("path"))
        values = sum(len(self._bits(kind)) for kind in _KINDS if kind != "path")
        if paths > PREFIXES or values > VALUES:
            raise ValueError(
                f"{paths} paths and {values} other values: at most {PREFIXES} and {VALUES}"
            )

    @classmethod
    def parse(cls, include: Iterable[str], exclude: Iterable[str]) -> "Filters":
        """Reads the `kind=value` texts of a command's options.

        Raises:
            ConfigError: A text is not valid; the error says what is allowed.
        """
        filters = cls()
        for option, texts in (("include", include), ("exclude", exclude)):
            for text in texts:
                filters = filters._with_option(option, text)
        return filters

    def _with_option(self, option: str, text: str) -> "Filters":
        kind, _, value = text.partition("=")
        where = f"--{option} {text[:100]!r}"
        if kind not in _KINDS or not value:
            raise ConfigError(f"{where}: {_HELP}")
        if kind not in _TEXT_KINDS and not re.fullmatch("[0-9]{1,20}", value):
            raise ConfigError(f"{where}: not a number; {_HELP}")
        name = f"{option}_{kind}"
        item = value if kind in _TEXT_KINDS else int(value)
        try:
            return evolve(self, **{name: (*getattr(self, name), item)})
        except ValueError as error:
            reason = str(error).removeprefix(f"'{name}' ")
            raise ConfigError(f"{where}: {reason}; {_HELP}") from None

    @property
    def has_paths(self) -> bool:
        """Whether there is a filter by path."""
        return bool(self.include_path or self.exclude_path)

    def merged(self, stronger: "Filters") -> "Filters":
        """Returns these filters with every list replaced that `stronger` sets."""
        names = [attribute.name for attribute in fields(Filters)]
        return Filters(**{name: getattr(stronger, name) or getattr(self, name) for name in names})

    def state(self, bank: int, agent_process: int) -> bytes:
        """Returns the word that activates a bank.

        Args:
            bank: 0 or 1.
            agent_process: The agent's process, as the kernel numbers it; NOBODY to record the
                agent's own work, too.
        """
        word = agent_process << 32 | bank << 16
        for number, kind in enumerate(_KINDS):
            if self._values("exclude", kind):
                word |= _EXCLUDE << 2 * number
            if self._values("include", kind):
                word |= _INCLUDE << 2 * number
        return struct.pack("<Q", word)

    def writes(self, bank: int) -> Iterator[Write]:
        """Yields the entries of a bank."""
        for number, kind in enumerate(_KINDS):
            if kind == "path":
                continue
            for value, bits in self._bits(kind).items():
                is_text = isinstance(value, bytes)
                words = value.ljust(16, b"\0") if is_text else struct.pack("<QQ", value, 0)
                key = struct.pack("<Q", bank << 8 | number) + words
                yield "filter_values", key, struct.pack("<Q", bits)
        prefixes = self._bits("path")
        for prefix in prefixes:
            # The kernel finds the longest prefix alone, so its value covers the shorter ones too.
            bits = 0
            for shorter, shorter_bits in prefixes.items():
                if prefix.startswith(shorter):
                    bits |= shorter_bits
            yield "filter_prefixes", _prefix_key(bank, prefix), struct.pack("<Q", bits)

    def _values(self, option: str, kind: str) -> Sequence[Any]:
        values: Sequence[Any] = getattr(self, f"{option}_{kind}")
        return values

    def _bits(self, kind: str) -> dict[Any, int]:
        """Maps each value of a kind to the filters that name it."""
        bits: dict[Any, int] = {}
        for option, bit in (("exclude", _EXCLUDE), ("include", _INCLUDE)):
            for value in self._values(option, kind):
                key = _bytes(value) if isinstance(value, str) else value
                bits[key] = bits.get(key, 0) | bit
        return bits


EVERYTHING = Filters()


def canary_defines() -> dict[str, int]:
    """Returns the macros that tell a program the name of the canary's thread."""
    first, second = struct.unpack("<QQ", CANARY_THREAD.ljust(16, b"\0"))
    return {"CANARY_NAME_FIRST": first, "CANARY_NAME_SECOND": second}


class FilterMaps:
    """The filters of a probe or tracker in the kernel, active from the beginning.

    Args:
        descriptors: The descriptors of `MAPS`, in that order, all empty; closed with this object.
        agent_process: The agent's process, as the kernel numbers it, or NOBODY.
        filters: The filters.

    Raises:
        KernelError: The maps cannot be written; they are closed.
    """

    def __init__(self, descriptors: Sequence[int], agent_process: int, filters: Filters) -> None:
        self._agent_process = agent_process
        self._bank = 0
        self._entries: list[list[Write]] = [list(filters.writes(0)), []]  # of each bank
        self._maps = {
            name: WrittenMap(name, descriptor)
            for name, descriptor in zip(MAPS, descriptors, strict=True)
        }
        self._lock = threading.Lock()  # held while the maps are written or compared
        self._store: StoreFiles | None = None
        self.filters = filters
        try:
            for name, key, value in self._entries[0]:
                self._maps[name].update(key, value)
            self._maps["filter_state"].update(_STORE_KEY, _NO_STORE)
            self._maps["filter_state"].update(_STATE_KEY, filters.state(0, agent_process))
        except KernelError:
            self.close()
            raise

    def apply(self, filters: Filters) -> None:
        """Changes the filters while programs run; either the old or the new decide an event.

        The inactive bank is emptied and filled, and then the state is written, which is one aligned
        store of eight bytes, so that no program sees half of a change. Before the bank is emptied,
        a barrier waits for programs that may still use it from before the last change.

        Raises:
            KernelError: The kernel does not permit it; the old filters stay active.
        """
        with self._lock:
            bank = 1 - self._bank
            wait_for_programs()
            for name, key, _ in self._entries[bank]:
                self._maps[name].delete(key)
            self._entries[bank] = list(filters.writes(bank))
            for name, key, value in self._entries[bank]:
                self._maps[name].update(key, value)
            state = filters.state(bank, self._agent_process)
            self._maps["filter_state"].update(_STATE_KEY, state)
            self._bank = bank
            self.filters = filters

    def exclude_store(self, store: StoreFiles | None) -> None:
        """Excludes the work of an embedded store on its own files, in place of another's.

        Raises:
            KernelError: The kernel does not permit it.
        """
        with self._lock:
            if store == self._store:
                return
            self._maps["filter_state"].update(_STORE_KEY, _NO_STORE)
            if self._store is not None:
                for key in _store_prefixes(self._store):
                    self._maps["filter_prefixes"].delete(key)
                self._store = None
            if store is not None:
                for key in _store_prefixes(store):
                    self._maps["filter_prefixes"].update(key, bytes(8))
                self._maps["filter_state"].update(_STORE_KEY, struct.pack("<Q", store.pid))
                self._store = store

    def restore(self) -> list[str]:
        """Compares the maps with what was written to them, and writes it again where they differ.

        Returns:
            The differences, each as a short text; empty if there is none.
        """
        with self._lock:
            return [text for each in self._maps.values() for text in each.restore()]

    def close(self) -> None:
        """Releases the maps."""
        with self._lock:
            while self._maps:
                self._maps.popitem()[1].close()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _prefix_key(bank: int, prefix: bytes) -> bytes:
    """A key of `filter_prefixes`."""
    return struct.pack("<IB", 8 + 8 * len(prefix), bank) + prefix.ljust(_PATH_BYTES, b"\0")


def _store_prefixes(store: StoreFiles) -> Iterator[bytes]:
    """Yields the keys of the store's files."""
    for prefix in (store.folder + b"/", *FURTHER_FILES):
        yield _prefix_key(_STORE_BANK, prefix)
