"""A process drops capabilities and system calls; each test restricts its own process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from infrasight_core.agent.settings import AgentSettings
from infrasight_core.cli.agent_capabilities import needed_capabilities
from infrasight_core.console import privileges, seccomp

RESTRICT = """
import ctypes, errno, os, subprocess, sys, threading
from infrasight_core import logs
from infrasight_core.console.privileges import restrict
from infrasight_core.console.seccomp import DANGEROUS_CALLS, RECORDING_CALLS
logs.configure("info")
def attempt(call, *arguments):
    libc = ctypes.CDLL(None, use_errno=True)
    return errno.errorcode[ctypes.get_errno()] if getattr(libc, call)(*arguments) < 0 else ""
"""


def run(program: str) -> subprocess.CompletedProcess[str]:
    """Runs a Python program that may restrict itself."""
    return subprocess.run(
        [sys.executable, "-c", RESTRICT + program],
        capture_output=True,
        text=True,
        check=True,
    )


def status_of(text: str) -> dict[str, str]:
    """The lines of a /proc/PID/status by name."""
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def test_process_keeps_only_the_named_capabilities() -> None:
    """All sets are restricted, also those of a later thread and of a child that root executes."""
    program = """
restrict({"BPF": "tests"}, ())
print(open("/proc/thread-self/status").read())
thread = threading.Thread(target=lambda: print(open("/proc/thread-self/status").read()))
thread.start()
thread.join()
sys.stdout.flush()
subprocess.run(["cat", "/proc/self/status"], check=True)
"""
    parts = run(program).stdout.split("Name:")[1:]
    assert len(parts) == 3
    bpf = f"{1 << 39:016x}"
    for part in parts:
        status = status_of("Name:" + part)
        assert status["CapPrm"] == status["CapEff"] == status["CapBnd"] == bpf
        assert status["CapInh"] == status["CapAmb"] == f"{0:016x}"
        assert status["NoNewPrivs"] == "1"


def test_privileges_are_logged_with_the_reason() -> None:
    """The log line names each retained capability and why, and how many are dropped."""
    log = run("restrict({'BPF': 'loads probes', 'SYS_TIME': 'x'}, DANGEROUS_CALLS).log()").stderr
    assert '"capabilities": {"BPF": "loads probes", "SYS_TIME": "x"}' in log
    assert f'"denied_system_calls": {len(seccomp.DANGEROUS_CALLS)}' in log


def test_threads_that_exist_already_are_reported() -> None:
    """Capabilities belong to threads; the log says if some have more than the main thread."""
    start = "threading.Thread(target=threading.Event().wait, daemon=True).start()"
    log = run(f"{start}\nrestrict({{}}, ()).log()").stderr
    assert "1 threads were started earlier and keep their capabilities" in log


def test_ordinary_user_can_be_restricted() -> None:
    """A process without capabilities has none to drop; system calls are denied to it, too."""
    program = """
os.setgid(65534)
os.setuid(65534)
restrict({"BPF": "tests"}, DANGEROUS_CALLS).log()
print(attempt("unshare", 0x10000000))
"""
    done = run(program)
    assert done.stdout.strip() == "EPERM"
    assert '"capabilities": {}' in done.stderr


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ("ptrace", "0, 0, 0, 0"),
        ("mount", "b'none', b'/proc', b'tmpfs', 1, 0"),
        ("umount2", "b'/nowhere', 0"),
        ("setns", "0, 0"),
        ("unshare", "0x10000000"),
        ("swapoff", "b'/nowhere'"),
        ("chroot", "b'/'"),
        ("reboot", "0"),
        ("process_vm_writev", "1, 0, 0, 0, 0, 0"),
        ("process_vm_readv", "1, 0, 0, 0, 0, 0"),
    ],
)
def test_dangerous_call_is_denied(call: str, arguments: str) -> None:
    """Each call fails with EPERM although the process still has every capability."""
    program = f"""
