"""The checks of `infrasight doctor`. None changes the machine.

Checks that read files take `root`, the root of the file system, so that a test can make one up.
"""

import ctypes
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

from attrs import frozen

from infrasight_core.cli.agent_capabilities import ADMIN_PARANOID, perf_event_paranoid

Status = Literal["ok", "warn", "fail"]
_OLDEST_KERNEL = (5, 15)
_CAPABILITIES = {21: "CAP_SYS_ADMIN", 38: "CAP_PERFMON", 39: "CAP_BPF"}
_TRACEFS = ("sys/kernel/tracing", "sys/kernel/debug/tracing")
_BCC_VERSION = "bcc version "
_BCC_PROGRAM = f"""
import bcc
if not hasattr(bcc, "BPF"):
    raise SystemExit("another package is called bcc: " + str(bcc.__file__))
print("{_BCC_VERSION}" + getattr(bcc, "__version__", "unknown"))
"""
_BCC_REMEDY = (
    "apt-get install python3-bpfcc, and set INFRASIGHT_LOADER_PYTHON (or `loader_python`) to the "
    "system's Python; PyPI's package `bcc` is unrelated"
)


@frozen
class Check:
    """The result of one check.

    Attributes:
        name: What was checked.
        status: `ok`; `warn` if something works less well; `fail` if no event can be recorded.
        found: What is there.
        remedy: What to do; empty if there is nothing to do.
    """

    name: str
    status: Status
    found: str
    remedy: str = ""


def unreadable(name: str, error: OSError) -> Check:
    """The result of a check that could not read what it needs."""
    where = f"{error.filename}: " if error.filename else ""
    return Check(name, "warn", f"{where}{error.strerror}", "run as root (sudo)")


def kernel(release: str) -> Check:
    """Checks the kernel's version, `uname -r`."""
    try:
        version = tuple(int(part) for part in release.split("-")[0].split(".")[:2])
    except ValueError:
        return Check("kernel", "warn", release, "unknown version; Linux 5.15 or newer is needed")
    if version < _OLDEST_KERNEL:
        remedy = "Linux 5.15 or newer is needed: install a newer kernel and reboot"
        return Check("kernel", "fail", release, remedy)
    return Check("kernel", "ok", release)


def architecture(machine: str) -> Check:
    """Checks the machine, `uname -m`."""
    if machine == "x86_64":
        return Check("architecture", "ok", machine)
    if machine == "aarch64":
        return Check("architecture", "warn", machine, "little tested; please report problems")
    return Check("architecture", "fail", machine, "x86_64 is needed")


def btf(root: Path) -> Check:
    """Checks the kernel's type information, which struct offsets come from."""
    path = root / "sys/kernel/btf/vmlinux"
    remedy = "a kernel built with CONFIG_DEBUG_INFO_BTF=y is needed"
    try:
        with path.open("rb") as file:
            magic = file.read(2)
    except FileNotFoundError:
        return Check("BTF", "fail", f"no {path}", remedy)
    except OSError as error:
        return Check(
            "BTF", "fail", f"{path}: {error.strerror}", "run as root, or make the file readable"
        )
    if magic not in (b"\x9f\xeb", b"\xeb\x9f"):
        return Check("BTF", "fail", f"{path} is not BTF", remedy)
    return Check("BTF", "ok", str(path))


def tracefs(root: Path) -> Check:
    """Checks the file system of tracepoints."""
    folder = _tracefs_folder(root)
    if folder is None:
        return Check(
            "tracefs", "fail", "not mounted", "mount -t tracefs tracefs /sys/kernel/tracing"
        )
    try:
        next((folder / "events").iterdir(), None)
    except OSError as error:
        return Check(
            "tracefs",
            "fail",
            f"{folder}: {error.strerror}",
            "run as root (sudo), or with CAP_DAC_READ_SEARCH",
        )
    return Check("tracefs", "ok", str(folder))


def bpffs(root: Path) -> Check:
    """Checks the file system where programs and maps can be pinned."""
    if "/sys/fs/bpf" in _mount_points(root, "bpf"):
        return Check("bpffs", "ok", "/sys/fs/bpf")
    return Check(
        "bpffs",
        "warn",
        "not mounted at /sys/fs/bpf",
        "needed only for pinning: mount -t bpf bpf /sys/fs/bpf",
    )


def capabilities(root: Path) -> Check:
    """Checks for CAP_BPF with CAP_PERFMON, or CAP_SYS_ADMIN."""
    held = _held_capabilities(root)
    if "CAP_SYS_ADMIN" in held or {"CAP_BPF", "CAP_PERFMON"} <= held:
        return Check("capabilities", "ok", ", ".join(sorted(held)))
    absent = ", ".join(name for name in ("CAP_BPF", "CAP_PERFMON") if name not in held)
    return Check(
        "capabilities",
        "fail",
        f"without {absent}",
        "run as root (sudo), or give CAP_BPF and CAP_PERFMON to the agent's service",
    )


