"""A real agent that follows an operator: what runs, is kept, is reported, and what is wrong hurts nobody else."""

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
    """A configuration that names these probes."""
    return Configuration(digest=digest, settings=json.dumps({"probes": probes, **settings}))


def failures(report: Report) -> dict[str, str]:
    """The reasons of a report, by name."""
    return {failure.name: failure.reason for failure in report.failures}


def taken(digest: str) -> Callable[[Report], bool]:
    """Whether a report says that a configuration has been dealt with."""
    return lambda report: report.digest == digest


@pytest.fixture
def sample(tmp_path: Path) -> dict[str, str]:
    """What has the probe `sample`, which takes an option, installed."""
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
    """An operator that has sent nothing yet."""
    with ControlServer() as server:
        yield server


def start(
    system: System, operator: ControlServer, tmp_path: Path, *options: str, **variables: str
) -> Process:
    """An agent that follows, and may not be ready yet."""
    following = ("--operator", operator.address, "--state", str(tmp_path / "state"))
    return system.start_agent(
        *following, *options, ready=False, every_probe=True, environment=variables
    )


def differences(system: System) -> dict[str, int]:
    """What the view of accounts has by probe that does not add up, of ended runs."""
    rows = system.query(
        "SELECT probe, sum(abs(difference)) + sum(block_full + heap_full + decode_failed + outbox_full + rejected) AS wrong "
        "FROM accounting WHERE probe != 'guard' GROUP BY probe"
    )
    return {row["probe"]: int(row["wrong"]) for row in rows}


def test_probes_come_change_and_go_while_another_loses_nothing(
    system: System, operator: ControlServer, tmp_path: Path, sample: dict[str, str]
) -> None:
    """From nothing to probes and back, one switched off, on and told other options under a workload: every call of the other
    one is stored once, it was loaded once, and the accounts of all add up; each step is reported."""
    agent = start(system, operator, tmp_path, INFRASIGHT_AGENT_POD="pod-1", **sample)
    report = operator.wait(lambda report: not report.not_streaming, "the first report")
    assert (report.node, report.pod, report.digest, list(report.running)) == (
        "node-a",
        "pod-1",
        "",
        [],
    )
    assert {"execve", "open", "sample"} <= set(report.installed)
    assert "containers" not in report.installed
    assert not agent.ready()
    assert f"waiting for a configuration from {operator.address}" in agent.get("readyz")
    assert agent.get("healthz") == "ok\n"
    execute("mark-early", 3)

    operator.send(configuration("one", "execve"))
    assert list(operator.wait(taken("one"), "one is taken").running) == ["execve"]
    until(agent.ready, "it records and streams")
    stop, count = threading.Event(), 0

    def work() -> None:
        nonlocal count
        while not stop.is_set():
            execute("mark-work", 1, count)
            count += 1

    worker = threading.Thread(target=work)
    worker.start()
    steps = [
        configuration("two", "execve", "sample", "open"),
        configuration("three", "execve", "sample", options={"sample": {"slots": 1024}}),
        configuration("four", "execve", filters={"execve": {"exclude_comm": ["nobody"]}}),
        configuration("five", "sample", "execve"),
    ]
    for step in steps:
        operator.send(step)
        report = operator.wait(taken(step.digest), f"{step.digest} is taken")
        assert sorted(report.running) == sorted(json.loads(step.settings)["probes"])
        assert not report.failures
    stop.set()
    worker.join()
    operator.send(configuration("none"))
    assert list(operator.wait(taken("none"), "none is taken").running) == []
    until(agent.ready, "it has nothing to do, and does it")
    assert "recording nothing" in agent.get("readyz")
    execute("mark-late", 3)
    operator.send(configuration("again", "execve"))
    operator.wait(taken("again"), "again is taken")
    execute("mark-again", 3)
    assert agent.stop() == 0
    assert sorted(
        int(row["number"]) for row in system.rows("mark-work", "argv[3] AS number")
    ) == list(range(count))
    assert count > 20
    assert (
        len(system.rows("mark-early")),
        len(system.rows("mark-late")),
        len(system.rows("mark-again")),
    ) == (0, 0, 3)
    runs = system.query("SELECT uniq(splitByChar('-', batch_id)[1]) AS n FROM execve_events")
    assert runs == [{"n": 2}]
    found = differences(system)
    assert found == dict.fromkeys(("execve", "open", "sample"), 0)


