"""Attacks of a hostile operator, or of a local user who took its port, on an agent.

One agent follows the operator through all tests. After each attack the operator behaves: the agent
must still record with the honest configuration, and deliver exactly the events.
"""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from infrasight.v1.control_pb2 import Configuration, FollowResponse, Package
from infrasight_core.packages import install
from infrasight_core.packages.index import PackageIndex
from infrasight_testbed.hostile_server import Attack, HostileOperator, HostileServer
from infrasight_testbed.ports import free_port
from infrasight_testbed.system import BIN, Process, execute, until

HONEST = Configuration(digest="honest", settings='{"probes": ["execve"]}')
EVENTS = 5
MOST_GROWTH = 100 << 20  # bytes of the agent's memory during one attack


class Victim:
    """An agent process with an operator that attacks it, and an honest server.

    Args:
        folder: For its log and state.
    """

    def __init__(self, folder: Path) -> None:
        self.operator = HostileOperator(HONEST)
        self.server = HostileServer()
        status = f"127.0.0.1:{free_port()}"
        command: list[str | Path] = [BIN / "infrasight", "agent", "--server", self.server.address]
        command += ["--operator", self.operator.address, "--state", folder / "state"]
        command += ["--status-listen", status]
        self.process = Process(command, folder / "agent.log", status)
        until(self.process.ready, "the agent records and streams")

    def is_alive(self) -> bool:
        """Whether the process has not ended."""
        return "State:\tZ" not in Path(f"/proc/{self.process.pid}/status").read_text()

    def memory(self) -> int:
        """The most memory that it has used so far, in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) << 10

    def violations(self, name: str) -> float:
        """How often it has counted a violation of the protocol."""
        return self.process.metric(
            f'infrasight_stream_violations_total{{peer="operator",violation="{name}"}}'
        )

    def assert_records(self) -> None:
        """Asserts that it follows the honest configuration and delivers exactly its events."""
        marker = f"attack-{uuid.uuid4().hex}"
        until(self.process.ready, "the agent is ready", 30)
        execute(marker, EVENTS)
        expected = list(range(EVENTS))
        until(lambda: self.server.events(marker) == expected, "each event is delivered once", 30)
        assert "recording execve" in self.process.get("readyz")
        assert self.process.log().count('"event": "probe attached"') == 1, "it never stopped"

    def survive(self, attack: Attack) -> str:
        """Asserts that it records on after an attack; returns what it has logged since."""
        log_before = len(self.process.log())
        memory_before = self.memory()
        self.operator.attack(attack)
        assert self.is_alive(), self.process.log()
        self.assert_records()
        assert self.memory() - memory_before < MOST_GROWTH
        return self.process.log()[log_before:]


@pytest.fixture(scope="module")
def agents() -> Iterator[list[Victim]]:
    """The agents so far; the last one is in use."""
    victims: list[Victim] = []
    yield victims
    for victim in victims:
        victim.process.kill()
        victim.operator.stop()
        victim.server.stop()


@pytest.fixture
def victim(agents: list[Victim], tmp_path: Path) -> Victim:
    """The agent; another one if an attack has ended it."""
    if not agents or not agents[-1].is_alive():
        agents.append(Victim(tmp_path))
    return agents[-1]


def sends(*messages: bytes) -> Attack:
    """Sends these bytes as soon as the agent has connected, and waits until it reacts."""

    def attack(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        yield from messages
        for _ in requests:
            continue

    return attack


def settings(**table: Any) -> Configuration:
    """A configuration with these settings, which may hold anything that JSON can."""
    return Configuration(digest=uuid.uuid4().hex, settings=json.dumps(table))


def test_configuration_that_is_no_message_does_not_end_the_agent(victim: Victim) -> None:
    """An operator sends bytes that are not protobuf; the agent reconnects and records on."""
    before = victim.violations("malformed")
    victim.survive(sends(b"\x0a\xff\xff\xff\xff"))
    assert victim.violations("malformed") == before + 1


def test_message_without_a_configuration_does_not_end_recording(victim: Victim) -> None:
    """An operator sends empty and unknown messages; they are no configuration without probes."""
    expected = victim.violations("unknown_message") + 2

    def attack(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        yield from (b"", b"\xa2\x06\x03abc")
        # The end of a stream may reach the agent before the last messages.
        until(lambda: victim.violations("unknown_message") == expected, "both are counted")

    victim.survive(attack)
    assert victim.violations("unknown_message") == expected


def test_text_that_is_not_utf8_does_not_end_the_agent(victim: Victim) -> None:
    """An operator sends settings that are not UTF-8; they are no message of the protocol."""
    message = FollowResponse(configuration=Configuration(digest="x", settings="~~~~"))
    before = victim.violations("malformed")
    victim.survive(sends(message.SerializeToString().replace(b"~~~~", b"\xff\xfe\x00\xff")))
    assert victim.violations("malformed") == before + 1


@pytest.mark.parametrize(
    "text",
    ["probes = []", "", "[" * 100_000, '{"probes": [' + "1" * 5000 + "]}", '{"probes": "all"}'],
    ids=["TOML", "empty", "deep", "huge number", "wrong type"],
)
def test_settings_that_are_no_configuration_are_rejected(victim: Victim, text: str) -> None:
    """An operator sends settings that are not usable; the previous ones stay active."""
    report = victim.operator.send(Configuration(digest=uuid.uuid4().hex, settings=text))
    assert report.rejected or report.failures
    assert list(report.running) == ["execve"]
    victim.assert_records()


def test_names_that_no_report_can_hold_are_escaped(victim: Victim) -> None:
    """An operator names probes with lone surrogates and escapes; the agent still reports."""
    names = ["execve", "\ud800", "\x1b[31m\n", "x" * 100_000]
    table = {name: {"a": 1} for name in names[1:]}
    report = victim.operator.send(settings(probes=names, options=table, filters=table))
    failures = [failure.name for failure in report.failures]
    assert {"\\ud800", "\\x1b[31m"} <= set(failures)
    assert max(map(len, failures)) <= 256
    victim.assert_records()


def test_thousand_unknown_probes_do_not_make_a_huge_report(victim: Victim) -> None:
    """An operator names as many unknown probes as it may; the report stays small."""
    names = ["execve", *("x" * 200 + str(number) for number in range(990))]
    report = victim.operator.send(settings(probes=names))
    assert report.failures[-1].reason == "and 890 more failures"
    assert report.ByteSize() < 200_000
    victim.assert_records()


def test_long_digest_is_rejected(victim: Victim) -> None:
    """An operator's digest of 100,000 characters is neither saved nor repeated in reports."""
    digest = "\x1b" * 100_000
    report = victim.operator.send(Configuration(digest=digest, settings=HONEST.settings))
    assert "digest is longer" in report.rejected
    assert report.ByteSize() < 10_000
    victim.assert_records()


