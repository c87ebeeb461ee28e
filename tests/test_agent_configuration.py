"""A real agent with an operator: it applies, saves and reports configurations."""

import json
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from infrasight.v1.control_pb2 import Configuration, Report
from infrasight_testbed.certificates import CertificateAuthority
from infrasight_testbed.control_server import ControlServer
from infrasight_testbed.system import BIN, Process, System, execute, running_system, until

SUPPORT = Path(__file__).parent / "support"
Following = tuple[Process, ControlServer, Path]


def configuration(digest: str, *probes: str, **settings: Any) -> Configuration:
    """A configuration with these probes."""
    return Configuration(digest=digest, settings=json.dumps({"probes": probes, **settings}))


def failures(report: Report) -> dict[str, str]:
    """The reasons of a report's failures, by name."""
    return {failure.name: failure.reason for failure in report.failures}


def is_about(digest: str) -> Callable[[Report], bool]:
    """Whether a report is about the configuration with this digest."""
    return lambda report: report.digest == digest


@pytest.fixture
def sample(tmp_path: Path) -> dict[str, str]:
    """Environment variables that install the probe `sample`, which has an option."""
    metadata = tmp_path / "installed/sample-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: sample\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[infrasight]\nsample = infrasight_probe_sample.plugin\n"
    )
    return {"PYTHONPATH": f"{metadata.parent}:{SUPPORT}"}


@pytest.fixture
def system(tmp_path: Path, sample: dict[str, str]) -> Iterator[System]:
    """A server with an embedded store."""
    with running_system(tmp_path) as running:
        running.start_server(environment=sample)
        yield running


@pytest.fixture
def operator() -> Iterator[ControlServer]:
    """An operator that has sent no configuration yet."""
    with ControlServer() as server:
        yield server


def start(
    system: System, operator: ControlServer, tmp_path: Path, *options: str, **variables: str
) -> Process:
    """Starts an agent with an operator, without waiting until it is ready."""
    arguments = ("--operator", operator.address, "--state", str(tmp_path / "state"))
    return system.start_agent(
        *arguments, *options, ready=False, every_probe=True, environment=variables
    )


def stored_numbers(system: System, marker: str) -> list[int]:
    """The running numbers of the stored executions with a marker, sorted."""
    return sorted(int(row["number"]) for row in system.rows(marker, "argv[3] AS number"))


def accounting_errors(system: System) -> dict[str, int]:
    """Unaccounted, dropped and rejected events by probe."""
    rows = system.query(
        "SELECT probe, sum(abs(difference)) AS unaccounted, "
        "sum(block_full + heap_full + decode_failed + outbox_full + rejected) AS dropped "
        "FROM accounting WHERE probe != 'dispatcher' GROUP BY probe"
    )
    return {row["probe"]: int(row["unaccounted"]) + int(row["dropped"]) for row in rows}


def test_probe_misses_no_event_while_others_change(
    system: System, operator: ControlServer, tmp_path: Path, sample: dict[str, str]
) -> None:
    """While other probes start, stop and change options, execve stores each call exactly once.

    It is loaded once for this time, all accounts add up, and the agent reports each step.
    """
    agent = start(system, operator, tmp_path, INFRASIGHT_AGENT_POD="pod-1", **sample)
    report = operator.wait(lambda report: not report.not_streaming, "the first report")
    assert (report.node, report.pod, report.digest) == ("node-a", "pod-1", "")
    assert list(report.running) == []
    assert {"execve", "open", "sample"} <= set(report.installed)
    assert "containers" not in report.installed
    assert not agent.ready()
    assert f"waiting for a configuration from {operator.address}" in agent.get("readyz")
    assert agent.get("healthz") == "ok\n"
    execute("mark-early", 3)

    operator.send(configuration("one", "execve"))
    assert list(operator.wait(is_about("one"), "one is applied").running) == ["execve"]
    until(agent.ready, "the agent records and streams")
    stop = threading.Event()
    count = 0

    def work() -> None:
        nonlocal count
        while not stop.is_set():
            execute("mark-work", 1, count)
            count += 1

    worker = threading.Thread(target=work)
    worker.start()
    steps = [
        configuration("two", "execve", "sample", "open"),
        configuration("three", "execve", "sample", options={"sample": {"slots": 8192}}),
        configuration("four", "execve", filters={"execve": {"exclude_comm": ["nobody"]}}),
        configuration("five", "sample", "execve"),
    ]
    for step in steps:
        operator.send(step)
        report = operator.wait(is_about(step.digest), f"{step.digest} is applied")
        assert sorted(report.running) == sorted(json.loads(step.settings)["probes"])
        assert not report.failures
    stop.set()
    worker.join()
    operator.send(configuration("none"))
    assert list(operator.wait(is_about("none"), "none is applied").running) == []
    until(agent.ready, "the agent is ready without probes")
    assert "recording nothing" in agent.get("readyz")
    execute("mark-late", 3)
    operator.send(configuration("again", "execve"))
    operator.wait(is_about("again"), "again is applied")
    execute("mark-again", 3)
    assert agent.stop() == 0
    assert stored_numbers(system, "mark-work") == list(range(count))
    assert count > 20
    assert system.rows("mark-early") == []
    assert system.rows("mark-late") == []
    assert len(system.rows("mark-again")) == 3
    runs = system.query("SELECT uniq(splitByChar('-', batch_id)[1]) AS n FROM execve_events")
    assert runs == [{"n": 2}]
    assert accounting_errors(system) == {"execve": 0, "open": 0, "sample": 0}


