"""The command `infrasight-server`: it starts, stops cleanly, survives SIGKILL and names errors."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from infrasight_server.store.clickhouse import Store
from infrasight_testbed.agent_client import AgentClient
from infrasight_testbed.command import restore_interrupt
from infrasight_testbed.execve_batches import batch, hello, table

COMMAND = [sys.executable, "-m", "infrasight_server"]
FREE_PORTS = ["--listen", "127.0.0.1:0", "--plaintext", "--status-listen", "127.0.0.1:0"]


def environment(**variables: str) -> dict[str, str]:
    """Returns this process's environment without settings of InfraSight."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("INFRASIGHT_")}
    return inherited | variables


@contextmanager
def started(data: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Runs a server process with the execve probe; yields it and its address once it listens."""
    process = subprocess.Popen(
        [*COMMAND, *FREE_PORTS, "--data", str(data), "--probe", "execve"],
        stderr=subprocess.PIPE,
        env=environment(),
        preexec_fn=restore_interrupt,
    )
    assert process.stderr is not None
    try:
        for line in process.stderr:
            entry = json.loads(line)
            if entry["event"] == "listening":
                yield process, entry["address"]
                break
        else:
            pytest.fail(f"the server ended with status {process.wait()}")
    finally:
        process.kill()
        process.stderr.close()
        process.wait()


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs the command with arguments that make it end at once."""
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        env=environment(**variables),
        timeout=60,
        check=False,
    )


def connected(address: str) -> AgentClient:
    """Returns an agent that the server has welcomed."""
    agent = AgentClient(address)
    agent.send(hello())
    agent.answer()
    return agent


def stored_sequences(data: Path) -> list[int]:
    """Returns the sequence numbers in the embedded store, which no server may have open."""
    store = Store.embedded(data / "store", "infrasight")
    sequences: list[int] = []
    for piece in store.query("SELECT sequence FROM execve_events ORDER BY 1"):
        sequences += piece["sequence"].to_pylist()
    store.close()
    return sequences


def acknowledged_numbers(agent: AgentClient) -> list[int]:
    """Returns the numbers of the batches that are acknowledged until the stream ends."""
    responses = agent.rest()
    return [int(response.acknowledgement.batch_id.removeprefix("b")) for response in responses]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_the_server_after_storing_what_it_acknowledged(
    tmp_path: Path, number: signal.Signals
) -> None:
    """Exactly the acknowledged batches are stored, the stream ends, and the exit status is 0."""
    with started(tmp_path / "data") as (process, address):
        with connected(address) as agent:
            for position in range(8):
                agent.send(batch(f"b{position}", table(1000, first=1000 * position)))
            assert agent.answers(1) == {"b0": "stored"}
            process.send_signal(number)
            acknowledged = [0, *acknowledged_numbers(agent)]
        assert process.wait(60) == 0
    expected: list[int] = []
    for position in sorted(acknowledged):
        expected += range(1000 * position, 1000 * (position + 1))
    assert stored_sequences(tmp_path / "data") == expected


