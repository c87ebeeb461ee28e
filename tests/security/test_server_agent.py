"""Attacks of a hostile server, or of a local user who took its port, on an agent.

One agent records through all tests. Each test attacks it with raw bytes over a real socket; then
the server behaves, and the agent must deliver exactly the events of that time.
"""

import itertools
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from infrasight.v1.stream_pb2 import (
    Acknowledgement,
    ProbeAnswer,
    Rejection,
    StreamRequest,
    StreamResponse,
    Welcome,
)
from infrasight_testbed.certificates import CertificateAuthority
from infrasight_testbed.hostile_server import WELCOME, Attack, HostileServer
from infrasight_testbed.ports import free_port
from infrasight_testbed.system import BIN, Process, execute, until

EVENTS = 5
MOST_GROWTH = 100 << 20  # bytes of the agent's memory during one attack
TERMINAL = "\x1b]0;owned\x07\x1b[2J"


class Victim:
    """An agent process with a server that attacks it.

    Args:
        folder: For its log.
        server: The server.
        options: Further options of the agent.
    """

    def __init__(self, folder: Path, server: HostileServer, *options: str | Path) -> None:
        self.server = server
        status = f"127.0.0.1:{free_port()}"
        command: list[str | Path] = [BIN / "infrasight", "agent", "--server", server.address]
        command += ["--status-listen", status, "--probe", "execve", *options]
        self.process = Process(command, folder / "agent.log", status)
        until(self.process.ready, "the agent streams")

    def is_alive(self) -> bool:
        """Whether the process has not ended."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return "State:\tZ" not in status

    def memory(self) -> int:
        """The most memory that it has used so far, in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) << 10

    def violations(self, name: str) -> float:
        """How often it has counted a violation of the protocol."""
        return self.process.metric(
            f'infrasight_stream_violations_total{{peer="server",violation="{name}"}}'
        )

    def survive(self, attack: Attack, times: int = 1) -> str:
        """Asserts that it lives on after an attack and delivers exactly its events.

        Events happen before and after the attack.

        Returns:
            What it has logged since.
        """
        marker = f"attack-{uuid.uuid4().hex}"
        log_before = len(self.process.log())
        memory_before = self.memory()
        execute(marker, EVENTS)
        self.server.attack(attack, times)
        execute(marker, EVENTS, first=EVENTS)
        expected = list(range(2 * EVENTS))
        until(lambda: self.server.events(marker) == expected, "each event is delivered once", 30)
        assert self.is_alive(), self.process.log()
        until(self.process.ready, "the agent is ready", 30)
        assert self.memory() - memory_before < MOST_GROWTH
        return self.process.log()[log_before:]


@pytest.fixture(scope="module")
def agents() -> Iterator[list[Victim]]:
    """The agents so far; the last one is in use."""
    victims: list[Victim] = []
    yield victims
    for victim in victims:
        victim.process.kill()
        victim.server.stop()


@pytest.fixture
def victim(agents: list[Victim], tmp_path: Path) -> Victim:
    """The agent; another one if an attack has ended it."""
    if not agents or not agents[-1].is_alive():
        agents.append(Victim(tmp_path, HostileServer()))
    return agents[-1]


def answer(**message: Any) -> bytes:
    """The bytes of one answer."""
    return StreamResponse(**message).SerializeToString()


