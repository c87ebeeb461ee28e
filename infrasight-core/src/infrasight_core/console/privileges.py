"""Restricts a process to the capabilities and system calls that it needs.

Capabilities belong to threads, and a new thread has those of its creator. The commands therefore
restrict themselves before they import anything that starts threads: NumPy, pyarrow, gRPC, plugins.
"""

import ctypes
import grp
import os
import struct
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

import structlog
from attrs import AttrsInstance, evolve, fields, frozen, has

from infrasight_core.console.seccomp import deny_calls
from infrasight_core.errors import KernelError

log = structlog.get_logger(__name__)
# In the order of their numbers, see capabilities(7).
CAPABILITIES = (
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
)
GROUP = "infrasight"
"""The group whose members may connect to a server's Unix socket."""
_READ = 4  # the bits of a mode, for its owner, its group or others
_WRITE = 2
_SEARCH = 1
_LAST_PRIVILEGED_PORT = 1023
_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_HEADER = struct.pack("<Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this thread
_SETS = struct.Struct("<6I")  # effective, permitted, inheritable: the low words, then the high ones


@frozen
class Restriction:
    """What a process has left of its privileges.

    Attributes:
        capabilities: The capabilities that remain, and why each is needed.
        dropped: How many capabilities it has dropped.
        denied_calls: How many system calls are denied.
        problems: What could not be restricted.
    """

    capabilities: Mapping[str, str]
    dropped: int
    denied_calls: int
    problems: tuple[str, ...] = ()

    def deny_more(self, calls: Collection[str]) -> "Restriction":
        """Denies further system calls to all threads, unless none could be denied before.

        Raises:
            KernelError: The kernel does not permit it.
        """
        if not self.denied_calls:
            return self
        deny_calls(calls)
        return evolve(self, denied_calls=self.denied_calls + len(calls))

    def log(self) -> None:
        """Logs it; called once the start has succeeded, because one that fails is one line."""
        for problem in self.problems:
            log.warning("privileges are not fully restricted", reason=problem)
        log.info(
            "privileges restricted",
            capabilities=dict(self.capabilities),
            dropped_capabilities=self.dropped,
            denied_system_calls=self.denied_calls,
        )


def restrict(
    keep: Mapping[str, str], denied_calls: Collection[str], ending_threads: int = 0
) -> Restriction:
    """Drops every capability that is not needed, and denies system calls.

    Child processes are restricted, too, and no program that they execute can gain privileges.

    Args:
        keep: The capabilities to keep if the process has them, and why each is needed.
        denied_calls: The names of the system calls to deny; see `seccomp`.
        ending_threads: How many other threads may keep their capabilities, because they end soon.
    """
    problems = []
    forbid_new_privileges()
    dropped = drop_capabilities(keep)
    denied = len(denied_calls)
    try:
        deny_calls(denied_calls)
    except KernelError as error:
        denied = 0
        problems.append(str(error))
    others = len(list(Path("/proc/self/task").iterdir())) - 1 - ending_threads
    if others > 0:
        problems.append(f"{others} threads were started earlier and keep their capabilities")
    permitted = permitted_capabilities()
    remaining = {name: reason for name, reason in keep.items() if name in permitted}
    return Restriction(remaining, len(dropped), denied, tuple(problems))


def forbid_new_privileges() -> None:
    """Lets no program that this thread executes gain privileges; seccomp filters require it."""
    ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def drop_capabilities(keep: Collection[str]) -> list[str]:
    """Drops capabilities from all sets of this thread; returns those that it had before.

    Raises:
        KernelError: The kernel does not permit it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    before = permitted_capabilities()
    for number in range(_last_capability() + 1):
        if _name(number) not in keep and libc.prctl(_PR_CAPBSET_READ, number, 0, 0, 0) == 1:
            # Without CAP_SETPCAP it fails; then the permitted set bounds the process, because no
            # program that it executes gains privileges.
            libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)
    mask = sum(1 << CAPABILITIES.index(name) for name in keep)
    sets = ctypes.create_string_buffer(_SETS.size)
    if libc.capget(ctypes.create_string_buffer(_HEADER), sets):
        raise KernelError(f"capget: {os.strerror(ctypes.get_errno())}")
    words = list(_SETS.unpack(sets.raw))
    retained = [word & mask for word in words[:3]] + [word & mask >> 32 for word in words[3:]]
    if libc.capset(ctypes.create_string_buffer(_HEADER), _SETS.pack(*retained)):
        raise KernelError(f"capset: {os.strerror(ctypes.get_errno())}")
    return [name for name in before if name not in keep]


def permitted_capabilities() -> list[str]:
    """Returns the names of the capabilities that this thread has, such as `BPF`."""
    status = Path("/proc/thread-self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("CapPrm:"))
    mask = int(line.split()[1], 16)
    return [_name(number) for number in range(mask.bit_length()) if mask >> number & 1]


def for_port(port: int) -> dict[str, str]:
    """Returns the capability to listen on a port, if it needs one."""
    if 0 < port <= _LAST_PRIVILEGED_PORT:
        return {"NET_BIND_SERVICE": f"listens on port {port}"}
    return {}


def for_reading(paths: Iterable[Path]) -> dict[str, str]:
    """Returns the capability to read files and folders, if one of them needs it."""
    for path in paths:
        if not _permits(path, _READ):
            return {"DAC_READ_SEARCH": f"reads {path}, which another user owns"}
    return {}


def paths_of(settings: AttrsInstance) -> Iterator[Path]:
    """Yields every path in settings, also in their tables."""
    for attribute in fields(type(settings)):
        value = getattr(settings, attribute.name)
        if isinstance(value, Path):
            yield value
        elif has(type(value)):
            yield from paths_of(value)


def program_paths() -> Iterator[Path]:
    """Yields the folders that this process imports modules from, now and later."""
    yield from (Path(entry) for entry in (sys.prefix, *sys.path) if entry)


def for_sockets(paths: Iterable[Path]) -> dict[str, str]:
    """Returns the capability to connect to Unix sockets, if one of them may need it."""
    for path in paths:
        if not _permits(path, _WRITE) or not path.exists():
            return {"DAC_OVERRIDE": f"connects to {path}, which another user may own"}
    return {}


def for_writing(folder: Path) -> dict[str, str]:
    """Returns the capability to write to a folder, if it exists and needs it."""
    if _permits(folder, _WRITE):
        return {}
    return {"DAC_OVERRIDE": f"writes to {folder}, which another user owns"}


def join_group(name: str = GROUP) -> None:
    """Joins a group, where it exists and the process has the right to join it.

    A member needs no capability to connect to a server's socket, or to give it to the group.
    """
    try:
        group = grp.getgrnam(name).gr_gid
    except KeyError:
        return
    if "SETGID" in permitted_capabilities() and group not in os.getgroups():
        os.setgroups([*os.getgroups(), group])


def _permits(path: Path, access: int) -> bool:
    """Returns whether the process may use an existing path without a capability."""
    try:
        resolved = path.resolve()
        if not resolved.exists():
            return True
        needed = [(folder, _SEARCH) for folder in resolved.parents] + [(resolved, access)]
        return all(_mode_permits(part.stat(), bit) for part, bit in needed)
    except PermissionError:  # this user may not even see it
        return False


def _mode_permits(status: os.stat_result, bit: int) -> bool:
    """Returns whether the mode of a file or folder permits one kind of access."""
    if status.st_uid == os.geteuid():
        bit <<= 6
    elif status.st_gid in {os.getegid(), *os.getgroups()}:
        bit <<= 3
    return bool(status.st_mode & bit)


def _last_capability() -> int:
    return int(Path("/proc/sys/kernel/cap_last_cap").read_text())


def _name(number: int) -> str:
    return CAPABILITIES[number] if number < len(CAPABILITIES) else f"CAPABILITY_{number}"
