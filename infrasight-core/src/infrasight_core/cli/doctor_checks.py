"""What a machine needs to record events, one check each. Nothing here changes anything; `root` stands before every path."""

import ctypes
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

from attrs import frozen

Status = Literal["ok", "warn", "fail"]
_OLDEST = (5, 15)
_CAPABILITIES = {21: "CAP_SYS_ADMIN", 38: "CAP_PERFMON", 39: "CAP_BPF"}
_TRACEFS = ("sys/kernel/tracing", "sys/kernel/debug/tracing")
_BCC = "import bcc; print(getattr(bcc, '__version__', '?') if hasattr(bcc, 'BPF') else 'another bcc: ' + str(bcc.__file__))"
_BCC_REMEDY = (
    "apt-get install python3-bpfcc, and let INFRASIGHT_LOADER_PYTHON (or `loader_python`) be the system's Python; "
    "PyPI's package `bcc` is an unrelated one"
)


@frozen
class Check:
    """What one check found.

    Attributes:
        name: What was looked at.
        status: `ok`; `warn`, where something works less well; `fail`, where no event can be recorded.
        found: What is there.
        remedy: What to do; empty when ok.
    """

    name: str
    status: Status
    found: str
    remedy: str = ""


def kernel(release: str) -> Check:
    """The kernel's version, `uname -r`."""
    try:
        version = tuple(int(part) for part in release.split("-")[0].split(".")[:2])
    except ValueError:
        return Check(
            "kernel", "warn", release, "its version cannot be read; Linux 5.15 or newer is needed"
        )
    if version < _OLDEST:
        return Check(
            "kernel",
            "fail",
            release,
            "Linux 5.15 or newer is needed: install a newer kernel and reboot",
        )
    return Check("kernel", "ok", release)


def architecture(machine: str) -> Check:
    """The machine, `uname -m`."""
    if machine == "x86_64":
        return Check("architecture", "ok", machine)
    if machine == "aarch64":
        return Check(
            "architecture", "warn", machine, "not tested there yet; please report what you see"
        )
    return Check("architecture", "fail", machine, "x86_64 is needed")


def btf(root: Path) -> Check:
    """The kernel's own type information, from which struct offsets come."""
    path = root / "sys/kernel/btf/vmlinux"
    try:
        with path.open("rb") as file:
            magic = file.read(2)
    except FileNotFoundError:
        return Check(
            "BTF", "fail", f"no {path}", "a kernel built with CONFIG_DEBUG_INFO_BTF=y is needed"
        )
    except OSError as error:
        return Check(
            "BTF", "fail", f"{path}: {error.strerror}", "run as root, or make the file readable"
        )
    if magic not in (b"\x9f\xeb", b"\xeb\x9f"):
        return Check(
            "BTF",
            "fail",
            f"{path} is not BTF",
            "a kernel built with CONFIG_DEBUG_INFO_BTF=y is needed",
        )
    return Check("BTF", "ok", str(path))


def tracefs(root: Path) -> Check:
    """Where tracepoints are found."""
    mounted = _mounted(root, "tracefs")
    found = [root / place for place in _TRACEFS if f"/{place}" in mounted]
    if not found:
        return Check(
            "tracefs", "fail", "not mounted", "mount -t tracefs tracefs /sys/kernel/tracing"
        )
    try:
        next((found[0] / "events").iterdir(), None)
    except OSError as error:
        return Check(
            "tracefs",
            "fail",
            f"{found[0]}: {error.strerror}",
            "run as root (or with CAP_DAC_READ_SEARCH)",
        )
    return Check("tracefs", "ok", str(found[0]))


def bpffs(root: Path) -> Check:
    """Where programs and maps can be pinned."""
    if "/sys/fs/bpf" in _mounted(root, "bpf"):
        return Check("bpffs", "ok", "/sys/fs/bpf")
    return Check(
        "bpffs",
        "warn",
        "not mounted at /sys/fs/bpf",
        "needed only for pinning: mount -t bpf bpf /sys/fs/bpf",
    )