def test_huge_configuration_is_not_received(victim: Victim) -> None:
    """An operator sends 10 MB of settings; the agent does not receive more than 4 MiB."""
    huge = FollowResponse(configuration=Configuration(digest="x", settings=" " * 10_000_000))
    log = victim.survive(sends(huge.SerializeToString()))
    assert "RESOURCE_EXHAUSTED" in log


def test_flood_of_configurations_does_not_fill_the_agents_memory(victim: Victim) -> None:
    """An operator sends 300 MB of different configurations; only the newest one counts."""

    def attack(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        padding = " " * 1_000_000
        for number in range(300):
            text = HONEST.settings + padding
            configuration = Configuration(digest=f"{number}", settings=text)
            yield FollowResponse(configuration=configuration).SerializeToString()

    victim.survive(attack)


def test_packages_with_options_in_their_names_never_reach_pip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator hides options, URLs, paths and lines in packages; none of them reaches pip."""
    digest = "sha256:" + "0" * 64
    packages = [
        Package(name=name, version=version, hashes=[hashed])
        for name, version, hashed in (
            ("--index-url=http://evil.example/", "1.0", digest),
            ("-r/etc/passwd", "1.0", digest),
            ("../../usr/lib/python3/evil", "1.0", digest),
            ("/tmp/evil.whl", "1.0", digest),
            ("evil @ https://evil.example/evil.whl", "1.0", digest),
            ("git+https://evil.example/evil", "1.0", digest),
            ("evil\n--pre", "1.0", digest),
            ("evil[extra]", "1.0", digest),
            ("evil1", "1.0 --extra-index-url http://evil.example/", digest),
            ("evil2", "1.0\n", digest),
            ("evil3", "1.*", digest),
            ("evil4", ">=1", digest),
            ("evil5", "1.0", f"{digest} --no-deps"),
            ("evil6", "1.0", f"{digest}\n--pre"),
        )
    ]

    def fail(*arguments: object) -> None:
        pytest.fail(f"pip runs with {arguments}")

    monkeypatch.setattr(install, "run_pip", fail)
    index = PackageIndex()
    report = install.Installation(tmp_path, packages, 60, index).run()
    assert report.installed == ()
    reasons = {failed.name: failed.reason for failed in report.failures}
    assert reasons.keys() == {package.name for package in packages}
    assert all(" is not " in reason for reason in reasons.values())