def test_invalid_part_of_a_configuration_fails_alone(
    system: System, operator: ControlServer, tmp_path: Path, sample: dict[str, str]
) -> None:
    """Unknown probes and invalid options and filters fail with a reason; all other probes run.

    A probe that already runs continues with its previous options, and a corrected one starts.
    """
    agent = start(system, operator, tmp_path, INFRASIGHT_AGENT_OPTIONS__USERS__ETC="/etc", **sample)
    operator.send(configuration("good", "sample", "execve", options={"sample": {"slots": 2048}}))
    operator.wait(is_about("good"), "the configuration is applied")
    execute("mark-before", 2)
    operator.send(
        configuration(
            "bad",
            *("sample", "execve", "open", "chmod", "connect", "nonsense", "users"),
            options={
                "sample": {"slots": 1000},
                "open": {"x": 1},
                "chmod": 5,
                "unknown_plugin": {},
                "reverse_dns": {"wait": 1},
            },
            filters={"execve": {"include_pid": ["x"]}, "connect": {"include_path": ["/etc/"]}},
        )
    )
    report = operator.wait(is_about("bad"), "the configuration is applied")
    assert report.rejected == ""
    expected = {
        "sample": "slots = 1000 is not a power of two of at least 64; "
        "the previous settings stay active",
        "execve": "filters.execve.include_pid",
        "open": "options.open",
        "chmod": "options.chmod",
        "nonsense": "no installed plugin is called 'nonsense'",
        "unknown_plugin": "no installed plugin is called 'unknown_plugin'",
        "users": "it is not a probe",
        "reverse_dns": "unknown key options.reverse_dns.wait",
    }
    assert failures(report).keys() == expected.keys()
    for name, text in expected.items():
        assert text in failures(report)[name], name
    assert list(report.running) == ["connect", "execve", "sample"]
    assert not agent.ready()
    assert "is not a power of two" in agent.get("readyz")
    execute("mark-before", 2, 2)
    operator.send(configuration("corrected", "sample", "execve", "open"))
    report = operator.wait(is_about("corrected"), "the configuration is applied")
    assert (list(report.running), failures(report)) == (["execve", "open", "sample"], {})
    assert agent.stop() == 0
    assert len(system.rows("mark-before")) == 4
    assert {row["user"] for row in system.rows("mark-before", "user")} == {"root"}


@pytest.fixture(scope="module")
def following(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Following]:
    """An agent that runs execve by an operator's configuration, the operator, and its state."""
    folder = tmp_path_factory.mktemp("following")
    with running_system(folder) as system, ControlServer() as operator:
        system.start_server()
        agent = start(system, operator, folder)
        operator.send(configuration("good", "execve"))
        operator.wait(is_about("good"), "the configuration is applied")
        yield agent, operator, folder / "state"
        assert agent.stop() == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("{", "its settings are not JSON"),
        ("[" * 100_000, "its settings are not JSON"),
        ('["execve"]', "its settings are not a table"),
        ('{"probe": ["open"]}', "its settings have no list `probes`"),
        ('{"probes": "open"}', "its settings have no list `probes`"),
    ],
)
def test_unreadable_configuration_is_rejected_as_a_whole(
    following: Following, settings: str, message: str
) -> None:
    """It is rejected with the error; running probes continue, and the saved configuration stays."""
    agent, operator, state = following
    digest = f"bad {uuid.uuid4()}"
    operator.send(Configuration(digest=digest, settings=settings))
    report = operator.wait(is_about(digest), "the configuration is applied")
    assert message in report.rejected
    assert list(report.running) == ["execve"]
    assert json.loads((state / "configuration.json").read_text())["digest"] == "good"
    assert message in agent.get("readyz")


