"""The chart's seccomp profiles: the real processes work under them, and other calls fail."""

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from infrasight.v1.control_pb2 import Configuration, Package
from infrasight_core.console.seccomp import DANGEROUS_CALLS, RECORDING_CALLS
from infrasight_testbed.control_server import ControlServer
from infrasight_testbed.fake_agent import FakeAgent
from infrasight_testbed.operator_process import OperatorInstallation
from infrasight_testbed.package_index import PackageIndex
from infrasight_testbed.seccomp_profile import call_number, launcher, read_profile
from infrasight_testbed.system import BIN, Process, System, execute, running_system, until

pytestmark = pytest.mark.slow(reason="starts every component for each profile")
COMPONENTS = ("agent", "server", "operator")
PROBES = ("accept", "chmod", "connect", "execve", "open")
for_each_component = pytest.mark.parametrize("component", COMPONENTS)
FILTERS = "Seccomp_filters:\t"
# Prints the error number of each call, made with arguments for which the kernel would do nothing.
MAKE_CALLS = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
for number in sys.argv[1:]:
    ctypes.set_errno(0)
    libc.syscall(ctypes.c_long(int(number)), *[ctypes.c_long(-1)] * 6)
    print(ctypes.get_errno())
"""


def allowed(component: str) -> set[str]:
    """The calls that a profile allows, at least with some arguments."""
    return {name for rule in read_profile(component)["syscalls"] for name in rule["names"]}


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    """A system with an embedded store."""
    with running_system(tmp_path) as running:
        yield running


def filters(pid: int) -> int:
    """The number of filters that a process has."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(FILTERS)).removeprefix(FILTERS))


def assert_restricted(process: Process) -> None:
    """Asserts that a process has the profile's filter and then added its own."""
    assert filters(process.pid) == filters(os.getpid()) + 2
    assert "not fully restricted" not in process.log()


@for_each_component
def test_profile_is_sorted_and_names_real_calls(component: str) -> None:
    """By default calls fail; each allowed one exists, is named once, and the list is sorted."""
    profile = read_profile(component)
    assert (profile["defaultAction"], profile["defaultErrnoRet"]) == (
        "SCMP_ACT_ERRNO",
        errno.ENOSYS,
    )
    everything = profile["syscalls"][0]["names"]
    assert everything == sorted(set(everything))
    for rule in profile["syscalls"]:
        assert rule["action"] == "SCMP_ACT_ALLOW"
        assert rule is profile["syscalls"][0] or rule["args"]
    assert {name for name in allowed(component) if call_number(name) is None} == set()


@for_each_component
def test_other_calls_fail(component: str) -> None:
    """Calls that change the machine fail; only the agent's profile allows those that record."""
    denied = set(DANGEROUS_CALLS)
    if component == "agent":
        assert set(RECORDING_CALLS) <= allowed(component)
    else:
        denied |= set(RECORDING_CALLS)
    assert denied & allowed(component) == set()
    numbers = [str(call_number(name)) for name in sorted(denied)]
    command = [sys.executable, "-c", MAKE_CALLS, *numbers]
    done = subprocess.run(
        [*launcher(component), *command], capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()) == {str(errno.ENOSYS)}


@for_each_component
def test_namespaces_and_other_sockets_are_denied(component: str) -> None:
    """No process can be cloned into a new namespace; raw sockets of other families fail."""
    script = """
import ctypes, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
assert libc.syscall(ctypes.c_long(int(sys.argv[1])), 0x10000000 | 17, 0, 0, 0, 0) == -1
print(ctypes.get_errno())
try:
    socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET)
except OSError as error:
    print(error.errno)
"""
    command = [sys.executable, "-c", script, str(call_number("clone"))]
    done = subprocess.run(
        [*launcher(component), *command], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(errno.ENOSYS)] * 2