def capabilities(root: Path) -> Check:
    """What this process may do: CAP_BPF with CAP_PERFMON, or CAP_SYS_ADMIN."""
    status = (root / "proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    effective = int(line.split()[1], 16)
    held = {name for bit, name in _CAPABILITIES.items() if effective >> bit & 1}
    if "CAP_SYS_ADMIN" in held or {"CAP_BPF", "CAP_PERFMON"} <= held:
        return Check("capabilities", "ok", ", ".join(sorted(held)))
    missing = ", ".join(name for name in ("CAP_BPF", "CAP_PERFMON") if name not in held)
    found = f"without {missing}"
    return Check(
        "capabilities",
        "fail",
        found,
        "run as root (sudo), or give CAP_BPF and CAP_PERFMON to the agent's service",
    )


def lockdown(root: Path) -> Check:
    """Whether the kernel is locked down so far that BPF may not read its memory."""
    try:
        text = (root / "sys/kernel/security/lockdown").read_text()
    except OSError:
        return Check("lockdown", "ok", "not told (securityfs is not mounted)")
    mode = text.partition("[")[2].partition("]")[0]
    if mode == "confidentiality":
        return Check(
            "lockdown",
            "fail",
            mode,
            "boot without lockdown=confidentiality: with it BPF may not read kernel memory",
        )
    return Check("lockdown", "ok", mode)


def unprivileged(root: Path) -> Check:
    """Whether everyone may load BPF programs, which widens what an attacker can reach."""
    try:
        allowed = (root / "proc/sys/kernel/unprivileged_bpf_disabled").read_text().strip() == "0"
    except OSError:
        return Check("unprivileged BPF", "ok", "not told")
    if allowed:
        return Check(
            "unprivileged BPF",
            "warn",
            "everyone may load programs",
            "sysctl kernel.unprivileged_bpf_disabled=1",
        )
    return Check("unprivileged BPF", "ok", "off")


def bcc(python: Path) -> Check:
    """Whether the Python that is to compile and load the probes has bcc."""
    try:
        done = subprocess.run(
            [python, "-E", "-s", "-c", _BCC],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check("bcc", "fail", f"{python} cannot be run: {error}", _BCC_REMEDY)
    said = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines() or [
        "nothing"
    ]
    if done.returncode != 0 or said[-1].startswith("another"):
        return Check("bcc", "fail", f"{python}: {said[-1]}", _BCC_REMEDY)
    return Check("bcc", "ok", f"{python}: bcc {said[-1]}")


def libbpf(load: Callable[[str], object] = ctypes.CDLL) -> Check:
    """The library that reads the kernel's types."""
    try:
        load("libbpf.so.1")
    except OSError as error:
        return Check("libbpf", "fail", str(error), "apt-get install libbpf1")
    return Check("libbpf", "ok", "libbpf.so.1")


def tracepoints(root: Path, wanted: Iterable[str]) -> Check:
    """Whether the kernel has what the installed probes hang on, each `category:name`."""
    events = sorted(set(wanted))
    mounted = _mounted(root, "tracefs")
    place = next((root / p for p in _TRACEFS if f"/{p}" in mounted), None)
    if place is None:
        return Check("tracepoints", "warn", "cannot be seen without tracefs", "mount tracefs first")
    try:
        missing = [
            e for e in events if not (place / "events" / e.replace(":", "/") / "id").exists()
        ]
    except PermissionError:
        return Check("tracepoints", "warn", "cannot be seen by this user", "run as root")
    if missing:
        remedy = "a kernel with CONFIG_FTRACE_SYSCALLS=y is needed, or leave the probe out that wants them"
        return Check("tracepoints", "fail", f"not in this kernel: {', '.join(missing)}", remedy)
    return Check("tracepoints", "ok", f"all {len(events)} that the installed probes want")


def function(name: str, refused: str, lack: str) -> Check:
    """Whether a program may hang on a function of the kernel (fentry); without it the events lack something.

    Args:
        name: The kernel's.
        refused: Why not, as it was tried; empty where it may.
        lack: What the events are without it.
    """
    if refused:
        return Check(
            "kernel function", "warn", f"{name}: {refused}", f"without it {lack}" if lack else ""
        )
    return Check("kernel function", "ok", name)


def optional_tracepoints(absent: Iterable[tuple[str, str]]) -> Check:
    """What the installed probes go without.

    Args:
        absent: Probe and `category:name` of each tracepoint in whose place the kernel has no other one.
    """
    missing = sorted(set(absent))
    if not missing:
        return Check("optional tracepoints", "ok", "nothing is lacking")
    found = "not in this kernel: " + ", ".join(f"{event} ({probe})" for probe, event in missing)
    if all(
        event.startswith("syscalls:") for _, event in missing
    ):  # where the call is, its tracepoint is
        return Check("optional tracepoints", "ok", f"{found}; it has no such calls")
    return Check(
        "optional tracepoints",
        "warn",
        found,
        "operations that pass these are not recorded; a newer kernel has them",
    )


def compat(root: Path, machine: str, probes: Iterable[str]) -> Check:
    """Whether there are calls of the 32-bit ABI, and whose are recorded.

    Args:
        root: Of the file system.
        machine: `uname -m`.
        probes: Those that name numbers of such calls.
    """
    if machine == "x86_64" and not (root / "proc/sys/abi/vsyscall32").exists():
        return Check("32-bit calls", "ok", "this kernel has none (no CONFIG_IA32_EMULATION)")
    if not any((root / place / "events/raw_syscalls/sys_enter").exists() for place in _TRACEFS):
        return Check(
            "32-bit calls",
            "warn",
            "not recorded: no raw_syscalls:sys_enter",
            "a kernel with CONFIG_FTRACE_SYSCALLS=y is needed",
        )
    return Check(
        "32-bit calls",
        "ok",
        f"recorded by {_names(probes)}, unless the agent's setting `compat` is false",
    )


def io_uring(root: Path, probes: Iterable[str]) -> Check:
    """Whether operations can be asked for through io_uring, and whose are recorded.

    Args:
        root: Of the file system.
        probes: Those that hang on tracepoints of io_uring.
    """
    try:
        disabled = (root / "proc/sys/kernel/io_uring_disabled").read_text().strip()
    except OSError:
        disabled = "0"  # kernels before 6.6 have no such switch
    if disabled == "2":
        return Check("io_uring", "ok", "off (kernel.io_uring_disabled=2)")
    who = "on for the privileged (kernel.io_uring_disabled=1)" if disabled == "1" else "on"
    return Check(
        "io_uring",
        "ok",
        f"{who}; what is done through it is recorded by {_names(probes)}, by no other probe",
    )


def container_runtimes(found: Iterable[tuple[str, str, str]]) -> Check:
    """Who can say what the containers of this machine are called.

    Args:
        found: Of each socket its path, who answers there, and why nobody does.
    """
    sockets = sorted(found)
    if not sockets:
        return Check(
            "container runtimes",
            "ok",
            "no socket at the usual places; containers will have ids and no names",
        )
    said = "; ".join(
        f"{version} at {path}" if version else reason for path, version, reason in sockets
    )
    if all(version for _, version, _ in sockets):
        return Check("container runtimes", "ok", said)
    remedy = "names of its containers are missing: run as root, start it, or name the right ones in options.containers.sockets"
    return Check("container runtimes", "warn", said, remedy)


def _names(probes: Iterable[str]) -> str:
    return ", ".join(sorted(set(probes))) or "none of the installed probes"


def _mounted(root: Path, kind: str) -> set[str]:
    """Where file systems of a kind are mounted."""
    lines = (root / "proc/self/mounts").read_text(errors="surrogateescape").splitlines()
    return {line.split(" ")[1] for line in lines if line.split(" ")[2] == kind}