def test_killed_server_has_every_batch_once_after_a_restart(tmp_path: Path) -> None:
    """After SIGKILL the agent sends unacknowledged batches again: each row is stored once."""
    batches = 40
    rows = 2000
    with started(tmp_path / "data") as (process, address), connected(address) as agent:
        for position in range(batches):
            agent.send(batch(f"b{position}", table(rows, first=rows * position)))
        acknowledged = set(agent.answers(batches // 4))
        process.kill()
        acknowledged |= {f"b{position}" for position in acknowledged_numbers(agent)}
    unacknowledged = [n for n in range(batches) if f"b{n}" not in acknowledged]
    with started(tmp_path / "data") as (process, address), connected(address) as agent:
        for position in unacknowledged:
            agent.send(batch(f"b{position}", table(rows, first=rows * position), retry=True))
        answers = agent.answers(len(unacknowledged))
        assert answers == {f"b{position}": "stored" for position in unacknowledged}
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert stored_sequences(tmp_path / "data") == list(range(batches * rows))


def test_second_server_on_the_same_data_ends_with_an_error(tmp_path: Path) -> None:
    """The error says that the directory is in use, and the first server continues."""
    with started(tmp_path / "data") as (process, _):
        second = run(*FREE_PORTS, "--data", str(tmp_path / "data"))
        assert second.returncode == 1
        assert "is in use by another infrasight-server" in second.stderr
        assert process.poll() is None


def test_port_in_use_is_named(tmp_path: Path) -> None:
    """For either port the error is one line with the address, and the status is 1."""
    own = ("--plaintext", "--data", str(tmp_path / "data"), "--log-level", "error")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        grpc_in_use = run("--listen", address, "--status-listen", "127.0.0.1:0", *own)
        status_in_use = run("--listen", "127.0.0.1:0", "--status-listen", address, *own)
    for done in (grpc_in_use, status_in_use):
        assert done.returncode == 1
        assert done.stderr.startswith("infrasight-server: ")
        assert address in done.stderr
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "/proc/infrasight"], "data: cannot use /proc/infrasight/store as a folder"),
        (
            ["--store", "http://127.0.0.1:9/"],
            "cannot use the ClickHouse server at http://127.0.0.1:9/: Connection refused",
        ),
        (["--listen", "127.0.0.1:7443"], "every user of this machine could write and read"),
        (["--listen", "0.0.0.0:7443"], "0.0.0.0:7443 is not on this machine and there is no TLS"),
        (["--probe", "nowhere"], "no installed plugin is called 'nowhere'"),
        (["--max-insert-rows", "many"], "max_insert_rows"),
        (["--max-batch-bytes", "100000000"], "max_batch_bytes"),
        (["--log-level", "loud"], "loud"),
        (["--tls-key", "k"], "tls"),
    ],
)
def test_unusable_setting_is_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    """The line names the setting and the error; the status is 1, and there is no traceback."""
    done = run("--data", str(tmp_path), *arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr


def test_unknown_option_is_named() -> None:
    """The usage error names the option."""
    done = run("--nonsense")
    assert done.returncode == 2
    assert "--nonsense" in done.stderr


def test_options_override_variables_and_variables_the_file(tmp_path: Path) -> None:
    """Each of the three sources is used where no stronger one has the setting."""
    file = tmp_path / "server.toml"
    tls = '[tls]\ncertificate = "c"\nkey = "k"\nca = "a"\n'
    file.write_text(f'listen = "127.0.0.1:0"\nstore = "http://127.0.0.1:7/"\n{tls}')
    config = ("--config", str(file))
    variable = {"INFRASIGHT_SERVER_STORE": "http://127.0.0.1:8/"}
    assert "http://127.0.0.1:7/" in run(*config).stderr
    assert "http://127.0.0.1:8/" in run(*config, **variable).stderr
    assert (
        "http://127.0.0.1:9/" in run(*config, "--store", "http://127.0.0.1:9/", **variable).stderr
    )


def test_unknown_key_of_the_file_is_named(tmp_path: Path) -> None:
    """The error names the key and the setting that is meant."""
    file = tmp_path / "server.toml"
    file.write_text("max_insert_rowz = 5\n")
    done = run(INFRASIGHT_SERVER_CONFIG=str(file))
    assert done.returncode == 1
    assert "max_insert_rowz" in done.stderr
    assert "max_insert_rows" in done.stderr


def test_password_is_never_shown(tmp_path: Path) -> None:
    """The error about an unreachable store does not contain the password."""
    done = run(
        *("--data", str(tmp_path), "--store", "http://127.0.0.1:9/"),
        INFRASIGHT_SERVER_STORE_PASSWORD="hush-hush",
    )
    assert done.returncode == 1
    assert "hush-hush" not in done.stderr + done.stdout


def test_help_shows_examples_defaults_and_variables() -> None:
    """--help also names the commands that follow."""
    done = run("--help")
    assert done.returncode == 0
    for text in (
        "infrasight-server --data ./data",
        "[unix:/run/infrasight/server.sock]",
        "_TLS__CERTIFICATE",
        "infrasight query",
    ):
        assert text in done.stdout
