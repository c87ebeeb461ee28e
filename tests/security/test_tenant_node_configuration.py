"""Configurations that would blind an agent: a tenant's policies decide parts of them."""

import json
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from infrasight.v1.control_pb2 import Configuration, Report
from infrasight_testbed.control_server import ControlServer
from infrasight_testbed.system import BIN, Process, execute, running_system, until

SUPPORT = Path(__file__).parents[1] / "support"
SECONDS = 20  # until an agent has applied a configuration or read an event


class Target:
    """An agent that records execve, and the operator that it follows.

    Attributes:
        agent: The agent.

    Args:
        agent: The agent.
        operator: Its operator.
    """

    def __init__(self, agent: Process, operator: ControlServer) -> None:
        self.agent = agent
        self._operator = operator

    def apply(self, settings: Any) -> Report:
        """Sends settings, and returns the report about them."""
        digest = uuid.uuid4().hex
        text = settings if isinstance(settings, str) else json.dumps(settings)
        self._operator.send(Configuration(digest=digest, settings=text))

        def is_reported() -> bool:
            assert "Traceback" not in self.agent.log(), self.agent.log()
            reports = self._operator.reports
            return bool(reports) and reports[-1].digest == digest

        until(is_reported, f"the agent reports\n{self.agent.log()[-2000:]}", SECONDS)
        return self._operator.reports[-1]

    def events_read(self) -> float:
        """How many executions the agent has read from the kernel."""
        return self.agent.metric('infrasight_events_read_total{probe="execve"}')

    def until_recording(self) -> None:
        """Executes programs until the agent records one."""
        before = self.events_read()

        def is_recorded() -> bool:
            execute("tenant", 1)
            return self.events_read() > before

        until(is_recorded, "the agent records executions", SECONDS)


def failures(report: Report) -> dict[str, str]:
    """The reasons of a report's failures, by name."""
    return {failure.name: failure.reason for failure in report.failures}


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """An agent without a server, whose probes an operator selects."""
    folder = tmp_path_factory.mktemp("target")
    with running_system(folder) as system, ControlServer() as operator:
        arguments = ("--operator", operator.address, "--state", str(folder / "state"))
        agent = system.start_agent(*arguments, ready=False, every_probe=True)
        yield Target(agent, operator)


@pytest.fixture(autouse=True)
def _recording(target: Target) -> None:
    """The agent records execve, and nothing else, when the attack begins."""
    report = target.apply({"probes": ["execve"]})
    assert list(report.running) == ["execve"]


def test_filters_of_all_probes_do_not_blind_a_node(target: Target) -> None:
    """A tenant's filters of a probe called `all` exclude root; the executions are still read."""
    report = target.apply({"probes": ["execve"], "filters": {"all": {"exclude_uid": [0]}}})
    assert "'all' is a reserved word" in failures(report)["all"]
    target.until_recording()
    assert "'all' is a reserved word" in target.agent.get("readyz")


def test_invalid_filters_of_all_probes_do_not_keep_a_probe_from_starting(target: Target) -> None:
    """A tenant names an impossible user in `all`'s filters; another policy's probe starts."""
    report = target.apply(
        {"probes": ["execve", "chmod"], "filters": {"all": {"exclude_uid": [-1]}}}
    )
    assert (report.rejected, list(report.running)) == ("", ["chmod", "execve"])


def test_unknown_key_does_not_keep_a_probe_from_starting(target: Target) -> None:
    """A configuration has a key that agents do not know; its probes still start."""
    report = target.apply({"probes": ["execve", "chmod"], "server": "evil.example:7443"})
    assert (report.rejected, list(report.running)) == ("", ["chmod", "execve"])
    assert "unknown key 'server'" in failures(report)["configuration"]


@pytest.mark.parametrize("name", [5, None, {"name": "execve"}, ["x"]], ids=str)
def test_name_of_another_type_does_not_keep_a_probe_from_starting(
    target: Target, name: Any
) -> None:
    """One entry of the list of probes is no name; the others start."""
    report = target.apply({"probes": ["execve", name, "chmod"]})
    assert (report.rejected, list(report.running)) == ("", ["chmod", "execve"])
    assert "probes[1]" in failures(report)["configuration"]


@pytest.mark.parametrize("key", ["options", "filters"])
def test_list_in_place_of_a_table_does_not_keep_a_probe_from_starting(
    target: Target, key: str
) -> None:
    """Options or filters are a list instead of a table; the probes start."""
    report = target.apply({"probes": ["execve", "chmod"], key: ["x"]})
    assert (report.rejected, list(report.running)) == ("", ["chmod", "execve"])


def test_deeply_nested_options_do_not_end_an_agent(target: Target) -> None:
    """Options of 800 levels exhaust the stack of code that recurses; only their probe fails."""
    nested: Any = 1
    for _ in range(800):
        nested = {"x": nested}
    report = target.apply({"probes": ["execve", "chmod"], "options": {"chmod": nested}})
    assert list(report.running) == ["execve"]
    assert "levels deep" in failures(report)["chmod"]
    target.until_recording()


def test_settings_without_a_list_of_probes_do_not_end_recording(target: Target) -> None:
    """A configuration misspells the list of probes; the running ones continue."""
    report = target.apply('{"filters": {}}')
    assert list(report.running) == ["execve"]
    assert "no list `probes`" in report.rejected
    target.until_recording()


def test_plugin_called_all_is_reported_and_not_loaded(tmp_path: Path) -> None:
    """A package has a plugin whose name would make its filters those of every probe."""
    metadata = tmp_path / "evil-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[infrasight]\nall = infrasight_probe_sample.plugin\n"
    )
    script = (
        "from infrasight_core.plugin.manager import PluginManager\n"
        "manager = PluginManager.discover(['execve'])\n"
        "print(sorted(manager.probes()), manager.failures['all'].reason)\n"
    )
    done = subprocess.run(
        [BIN / "python", "-c", script],
        env={"PYTHONPATH": f"{tmp_path}:{SUPPORT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    expected = "['execve'] 'all' is a reserved word and names no plugin: uninstall evil 1.0"
    assert done.stdout.splitlines()[-1:] == [expected], done.stderr