def test_what_is_wrong_with_one_probe_fails_alone(
    system: System, operator: ControlServer, tmp_path: Path, sample: dict[str, str]
) -> None:
    """Unknown probes, options and filters that are wrong, an enricher's, too: each is named with its reason; one that ran
    records on as before, the others come; what is put right runs."""
    agent = start(system, operator, tmp_path, INFRASIGHT_AGENT_OPTIONS__USERS__ETC="/etc", **sample)
    operator.send(configuration("good", "sample", "execve", options={"sample": {"slots": 2048}}))
    operator.wait(taken("good"), "it is taken")
    execute("mark-before", 2)
    operator.send(
        configuration(
            "bad",
            *("sample", "execve", "open", "chmod", "connect", "nonsense", "users"),
            options={
                "sample": {"slots": 1000},
                "open": {"x": 1},
                "chmod": 5,
                "stranger": {},
                "reverse_dns": {"wait": 1},
            },
            filters={"execve": {"include_pid": ["x"]}, "connect": {"include_path": ["/etc/"]}},
        )
    )
    report = operator.wait(taken("bad"), "it is taken")
    assert report.rejected == ""
    said = {
        "sample": "slots = 1000 is not a power of two of at least 64; the previous settings stay active",
        "execve": "filters.execve.include_pid",
        "open": "options.open",
        "chmod": "options.chmod",
        "nonsense": "no installed plugin is called 'nonsense'",
        "stranger": "no installed plugin is called 'stranger'",
        "users": "it is not a probe",
        "reverse_dns": "unknown key options.reverse_dns.wait",
    }
    assert failures(report).keys() == said.keys()
    for name, words in said.items():
        assert words in failures(report)[name], name
    assert list(report.running) == ["connect", "execve", "sample"]
    assert not agent.ready()
    assert "is not a power of two" in agent.get("readyz")
    execute("mark-before", 2, 2)
    operator.send(configuration("right", "sample", "execve", "open"))
    report = operator.wait(taken("right"), "it is taken")
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
        operator.wait(taken("good"), "it is taken")
        yield agent, operator, folder / "state"
        assert agent.stop() == 0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("{", "its settings are not JSON"),
        ("[" * 100_000, "its settings are not JSON"),
        ('["execve"]', "expected a table of probes, options, filters"),
        (
            '{"probe": ["open"]}',
            "unknown key probe (the operator's configuration): did you mean probes?",
        ),
        ('{"probes": ["open"], "server": "x:1"}', "unknown key server"),
        ('{"probes": "open"}', "probes = 'open'"),
        (
            '{"probes": ["open"], "filters": {"all": {"exclude_uid": [-1]}}}',
            "filters.all.exclude_uid",
        ),
    ],
)
def test_a_configuration_that_cannot_be_read_changes_nothing(
    following: Following, settings: str, said: str
) -> None:
    """It is rejected as a whole with what is wrong; what ran records on, and the file keeps the last good one."""
    agent, operator, state = following
    digest = f"bad {uuid.uuid4()}"
    operator.send(Configuration(digest=digest, settings=settings))
    report = operator.wait(taken(digest), "it is taken")
    assert said in report.rejected
    assert list(report.running) == ["execve"]
    assert json.loads((state / "configuration.json").read_text())["digest"] == "good"
    assert said in agent.get("readyz")


def test_it_starts_with_what_was_kept_while_the_operator_is_away(
    system: System, tmp_path: Path
) -> None:
    """Without a kept configuration it waits, alive; with one it records at once; the operator that comes back is told, and
    what it then sends comes into force; one that dies changes nothing."""
    with ControlServer(started=False) as operator:
        agent = start(system, operator, tmp_path)
        until(lambda: "UNAVAILABLE" in agent.get("readyz"), "it says whom it waits for")
        assert f"waiting for a configuration from {operator.address}: UNAVAILABLE" in agent.get(
            "readyz"
        )
        assert agent.get("healthz") == "ok\n"
        operator.start()
        operator.send(configuration("first", "execve", options={"users": {"etc": "/etc"}}))
        operator.wait(taken("first"), "it is taken")
        operator.stop()
        until(
            lambda: agent.log().count("no stream to the operator") >= 2,
            "it has seen that the operator is gone",
        )
        execute("mark-away", 3)
        assert agent.ready()
        assert agent.stop() == 0

        agent = start(system, operator, tmp_path)
        until(agent.ready, "it records what was kept")
        execute("mark-away", 3, 3)
        operator.reports.clear()
        operator.start()
        report = operator.wait(taken("first"), "it reports when the operator is back")
        assert list(report.running) == ["execve"]
        operator.send(configuration("second", "open"))
        assert list(operator.wait(taken("second"), "it is taken").running) == ["open"]
        assert agent.stop() == 0
        state = tmp_path / "state/configuration.json"
        assert json.loads(state.read_text())["digest"] == "second"
        assert state.stat().st_mode & 0o077 == 0
    assert sorted(
        int(row["number"]) for row in system.rows("mark-away", "argv[3] AS number")
    ) == list(range(6))


