"""Running processes have the capabilities and system calls that they need, and no others."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from infrasight_core.agent.settings import AgentSettings
from infrasight_core.cli.agent_capabilities import needed_capabilities
from infrasight_core.console import privileges
from infrasight_testbed.hostile_server import HostileServer
from infrasight_testbed.ports import free_port
from infrasight_testbed.process_rights import NAMES, restricted_to, rights
from infrasight_testbed.system import BIN, Process, execute, running_system, until


@pytest.fixture
def server() -> Iterator[HostileServer]:
    """A server that does not attack."""
    with HostileServer() as running:
        yield running


def start_agent(
    folder: Path, server: HostileServer, settings: str, **environment: str
) -> tuple[Process, Path]:
    """Starts an agent with a settings file; returns the process and the file."""
    file = folder / "agent.toml"
    file.write_text(settings)
    status = f"127.0.0.1:{free_port()}"
    command: list[str | Path] = [BIN / "infrasight", "agent", "--config", file]
    command += ["--server", server.address, "--status-listen", status]
    process = Process(command, folder / "agent.log", status, environment)
    until(process.ready, "the agent streams")
    return process, file


def test_agent_drops_privileges_and_still_reloads(tmp_path: Path, server: HostileServer) -> None:
    """Every thread is restricted; a probe that a reload adds is loaded, and records."""
    agent, file = start_agent(tmp_path, server, 'probes = ["chmod"]')
    try:
        needed = needed_capabilities(AgentSettings(server=server.address), file)
        assert rights(agent.pid) == {restricted_to(*needed)}
        file.write_text('probes = ["chmod", "execve"]')
        until(lambda: "execve" in agent.get("readyz"), "the added probe is attached")
        execute("after-reload", 3)
        until(lambda: server.events("after-reload") == [0, 1, 2], "its events are sent")
        assert rights(agent.pid) == {restricted_to(*needed)}
        until(lambda: "privileges restricted" in agent.log(), "it is logged")
        lines = [json.loads(line) for line in agent.log().splitlines() if line.startswith("{")]
        (logged,) = [line for line in lines if line["event"] == "privileges restricted"]
        assert logged["capabilities"] == needed
        assert logged["dropped_capabilities"] > 0
    finally:
        agent.kill()


def test_agent_keeps_its_privileges_if_a_plugin_needs_them(
    tmp_path: Path, server: HostileServer
) -> None:
    """With `keep_privileges` nothing is restricted."""
    agent, _ = start_agent(tmp_path, server, 'probes = ["execve"]\nkeep_privileges = true')
    try:
        (threads,) = rights(agent.pid)
        own = Path("/proc/self/status").read_text()
        assert f"CapEff:\t{threads[NAMES.index('CapEff')]}" in own
        assert threads[-2:] == ("0", "0")
    finally:
        agent.kill()


def test_server_drops_every_capability(tmp_path: Path) -> None:
    """All threads of the server have none; it listens, migrates its store and answers."""
    with running_system(tmp_path) as system:
        server = system.start_server()
        needed = privileges.for_reading(privileges.program_paths())
        assert rights(server.pid) == {restricted_to(*needed)}
        assert system.query("SELECT 1 AS one") == [{"one": 1}]
        until(lambda: '"event": "privileges restricted"' in server.log(), "it is logged")
        assert "not fully restricted" not in server.log()