def test_saved_configuration_is_used_while_operator_is_unavailable(
    system: System, tmp_path: Path
) -> None:
    """Without a saved configuration the agent waits; with one it records at once.

    When the operator is back, the agent reports to it and applies its next configuration.
    """
    with ControlServer(started=False) as operator:
        agent = start(system, operator, tmp_path)
        until(lambda: "UNAVAILABLE" in agent.get("readyz"), "readyz names the operator")
        assert f"waiting for a configuration from {operator.address}: UNAVAILABLE" in agent.get(
            "readyz"
        )
        assert agent.get("healthz") == "ok\n"
        operator.start()
        operator.send(configuration("first", "execve", options={"users": {"etc": "/etc"}}))
        operator.wait(is_about("first"), "the configuration is applied")
        operator.stop()
        until(
            lambda: agent.log().count("no stream to the operator") >= 2,
            "the agent has noticed that the operator is unavailable",
        )
        execute("mark-offline", 3)
        assert agent.ready()
        assert agent.stop() == 0

        agent = start(system, operator, tmp_path)
        until(agent.ready, "the agent records with the saved configuration")
        execute("mark-offline", 3, 3)
        operator.reports.clear()
        operator.start()
        report = operator.wait(is_about("first"), "the agent reports to the restarted operator")
        assert list(report.running) == ["execve"]
        operator.send(configuration("second", "open"))
        assert list(operator.wait(is_about("second"), "the configuration is applied").running) == [
            "open"
        ]
        assert agent.stop() == 0
        state = tmp_path / "state/configuration.json"
        assert json.loads(state.read_text())["digest"] == "second"
        assert state.stat().st_mode & 0o077 == 0
    assert stored_numbers(system, "mark-offline") == list(range(6))


def test_damaged_saved_configuration_is_reported(
    system: System, operator: ControlServer, tmp_path: Path
) -> None:
    """The agent reports the damaged file, and the next configuration replaces it."""
    state = tmp_path / "state/configuration.json"
    state.parent.mkdir()
    state.write_text('{"digest": "x", "settings"')
    agent = start(system, operator, tmp_path)
    report = operator.wait(lambda report: bool(report.failures), "the damage is reported")
    assert f"{state}: the saved configuration is damaged" in failures(report)["state"]
    assert not agent.ready()
    operator.send(configuration("new", "execve"))
    operator.wait(
        lambda report: report.digest == "new" and not report.failures,
        "the new configuration is applied",
    )
    assert agent.stop() == 0
    assert json.loads(state.read_text())["digest"] == "new"


def test_unwritable_state_folder_is_reported(
    system: System, operator: ControlServer, tmp_path: Path
) -> None:
    """A configuration that cannot be saved is applied, and the report names the problem."""
    (tmp_path / "state").write_text("a file, not a folder")
    agent = start(system, operator, tmp_path)
    operator.send(configuration("one", "execve"))
    report = operator.wait(
        lambda report: report.digest == "one" and bool(report.failures), "the problem is reported"
    )
    assert "choose a folder that this user may write to" in failures(report)["state"]
    assert list(report.running) == ["execve"]
    assert agent.stop() == 0


def test_missing_stream_to_the_server_is_reported(operator: ControlServer, tmp_path: Path) -> None:
    """Without a server the probes run, and the report names the cause until there is one."""
    with running_system(tmp_path) as system:
        agent = start(system, operator, tmp_path)
        operator.send(configuration("one", "execve"))
        report = operator.wait(is_about("one"), "the configuration is applied")
        assert "UNAVAILABLE" in report.not_streaming or report.not_streaming == "not connected yet"
        system.start_server()
        operator.wait(lambda report: report.not_streaming == "", "the stream is open")
        assert agent.stop() == 0


def test_agent_trusts_only_an_operator_of_its_ca(tmp_path: Path) -> None:
    """With TLS, an operator of another CA is rejected, and readyz names the certificate error."""
    own_ca = CertificateAuthority(tmp_path / "own", "own")
    other_ca = CertificateAuthority(tmp_path / "other", "other")
    agent_files = own_ca.issue("agent", uris=("agent/node-a",))
    tls = (
        *("--tls-certificate", str(agent_files.certificate)),
        *("--tls-key", str(agent_files.key)),
        *("--tls-ca", str(agent_files.ca)),
    )
    with running_system(tmp_path) as system, ControlServer(other_ca.issue("operator")) as impostor:
        agent = start(system, impostor, tmp_path, *tls)
        impostor.send(configuration("evil", "execve"))
        until(
            lambda: "CERTIFICATE_VERIFY_FAILED" in agent.get("readyz"),
            "the certificate is rejected",
        )
        assert impostor.reports == []
        assert agent.stop() == 0
    with running_system(tmp_path) as system, ControlServer(own_ca.issue("operator")) as operator:
        agent = start(system, operator, tmp_path, *tls)
        operator.send(configuration("one", "execve"))
        report = operator.wait(is_about("one"), "the configuration is applied")
        assert list(report.running) == ["execve"]
        assert agent.stop() == 0


def test_plaintext_to_another_machine_must_be_explicit(tmp_path: Path) -> None:
    """An agent whose operator is on another machine does not start without TLS or --plaintext."""
    command: list[str | Path] = [BIN / "infrasight", "agent"]
    command += ["--operator", "operator.example:7444", "--state", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 1, done.stderr
    assert "operator.example:7444 is not on this machine and there is no TLS" in done.stderr