def lockdown(root: Path) -> Check:
    """Checks whether kernel lockdown keeps BPF from reading kernel memory."""
    try:
        text = (root / "sys/kernel/security/lockdown").read_text()
    except OSError:
        return Check("lockdown", "ok", "unknown (securityfs is not mounted)")
    mode = text.partition("[")[2].partition("]")[0]
    if mode == "confidentiality":
        remedy = "boot without lockdown=confidentiality, which keeps BPF from reading kernel memory"
        return Check("lockdown", "fail", mode, remedy)
    return Check("lockdown", "ok", mode)


def unprivileged(root: Path) -> Check:
    """Checks whether every user may load BPF programs, which widens the attack surface."""
    try:
        allowed = (root / "proc/sys/kernel/unprivileged_bpf_disabled").read_text().strip() == "0"
    except OSError:
        return Check("unprivileged BPF", "ok", "unknown")
    if allowed:
        return Check(
            "unprivileged BPF",
            "warn",
            "every user may load programs",
            "sysctl kernel.unprivileged_bpf_disabled=1",
        )
    return Check("unprivileged BPF", "ok", "off")


def perf_events(root: Path) -> Check:
    """Checks kernel.perf_event_paranoid: from 3 on, Debian and Ubuntu require CAP_SYS_ADMIN."""
    paranoid = perf_event_paranoid(root)
    found = f"kernel.perf_event_paranoid is {paranoid}"
    if paranoid < ADMIN_PARANOID:
        return Check("perf events", "ok", found)
    remedy = "sysctl kernel.perf_event_paranoid=2, and the same in /etc/sysctl.d"
    if "CAP_SYS_ADMIN" in _held_capabilities(root):
        remedy = f"{remedy}, so that the agent can drop CAP_SYS_ADMIN"
        return Check("perf events", "warn", f"{found}: probes need CAP_SYS_ADMIN", remedy)
    return Check(
        "perf events",
        "fail",
        f"{found}: probes cannot be attached without CAP_SYS_ADMIN",
        f"{remedy}; or give CAP_SYS_ADMIN to the agent",
    )


def ptrace_scope(root: Path) -> Check:
    """Checks whether processes of one user may read each other's memory, keys included."""
    try:
        scope = (root / "proc/sys/kernel/yama/ptrace_scope").read_text().strip()
    except OSError:
        scope = "0"  # without Yama there is no restriction
    if scope == "0":
        return Check(
            "ptrace scope",
            "ok",
            "a user's processes may read each other's memory, with the keys in it",
            "run the server as a separate user; or sysctl kernel.yama.ptrace_scope=1",
        )
    return Check("ptrace scope", "ok", f"restricted (kernel.yama.ptrace_scope is {scope})")


def bcc(python: Path) -> Check:
    """Checks whether the Python that compiles and loads the probes has bcc."""
    try:
        done = subprocess.run(
            [python, "-E", "-s", "-c", _BCC_PROGRAM],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=60,
            check=False,
        )
    except OSError as error:
        return Check("bcc", "fail", f"cannot run {python}: {error.strerror}", _BCC_REMEDY)
    except subprocess.TimeoutExpired:
        return Check("bcc", "fail", f"{python} does not answer", _BCC_REMEDY)
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    last_line = lines[-1] if lines else ""
    if done.returncode != 0:
        reason = last_line or f"exit status {done.returncode}"
        return Check("bcc", "fail", f"{python}: {reason}", _BCC_REMEDY)
    if not last_line.startswith(_BCC_VERSION):
        return Check("bcc", "fail", f"{python} is not a Python", _BCC_REMEDY)
    return Check("bcc", "ok", f"{python}: bcc {last_line.removeprefix(_BCC_VERSION)}")


def libbpf(load: Callable[[str], object] = ctypes.CDLL) -> Check:
    """Checks the library that reads the kernel's types."""
    try:
        load("libbpf.so.1")
    except OSError as error:
        return Check("libbpf", "fail", str(error), "apt-get install libbpf1")
    return Check("libbpf", "ok", "libbpf.so.1")