def sends(*messages: bytes) -> Attack:
    """Sends these bytes as soon as the agent has connected, and waits until it reacts."""

    def attack(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        yield from messages
        for _ in requests:
            continue

    return attack


def sends_and_ends(*messages: bytes) -> Attack:
    """Sends these bytes as soon as the agent has connected, and ends the stream in order."""
    return lambda requests, context: iter(messages)


def test_bytes_that_are_no_message_do_not_end_the_agent(victim: Victim) -> None:
    """A server answers hello with bytes that are not protobuf; the agent reconnects."""
    before = victim.violations("malformed")
    log = victim.survive(sends(b"\xff\xff\xff\xff"))
    assert "bytes that are not a message of the protocol" in log
    assert victim.violations("malformed") == before + 1


def test_half_a_message_after_the_welcome_does_not_end_the_agent(victim: Victim) -> None:
    """A server cuts an acknowledgement in the middle; the agent breaks the stream."""
    whole = answer(acknowledgement=Acknowledgement(batch_id="x" * 100))
    before = victim.violations("malformed")
    victim.survive(sends(WELCOME, whole[:50]))
    assert victim.violations("malformed") == before + 1


def test_rejection_with_an_unknown_reason_does_not_end_the_agent(victim: Victim) -> None:
    """A server rejects a batch for a reason that does not exist; it is counted as `unknown`."""

    def attack(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        yield WELCOME
        execute(f"rejected-{uuid.uuid4().hex}", 1)
        for request in requests:
            batch = StreamRequest.FromString(request).batch
            if batch.rows:
                rejection: Any = {"batch_id": batch.batch_id, "reason": 4711, "detail": TERMINAL}
                yield answer(rejection=Rejection(**rejection))
                return

    victim.server.attack(attack)
    rejected = 'infrasight_events_rejected_total{probe="execve",reason="unknown"}'
    until(lambda: victim.process.metric(rejected) > 0, "the rejection is counted", 30)
    victim.survive(sends_and_ends(WELCOME))
    assert "\\\\x1b]0;owned" in victim.process.log()  # escaped, and the backslash again as JSON


def test_unknown_message_is_ignored_and_counted(victim: Victim) -> None:
    """A server sends messages of no known kind; the agent ignores and counts them."""
    expected = victim.violations("unknown_message") + 2

    def attack(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        yield from (WELCOME, b"\xa2\x06\x03abc", b"")
        # The end of a stream may reach the agent before the last messages.
        until(lambda: victim.violations("unknown_message") == expected, "both are counted")

    victim.survive(attack)
    assert victim.violations("unknown_message") == expected


def test_answer_before_the_welcome_breaks_the_stream(victim: Victim) -> None:
    """A server acknowledges and never welcomes; the agent does not report the stream as open."""
    before = victim.violations("no_welcome")
    log = victim.survive(sends(answer(acknowledgement=Acknowledgement(batch_id="x"))))
    assert victim.violations("no_welcome") == before + 1
    assert log.count("stream open") == 1  # the honest one


def test_flood_of_welcomes_breaks_the_stream(victim: Victim) -> None:
    """A server welcomes without end; the agent breaks the stream at the second one."""
    before = victim.violations("unexpected_welcome")
    log = victim.survive(lambda requests, context: itertools.repeat(WELCOME, 1_000_000))
    assert victim.violations("unexpected_welcome") == before + 1
    assert log.count("stream open") == 2


def test_flood_of_acknowledgements_of_unknown_batches_breaks_the_stream(victim: Victim) -> None:
    """A server acknowledges a million batches that do not exist; the agent soon stops reading."""

    def attack(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        yield WELCOME
        for number in range(1_000_000):
            yield answer(acknowledgement=Acknowledgement(batch_id=f"{number}"))

    before = victim.violations("unknown_batch")
    log = victim.survive(attack)
    assert victim.violations("unknown_batch") == before + 1001
    assert "more messages to ignore" in log


def test_huge_answer_is_not_received(victim: Victim) -> None:
    """A server sends an answer of 16 MiB; the agent does not receive more than 1 MiB."""
    rejection = Rejection(batch_id="none", detail="x" * (16 << 20))
    log = victim.survive(sends(WELCOME, answer(rejection=rejection)))
    assert "RESOURCE_EXHAUSTED" in log


def test_compressed_huge_answer_is_not_received(victim: Victim) -> None:
    """A server sends 64 KiB that become 64 MiB; the agent does not decompress them."""

    def attack(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        context.set_compression(grpc.Compression.Gzip)
        yield WELCOME
        yield answer(rejection=Rejection(batch_id="none", detail="x" * (64 << 20)))
        for _ in requests:
            continue

    log = victim.survive(attack)
    assert "RESOURCE_EXHAUSTED" in log


@pytest.mark.parametrize(
    "folder",
    [b"/", b"/etc", b"/proc/self", b"/\0/\xff", b"/x" * 100_000],
    ids=["root", "etc", "proc", "no-text", "long"],
)
def test_folder_that_is_not_the_stores_hides_nothing(victim: Victim, folder: bytes) -> None:
    """A welcome names any folder as the store's, to hide who opens its files; it has no effect."""
    message = answer(welcome=Welcome(server_version="1.0", store_folder=folder))

    def attack(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        next(requests)
        yield message

    assert "not recorded" not in victim.survive(attack)


def test_text_for_the_terminal_is_escaped_and_bounded_in_the_log(victim: Victim) -> None:
    """A server's version, reasons and status control no terminal and fill no disk."""

    def attack(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        text = TERMINAL + "x" * 200_000
        rejected = ProbeAnswer(probe="execve", accepted=False, reason=text)
        others = [ProbeAnswer(probe=f"{number}", reason="unannounced") for number in range(5000)]
        yield answer(welcome=Welcome(server_version=text, probes=[rejected, *others]))
        context.set_code(grpc.StatusCode.PERMISSION_DENIED)
        context.set_details(TERMINAL + "x" * 5000)

    log = victim.survive(attack)
    assert "\\\\x1b]0;owned" in log
    assert "unannounced" not in log
    assert len(log) < 10_000


def test_status_of_many_lines_is_one_line_of_readyz(victim: Victim) -> None:
    """A server ends streams with control characters in the status; `/readyz` escapes them."""
    pages = []

    def attack(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        pages.append(victim.process.get("readyz"))
        context.set_code(grpc.StatusCode.CANCELLED)
        context.set_details(f"a\nb{TERMINAL}")
        return iter(())

    victim.survive(attack, times=2)
    assert "a b\\x1b" in pages[-1]
    assert pages[-1].count("\n") == 1


def test_server_that_floods_and_never_reads_does_not_fill_the_agents_memory(
    victim: Victim,
) -> None:
    """A server welcomes, sends large answers without end and reads nothing; the stream breaks."""

    def attack(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        yield WELCOME
        large = answer(rejection=Rejection(batch_id="none", detail="x" * 1_000_000))
        yield from itertools.repeat(large)

    before = victim.violations("unknown_batch")
    victim.survive(attack)
    assert victim.violations("unknown_batch") == before + 1001


def test_agent_with_tls_sends_nothing_to_a_plaintext_server(tmp_path: Path) -> None:
    """A local user takes the port of a TLS server and offers plaintext; the agent says nothing."""
    authority = CertificateAuthority(tmp_path, "ca")
    certificate, key, ca = authority.issue("server").read()
    credentials = grpc.ssl_server_credentials([(key, certificate)], ca, require_client_auth=True)
    files = authority.issue("agent")
    tls: list[str | Path] = ["--tls-certificate", files.certificate, "--tls-key", files.key]
    tls += ["--tls-ca", files.ca]
    with HostileServer(credentials) as server:
        victim = Victim(tmp_path, server, *tls)
        try:
            server.stop()
            until(lambda: not victim.process.ready(), "the agent has no stream")
            streams = server.streams
            server.start(plaintext=True)
            failures = victim.process.log().count("no stream to the server")
            until(
                lambda: victim.process.log().count("no stream to the server") > failures,
                "the agent tries again",
            )
            server.stop()
            assert server.streams == streams
            server.start()
            until(victim.process.ready, "the agent streams again")
        finally:
            victim.process.kill()