from infrasight_core.console.seccomp import deny_calls
deny_calls(DANGEROUS_CALLS)
print(attempt({call!r}, {arguments}))
"""
    assert run(program).stdout.strip() == "EPERM"


def test_processes_and_threads_start_under_the_filter() -> None:
    """libc falls back from clone3; a clone into a new user namespace is denied."""
    program = f"""
from infrasight_core.console.seccomp import deny_calls
deny_calls((*DANGEROUS_CALLS, *RECORDING_CALLS))
thread = threading.Thread(target=subprocess.run, args=(["true"],))
thread.start()
thread.join()
print(attempt("syscall", {seccomp._MACHINES[os.uname().machine][3]}, 0x10000000 | 17, 0, 0, 0, 0))
print(attempt("syscall", {seccomp._NUMBERS["bpf"][0]}, 0, 0, 0))
"""
    assert run(program).stdout.split() == ["EPERM", "EPERM"]


def test_filter_can_deny_new_processes() -> None:
    """Threads start; a fork, and a clone that is no thread, are denied."""
    program = f"""
from infrasight_core.console.seccomp import PROCESS_CALLS, deny_calls
deny_calls(PROCESS_CALLS, deny_processes=True)
thread = threading.Thread(target=print, args=["thread"])
thread.start()
thread.join()
print(attempt("fork"))
print(attempt("syscall", {seccomp._MACHINES[os.uname().machine][3]}, 17, 0, 0, 0, 0))
"""
    assert run(program).stdout.split() == ["thread", "EPERM", "EPERM"]


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_filter_programs_are_well_formed(machine: str) -> None:
    """The filter of each architecture has whole instructions and ends by allowing the call."""
    program = seccomp.filter_program(seccomp._NUMBERS, machine, deny_processes=True)
    assert {len(instruction) for instruction in program} == {8}
    assert program[-1] == seccomp._instruction(seccomp._RETURN, seccomp._ALLOW)


def test_agent_keeps_what_a_reload_needs(tmp_path: Path) -> None:
    """By default two capabilities; SYS_ADMIN only where the kernel asks for it."""
    paranoid = tmp_path / "proc/sys/kernel/perf_event_paranoid"
    paranoid.parent.mkdir(parents=True)
    paranoid.write_text("2\n")
    settings = AgentSettings(server="localhost:7443", status_listen="127.0.0.1:443")
    default = {"BPF", "PERFMON", "NET_BIND_SERVICE"}
    assert needed_capabilities(settings, None, tmp_path).keys() == default
    paranoid.write_text("3\n")
    assert needed_capabilities(settings, None, tmp_path).keys() == {*default, "SYS_ADMIN"}


def test_agent_keeps_the_right_to_read_files_of_other_users(tmp_path: Path) -> None:
    """A settings file in a home folder that only its owner may enter."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    file = home / "agent.toml"
    file.touch()
    settings = AgentSettings(server="localhost:7443")
    assert "DAC_READ_SEARCH" not in needed_capabilities(settings, file)
    os.chown(home, 65534, 65534)
    assert str(file) in needed_capabilities(settings, file)["DAC_READ_SEARCH"]


def test_agent_keeps_the_right_to_connect_to_the_socket_of_another_user(tmp_path: Path) -> None:
    """A socket that root may not write without a capability, or that does not exist yet."""
    socket = tmp_path / "server.sock"
    socket.touch(mode=0o660)
    settings = AgentSettings(server=f"unix:{socket}")
    assert "DAC_OVERRIDE" not in needed_capabilities(settings, None)
    os.chown(socket, 65534, 65534)
    assert str(socket) in needed_capabilities(settings, None)["DAC_OVERRIDE"]
    runtimes = {"containers": {"sockets": [str(tmp_path / "absent.sock")]}}
    settings = AgentSettings(server="localhost:1", options=runtimes)
    assert "DAC_OVERRIDE" in needed_capabilities(settings, None)


def test_privileged_port_needs_a_capability() -> None:
    """Only ports below 1024, and not the port that the kernel chooses."""
    assert privileges.for_port(443).keys() == {"NET_BIND_SERVICE"}
    assert privileges.for_port(0) == privileges.for_port(7445) == privileges.for_port(-1) == {}
