"""Ways to trace the machine that benchmarks compare: InfraSight, its peers, and the floor.

Each way is a context manager: it traces the whole machine while its body runs. It yields a function
that returns how many events it has dropped so far, or None if it does not count them.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from infrasight.v1.stream_pb2 import Account, Container
from infrasight_core.agent.recorder import Recorder
from infrasight_core.agent.sink import Delivery, Sink
from infrasight_core.kernel.loader import HEADERS_FOLDER, LoadSettings
from infrasight_core.plugin.manager import PluginManager

from infrasight_testbed.system import until

Dropped = Callable[[], int | None]
PEERS: Final = Path(__file__).parents[3] / "benchmarks/peers"
PROBES: Final = ("execve", "open", "chmod", "connect", "accept")
_TOOLS: Final = ("/usr/sbin/opensnoop.bt", "/usr/sbin/execsnoop.bt", str(PEERS / "calls.bt"))
_AUDITED: Final = (
    "execve,execveat,open,openat,openat2,creat,chmod,fchmod,fchmodat,connect,accept,accept4"
)
_START_SECONDS: Final = 60.0


class Nowhere(Sink):
    """A sink that discards everything."""

    def put(self, delivery: Delivery) -> bool:
        """Discards the batch."""
        return True

    def put_account(self, probe: str, account: Account) -> None:
        """Discards the account."""

    def count_dropped(self, probe: str, reason: str, events: int) -> None:
        """Discards the count."""

    def publish(self, containers: Sequence[Container]) -> None:
        """Discards containers."""


@contextmanager
def untraced() -> Iterator[Dropped]:
    """Nothing."""
    yield lambda: None


@contextmanager
def floor() -> Iterator[Dropped]:
    """Two raw tracepoint programs that do nothing: the least that seeing every call can cost."""
    environment = {"PATH": os.environ["PATH"], "BCC_KERNEL_SOURCE": str(HEADERS_FOLDER)}
    command = [LoadSettings().python, PEERS / "bcc_attached.py", PEERS / "floor.bpf.c"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, env=environment, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL
    ) as peer:
        assert peer.stdin
        assert peer.stdout
        assert peer.stdout.readline() == b"attached\n"
        yield lambda: None
        peer.stdin.close()


@contextmanager
def infrasight() -> Iterator[Dropped]:
    """All five probes, read in this process and discarded."""
    plugins = PluginManager.discover(PROBES)
    recorder = Recorder(plugins, LoadSettings(own_work=False), "here", Nowhere())
    for probe in PROBES:
        recorder.attach(probe, {})
    recorder.start()
    try:
        yield lambda: sum(recorder.loaded(probe).blocks.counts().dropped for probe in PROBES)
    finally:
        recorder.stop()


@contextmanager
def bpftrace() -> Iterator[Dropped]:
    """Debian's opensnoop.bt and execsnoop.bt, and a script for the other calls, each to a file."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        outputs = [Path(name, f"output{number}") for number in range(len(_TOOLS))]
        errors = [output.with_suffix(".errors") for output in outputs]
        for tool, output, error in zip(_TOOLS, outputs, errors, strict=True):
            command = ["bpftrace", "-o", str(output), tool]
            stack.enter_context(_interrupted(command, error))
        until(lambda: all(map(_traces, outputs)), "bpftrace traces", _START_SECONDS)
        yield lambda: sum(map(_lost, (*outputs, *errors)))


@contextmanager
def auditd() -> Iterator[Dropped]:
    """The audit daemon with a rule for the same calls."""
    if _audit_status()["pid"]:
        sys.exit("an audit daemon runs on this machine; stop it for the benchmark")
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        log = Path(name, "audit.log")
        Path(name, "auditd.conf").write_text(
            f"log_file = {log}\nlog_format = RAW\nflush = INCREMENTAL_ASYNC\nfreq = 50\n"
            "max_log_file = 500\nmax_log_file_action = ROTATE\nnum_logs = 2\n"
            "space_left = 75\nspace_left_action = IGNORE\nadmin_space_left = 50\n"
            "admin_space_left_action = IGNORE\ndisk_full_action = IGNORE\n"
            "disk_error_action = IGNORE\nq_depth = 2000\n"
        )
        stack.enter_context(_interrupted(["auditd", "-n", "-c", name], Path(name, "errors")))
        until(lambda: bool(_audit_status()["pid"]), "auditd runs", _START_SECONDS)
        _audit("-D")
        _audit("-b", "8192")
        _audit("-a", "always,exit", "-F", "arch=b64", "-S", _AUDITED)
        stack.callback(_end_audit)
        before = _audit_status()["lost"]
        yield lambda: _audit_status()["lost"] - before


def _end_audit() -> None:
    """Disables auditing for processes that start from now on.

    Once the kernel has audited, every new process takes the slow way into system calls, unless a
    rule says that it is never audited.
    """
    _audit("-D")
    _audit("-a", "never,task")
    _audit("-e", "0")


def _audit(*arguments: str) -> str:
    return subprocess.run(
        ["auditctl", *arguments], check=True, text=True, stdout=subprocess.PIPE
    ).stdout


def _audit_status() -> dict[str, int]:
    found = re.findall(r"^(pid|lost) (\d+)$", _audit("-s"), re.M)
    return {name: int(number) for name, number in found}


@contextmanager
def _interrupted(command: list[str], errors: Path) -> Iterator[None]:
    """Runs a command until the body ends."""
    ends_by = signal.SIGINT if command[0] == "bpftrace" else signal.SIGTERM
    with (
        errors.open("wb") as output,
        subprocess.Popen(command, stdout=output, stderr=output) as process,
    ):
        try:
            yield
        finally:
            process.send_signal(ends_by)


def _traces(output: Path) -> bool:
    return output.exists() and output.stat().st_size > 0


def _lost(output: Path) -> int:
    """The events that bpftrace says it lost."""
    found = re.findall(rb"[Ll]ost (\d+) events", output.read_bytes())
    return sum(map(int, found))