def test_a_kept_configuration_that_is_damaged_is_reported(
    system: System, operator: ControlServer, tmp_path: Path
) -> None:
    """The agent waits as without one, says what is wrong with the file, and the next configuration takes its place."""
    state = tmp_path / "state/configuration.json"
    state.parent.mkdir()
    state.write_text('{"digest": "x", "settings"')
    agent = start(system, operator, tmp_path)
    report = operator.wait(lambda report: bool(report.failures), "the damage is reported")
    assert f"{state}: the saved configuration is damaged" in failures(report)["state"]
    assert not agent.ready()
    operator.send(configuration("new", "execve"))
    operator.wait(lambda report: report.digest == "new" and not report.failures, "all is well")
    assert agent.stop() == 0
    assert json.loads(state.read_text())["digest"] == "new"


def test_a_folder_that_cannot_be_written_is_reported(
    system: System, operator: ControlServer, tmp_path: Path
) -> None:
    """Where the configuration cannot be kept it comes into force all the same, and the report says so."""
    (tmp_path / "state").write_text("no folder")
    agent = start(system, operator, tmp_path)
    operator.send(configuration("one", "execve"))
    report = operator.wait(
        lambda report: report.digest == "one" and bool(report.failures), "it is reported"
    )
    assert "set `state` to a writable folder" in failures(report)["state"]
    assert list(report.running) == ["execve"]
    assert agent.stop() == 0


def test_it_reports_that_no_events_reach_the_server(
    operator: ControlServer, tmp_path: Path
) -> None:
    """Without a server the report says why, and the probes run; once the server is there it says so."""
    with running_system(tmp_path) as system:
        agent = start(system, operator, tmp_path)
        operator.send(configuration("one", "execve"))
        report = operator.wait(taken("one"), "it is taken")
        assert "UNAVAILABLE" in report.not_streaming or report.not_streaming == "not connected yet"
        system.start_server()
        operator.wait(lambda report: report.not_streaming == "", "the stream is open")
        assert agent.stop() == 0


def test_it_follows_by_mutual_tls_only_whom_its_ca_signed(tmp_path: Path) -> None:
    """With TLS files the operator is followed; one of another CA is not, and readyz says that its certificate is wrong."""
    ours, others = (
        CertificateAuthority(tmp_path / "ours", "ours"),
        CertificateAuthority(tmp_path / "others", "others"),
    )
    agent_files = ours.issue("agent")
    tls: tuple[str, ...] = (
        "--tls-certificate",
        str(agent_files.certificate),
        "--tls-key",
        str(agent_files.key),
    )
    tls += ("--tls-ca", str(agent_files.ca))
    with running_system(tmp_path) as system, ControlServer(others.issue("stranger")) as stranger:
        agent = start(system, stranger, tmp_path, *tls)
        stranger.send(configuration("evil", "execve"))
        until(
            lambda: "CERTIFICATE_VERIFY_FAILED" in agent.get("readyz"),
            "the certificate is rejected",
        )
        assert stranger.reports == []
        assert agent.stop() == 0
    with running_system(tmp_path) as system, ControlServer(ours.issue("operator")) as operator:
        agent = start(system, operator, tmp_path, *tls)
        operator.send(configuration("one", "execve"))
        assert list(operator.wait(taken("one"), "it is taken").running) == ["execve"]
        assert agent.stop() == 0


def test_plaintext_to_another_machine_must_be_asked_for(tmp_path: Path) -> None:
    """An operator that is not on this machine is not followed without TLS, unless told so: the agent does not start."""
    command: list[str | Path] = [
        BIN / "infrasight",
        "agent",
        "--operator",
        "operator.example:7444",
        "--state",
        tmp_path,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 1, done.stderr
    assert "operator.example:7444 is not on this machine and there is no TLS" in done.stderr