@pytest.mark.skipif(os.geteuid() != 0, reason="recording needs root")
def test_agent_and_server_work_under_their_profiles(system: System, tmp_path: Path) -> None:
    """Every probe records, also after a reload; the server stores, and answers readers.

    Both stop with status 0. The readers run as `kubectl exec` runs them: in the server's container.
    """
    settings = tmp_path / "agent.toml"
    enrichers = "canary_interval = 1.0\n[options.reverse_dns]\nenabled = true\n"
    settings.write_text(f'probes = ["execve"]\n{enrichers}')
    server = system.start_server(launcher=launcher("server"))
    agent = system.start_agent("--config", str(settings), launcher=launcher("agent"))
    assert_restricted(agent)
    assert_restricted(server)
    execute("mark-before", 3)
    settings.write_text(enrichers)
    arrived = 'infrasight_canary_events_total{{outcome="arrived",probe="{}"}}'
    until(
        lambda: all(agent.metric(arrived.format(probe)) > 0 for probe in PROBES),
        "the reload starts every probe, and each records its canary",
    )
    execute("mark-after", 3)
    act(tmp_path)
    watched = tmp_path / "watched"
    with watched.open("w") as output:
        command: list[str | Path] = [*launcher("server"), BIN / "infrasight", "tail", "execve"]
        watch = subprocess.Popen([*command, "--server", system.address], stdout=output)

    def sees_new_events() -> bool:
        execute("mark-watched", 1)
        return "mark-watched" in watched.read_text()

    until(sees_new_events, "a reader sees new events")
    watch.terminate()
    watch.wait()
    assert agent.stop() == 0
    for marker in ("mark-before", "mark-after"):
        assert [row["argv"][2] for row in system.rows(marker)] == ["0", "1", "2"]
    for probe in set(PROBES) - {"execve"}:
        sql = f"SELECT count() AS rows FROM {probe}_events WHERE pid = {os.getpid()}"
        command = [*launcher("server"), BIN / "infrasight", "query", sql, "--format=csv"]
        command += ["--server", system.address]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert int(done.stdout.split()[-1]) > 0, probe
    assert server.stop() == 0


def act(folder: Path) -> None:
    """Opens a file, changes its mode, connects and accepts."""
    file = folder / "acted"
    file.touch()
    file.chmod(0o600)
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()),
    ):
        listener.accept()[0].close()


def test_packages_are_installed_under_the_agents_profile(tmp_path: Path) -> None:
    """The agent's pod has one profile for both containers: pip installs a wheel from an index."""
    target = tmp_path / "packages"
    with ControlServer() as operator, PackageIndex(tmp_path / "index") as index:
        digest = index.add("demo-one", "1.0")
        package = Package(name="demo-one", version="1.0", hashes=[digest])
        operator.send(Configuration(digest="a", settings="{}", packages=[package]))
        command: list[str | Path] = [*launcher("agent"), BIN / "infrasight", "packages"]
        command += ["--operator", operator.address, "--node", "node-a", "--target", target]
        variables = {**os.environ, **index.environment}
        subprocess.run(command, env=variables, check=True)
    assert (target / "demo_one.py").exists()


def test_operator_cannot_start_programs() -> None:
    """The operator's profile permits threads, but no other processes."""
    script = "import os, threading; threading.Thread(target=print).start(); os.fork()"
    command = [*launcher("operator"), sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "\n")
    assert "Function not implemented" in done.stderr


def test_operator_works_under_its_profile(
    installation: OperatorInstallation, add_node: Callable[..., str], pool: str
) -> None:
    """The operator follows policies, sends configurations to an agent and stops with status 0."""
    node = add_node("first", pool=pool)
    installation.install()
    installation.policy("base", "execve")
    operator = installation.start(launcher=launcher("operator"))
    assert filters(operator.pid) > filters(os.getpid())
    agent = FakeAgent(installation.address, node)
    try:
        agent.apply_next(installed=["execve", "open"])
        installation.until_condition("infrasight", "infrasight", "Ready", True)
        installation.policy("base", "execve", "open")
        agent.apply_next(installed=["execve", "open"])
        installation.until_condition("probepolicy", "base", "Ready", True)
    finally:
        agent.close()
    assert operator.stop() == 0
