"""Finds out which probe a BPF program of InfraSight belongs to, and which process holds it.

The kernel knows neither. But the programs of one probe share maps, one of which has the probe's
filters, and their functions are those that an installed plugin attaches.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from attrs import frozen

from infrasight_core.errors import PluginError
from infrasight_core.kernel.attach_points import function_names
from infrasight_core.kernel.loader import running_kernel
from infrasight_core.kernel.program_list import (
    MapInfo,
    ProgramInfo,
    list_programs,
    map_info,
)
from infrasight_core.plugin.manager import PluginManager

SHARED = "(shared)"
UNKNOWN = "(unknown)"
_PROBE_MAP = "filter_state"  # every probe and tracker has its own
_KERNEL_NAME_BYTES = 15
_PROGRAM_LINKS = ("anon_inode:bpf-prog", "anon_inode:bpf_link")


@frozen
class Owner:
    """Whom a program belongs to.

    Attributes:
        plugin: The probe or tracker; `SHARED` for a program that serves several, `UNKNOWN` for one
            whose plugin is not installed here; empty for a program that is not InfraSight's.
        function: Its function; the kernel cuts names at 15 bytes.
        pid: The process that holds it, 0 if none was found.
    """

    plugin: str
    function: str
    pid: int = 0


class ProgramOwners:
    """Knows the owners of programs; asks again only when programs come or go."""

    def __init__(self) -> None:
        self._functions = _functions_of_plugins()
        self._maps: dict[int, MapInfo | None] = {}
        self._numbers: frozenset[int] = frozenset()
        self._owners: dict[int, Owner] = {}

    def of(self, programs: Sequence[ProgramInfo]) -> Mapping[int, Owner]:
        """Returns the owner of each program, by the program's number.

        Raises:
            KernelError: This process may not ask for maps.
        """
        numbers = frozenset(program.number for program in programs)
        if numbers != self._numbers:
            self._owners = self._find(programs)
            self._numbers = numbers
        return self._owners

    def _find(self, programs: Sequence[ProgramInfo]) -> dict[int, Owner]:
        holders = program_holders()
        groups = self._groups(programs)
        plugins = {
            group: self._plugin_of([each.name for each in programs if groups[each.number] == group])
            for group in set(groups.values()) - {None}
        }
        ours = {pid for number, group in groups.items() if group for pid in holders.get(number, ())}
        owners = {}
        for program in programs:
            held_by = holders.get(program.number, set())
            group = groups[program.number]
            plugin = SHARED if held_by & ours else ""
            if group is not None:
                plugin = plugins[group]
            function = self._full_name(plugin, program.name)
            owners[program.number] = Owner(plugin, function, min(held_by, default=0))
        return owners

    def _groups(self, programs: Sequence[ProgramInfo]) -> dict[int, int | None]:
        """Returns the map of filters of the probe to which each program belongs, or None.

        A program that does not use that map itself belongs to the probe with which it shares
        another one.
        """
        private = {program.number: self._private_maps(program) for program in programs}
        groups = {number: self._probe_map(maps) for number, maps in private.items()}
        has_changed = True
        while has_changed:
            has_changed = False
            users = defaultdict(set)
            for number, group in groups.items():
                for used in private[number]:
                    if group is not None:
                        users[used].add(group)
            for number, group in groups.items():
                sharing = {other for used in private[number] for other in users[used]}
                if group is None and len(sharing) == 1:
                    (groups[number],) = sharing
                    has_changed = True
        return groups

    def _private_maps(self, program: ProgramInfo) -> list[MapInfo]:
        """Returns the maps of a program that are no tables of programs, which probes may share."""
        maps = [self._map(number) for number in program.maps]
        return [each for each in maps if each is not None and not each.is_program_array]

    def _map(self, number: int) -> MapInfo | None:
        if number not in self._maps:
            self._maps[number] = map_info(number)
        return self._maps[number]

    def _probe_map(self, maps: Iterable[MapInfo]) -> int | None:
        numbers = [each.number for each in maps if each.name == _PROBE_MAP]
        return numbers[0] if len(numbers) == 1 else None

    def _plugin_of(self, names: Iterable[str]) -> str:
        """Returns the plugin with the most functions of these names."""
        matches: Counter[str] = Counter()
        for name in names:
            for plugin, functions in self._functions.items():
                cut = tuple(function[:_KERNEL_NAME_BYTES] for function in functions)
                matches[plugin] += name.startswith(cut)
        ((plugin, count),) = matches.most_common(1) or ((UNKNOWN, 0),)
        return plugin if count else UNKNOWN

    def _full_name(self, plugin: str, name: str) -> str:
        """Returns the plugin's function whose name a program's name begins with."""
        functions = self._functions.get(plugin, ())
        begun = {f for f in functions if name.startswith(f[:_KERNEL_NAME_BYTES])}
        longest = max((len(f[:_KERNEL_NAME_BYTES]) for f in begun), default=0)
        full = [f for f in begun if len(f[:_KERNEL_NAME_BYTES]) == longest]
        return full[0] if len(full) == 1 else name


def recording_processes() -> dict[int, set[str]]:
    """Returns the processes that record with InfraSight, each with its probes and trackers.

    Raises:
        KernelError: This process may not ask.
    """
    plugins = defaultdict(set)
    for owner in ProgramOwners().of(list_programs()).values():
        if owner.pid and owner.plugin:
            plugins[owner.pid].add(owner.plugin)
    return plugins


def program_holders() -> dict[int, set[int]]:
    """Returns the processes that hold a descriptor of a program, by the program's number.

    Processes that this one may not inspect are left out.
    """
    holders = defaultdict(set)
    for process in Path("/proc").glob("[0-9]*"):
        for number in _held_programs(process):
            holders[number].add(int(process.name))
    return holders


def _held_programs(process: Path) -> set[int]:
    held = set()
    with suppress(OSError):  # it has ended, or belongs to another user
        for descriptor in (process / "fd").iterdir():
            with suppress(FileNotFoundError):  # the process has closed it
                if str(descriptor.readlink()) in _PROGRAM_LINKS:
                    text = (process / "fdinfo" / descriptor.name).read_text()
                    held.add(_program_number(text))
    return held


def _program_number(fdinfo: str) -> int:
    numbers = [line.split()[1] for line in fdinfo.splitlines() if line.startswith("prog_id:")]
    return int(numbers[0]) if numbers else 0


def _functions_of_plugins() -> dict[str, tuple[str, ...]]:
    """Returns the functions that each installed probe and tracker attaches."""
    plugins = PluginManager.discover()
    functions = {}
    for name in (*plugins.probes(), *plugins.trackers()):
        try:
            program = plugins.load_bpf(name, running_kernel(), {})
        except PluginError:  # `infrasight probes` reports it
            continue
        functions[name] = function_names(program)
    return functions