def tracepoints(root: Path, events: Iterable[str]) -> Check:
    """Checks whether the kernel has the tracepoints that the installed probes attach to.

    Args:
        root: The root of the file system.
        events: The tracepoints, each `category:name`.
    """
    distinct = sorted(set(events))
    folder = _tracefs_folder(root)
    if folder is None:
        return Check("tracepoints", "warn", "unknown without tracefs", "mount tracefs first")
    try:
        absent = [
            event
            for event in distinct
            if not (folder / "events" / event.replace(":", "/") / "id").exists()
        ]
    except PermissionError:
        return Check("tracepoints", "warn", f"cannot read {folder}", "run as root (sudo)")
    if absent:
        remedy = "use a kernel that has them, or disable the probes that need them"
        return Check("tracepoints", "fail", f"not in this kernel: {', '.join(absent)}", remedy)
    return Check("tracepoints", "ok", f"all {len(distinct)} of the installed probes")


def function(name: str, failure: str, consequence: str) -> Check:
    """Reports whether a program can attach to a kernel function (fentry).

    Args:
        name: The function.
        failure: Why the attempt failed; empty if it succeeded.
        consequence: How events differ without it.
    """
    if not failure:
        return Check("kernel function", "ok", name)
    remedy = f"without it {consequence}" if consequence else ""
    return Check("kernel function", "warn", f"{name}: {failure}", remedy)


def optional_tracepoints(absent: Iterable[tuple[str, str]]) -> Check:
    """Reports the optional tracepoints that the kernel lacks.

    Args:
        absent: The probe and the `category:name` of each tracepoint that has no substitute.
    """
    distinct = sorted(set(absent))
    if not distinct:
        return Check("optional tracepoints", "ok", "all of the installed probes")
    names = ", ".join(f"{event} ({probe})" for probe, event in distinct)
    found = f"not in this kernel: {names}"
    remedy = "operations that pass these are not recorded; a newer kernel has them"
    return Check("optional tracepoints", "warn", found, remedy)


def compat(root: Path, machine: str, probes: Iterable[str]) -> Check:
    """Reports whether the kernel has calls of the 32-bit ABI, and which probes record them.

    Args:
        root: The root of the file system.
        machine: `uname -m`.
        probes: The probes that handle calls which 32-bit programs can make.
    """
    if machine == "x86_64" and not (root / "proc/sys/abi/vsyscall32").exists():
        return Check("32-bit calls", "ok", "this kernel has none (no CONFIG_IA32_EMULATION)")
    return Check("32-bit calls", "ok", f"recorded by {_names(probes)}")


def io_uring(root: Path, probes: Iterable[str]) -> Check:
    """Reports whether io_uring is enabled, and which probes record its operations.

    Args:
        root: The root of the file system.
        probes: The probes that attach to tracepoints of io_uring.
    """
    try:
        disabled = (root / "proc/sys/kernel/io_uring_disabled").read_text().strip()
    except OSError:
        disabled = "0"  # kernels before 6.6 have no such switch
    if disabled == "2":
        return Check("io_uring", "ok", "off (kernel.io_uring_disabled=2)")
    state = "on"
    if disabled == "1":
        state = "on for privileged processes (kernel.io_uring_disabled=1)"
    found = f"{state}; its operations are recorded by {_names(probes)} and by no other probe"
    return Check("io_uring", "ok", found)


def container_runtimes(sockets: Iterable[tuple[str, str, str]]) -> Check:
    """Reports the container runtimes that can name this machine's containers.

    Args:
        sockets: The path of each socket, the runtime that answers there, and the reason if none
            does.
    """
    found = sorted(sockets)
    if not found:
        return Check(
            "container runtimes",
            "ok",
            "no socket in the usual places; containers have ids and no names",
        )
    texts = [f"{version} at {path}" if version else reason for path, version, reason in found]
    text = "; ".join(texts)
    if all(version for _, version, _ in found):
        return Check("container runtimes", "ok", text)
    remedy = (
        "names of its containers are missing: run as root, start the runtime, or set the right "
        "sockets in options.containers.sockets"
    )
    return Check("container runtimes", "warn", text, remedy)


def _names(probes: Iterable[str]) -> str:
    return ", ".join(sorted(set(probes))) or "none of the installed probes"


def _held_capabilities(root: Path) -> set[str]:
    """The effective capabilities of this process, of those that matter."""
    status = (root / "proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    effective = int(line.split()[1], 16)
    return {name for bit, name in _CAPABILITIES.items() if effective >> bit & 1}


def _tracefs_folder(root: Path) -> Path | None:
    """Where tracefs is mounted; None if it is not."""
    mounted = _mount_points(root, "tracefs")
    for place in _TRACEFS:
        if f"/{place}" in mounted:
            return root / place
    return None


def _mount_points(root: Path, file_system: str) -> set[str]:
    """Where file systems of a type are mounted."""
    lines = (root / "proc/self/mounts").read_text(errors="surrogateescape").splitlines()
    entries = [line.split(" ") for line in lines]
    return {entry[1] for entry in entries if entry[2] == file_system}
