"""The command itself: it starts, stops cleanly, survives being killed, and says in one line what is wrong."""

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

COMMAND = [
    sys.executable,
    "-m",
    "infrasight_server",
    "--listen",
    "127.0.0.1:0",
    "--status-listen",
    "127.0.0.1:0",
]


def environment(**further: str) -> dict[str, str]:
    """This process's environment without settings of a server that a developer may run."""
    return {k: v for k, v in os.environ.items() if not k.startswith("INFRASIGHT_")} | further


@contextmanager
def started(data: Path, **variables: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A server process with the execve probe that listens, and its address."""
    with (data.parent / "log").open("w+b") as log:
        process = subprocess.Popen(
            [*COMMAND, "--data", str(data), "--probe", "execve"],
            stderr=subprocess.PIPE,
            env=environment(**variables),
            preexec_fn=restore_interrupt,
        )
        assert process.stderr is not None
        try:
            for line in process.stderr:
                log.write(line)
                if (said := json.loads(line))["event"] == "listening":
                    yield process, said["address"]
                    break
            else:
                pytest.fail(f"the server ended with status {process.wait()}")
        finally:
            process.kill()
            process.stderr.close()
            process.wait()


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command with arguments that make it end at once."""
    command = [sys.executable, "-m", "infrasight_server", *arguments]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=environment(**variables),
        timeout=60,
        check=False,
    )


def sequences(data: Path) -> list[int]:
    """The sequence numbers in the embedded store, once no server has it open."""
    store = Store.embedded(data / "store", "infrasight")
    found = [
        v
        for piece in store.query("SELECT sequence FROM execve_events ORDER BY 1")
        for v in piece["sequence"].to_pylist()
    ]
    store.close()
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_with_everything_stored(tmp_path: Path, number: signal.Signals) -> None:
    """What was sent before the signal and is acknowledged is stored, the stream ends well, the exit status is 0."""
    with started(tmp_path / "data") as (process, address):
        with AgentClient(address) as agent:
            agent.send(hello())
            agent.answer()
            for at in range(8):
                agent.send(batch(f"b{at}", table(1000, first=1000 * at)))
            answers = agent.answers(1)
            process.send_signal(number)
            answers |= {a.acknowledgement.batch_id: "stored" for a in agent.rest()}
        assert process.wait(60) == 0
    acknowledged = sorted(int(batch_id[1:]) for batch_id in answers)
    assert acknowledged
    assert sequences(tmp_path / "data") == [
        s for at in acknowledged for s in range(1000 * at, 1000 * at + 1000)
    ]


def test_killed_and_started_again_it_has_every_batch_once(tmp_path: Path) -> None:
    """SIGKILL in the middle; the agent sends what was not acknowledged again: nothing is lost, nothing there twice."""
    number, rows = 40, 2000
    with started(tmp_path / "data") as (process, address), AgentClient(address) as agent:
        agent.send(hello())
        agent.answer()
        for at in range(number):
            agent.send(batch(f"b{at}", table(rows, first=rows * at)))
        answers = agent.answers(number // 4)
        process.kill()
        answers |= {a.acknowledgement.batch_id: "stored" for a in agent.rest()}
    missing = [at for at in range(number) if f"b{at}" not in answers]
    with started(tmp_path / "data") as (process, address), AgentClient(address) as agent:
        agent.send(hello())
        agent.answer()
        for at in missing:
            agent.send(batch(f"b{at}", table(rows, first=rows * at), retry=True))
        assert set(agent.answers(len(missing)).values()) <= {"stored"}
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert sequences(tmp_path / "data") == list(range(number * rows))


def test_a_second_server_on_the_same_data_is_refused(tmp_path: Path) -> None:
    """It says that the directory is in use, and the first one goes on."""
    with started(tmp_path / "data") as (process, _):
        second = run(*COMMAND[3:], "--data", str(tmp_path / "data"))
        assert second.returncode == 1
        assert "is in use by another infrasight-server" in second.stderr
        assert process.poll() is None


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    """Both ports: one line with the address, status 1."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        own = ("--data", str(tmp_path / "data"), "--log-level", "error")
        grpc_taken = run("--listen", address, "--status-listen", "127.0.0.1:0", *own)
        status_taken = run("--listen", "127.0.0.1:0", "--status-listen", address, *own)
    for done in (grpc_taken, status_taken):
        assert done.returncode == 1
        assert done.stderr.startswith("infrasight-server: ")
        assert address in done.stderr
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", "/proc/infrasight"], "data directory /proc/infrasight/store is not writable"),
        (
            ["--store", "http://127.0.0.1:9/"],
            "cannot use the ClickHouse server at http://127.0.0.1:9/: Connection refused",
        ),
        (["--listen", "0.0.0.0:7443"], "0.0.0.0:7443 is not on this machine and there is no TLS"),
        (["--probe", "nowhere"], "no installed plugin is called 'nowhere'"),
        (["--max-insert-rows", "many"], "max_insert_rows"),
        (["--max-batch-bytes", "100000000"], "max_batch_bytes"),
        (["--log-level", "loud"], "loud"),
        (["--tls-key", "k"], "tls"),
    ],
)
def test_a_bad_setting_is_one_clear_line(tmp_path: Path, arguments: list[str], said: str) -> None:
    """It names the setting and what is wrong, with status 1 and no traceback."""
    done = run("--data", str(tmp_path), *arguments)
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr


def test_an_unknown_option_is_named() -> None:
    """click says it, with the usage."""
    done = run("--nonsense")
    assert done.returncode == 2
    assert "--nonsense" in done.stderr


def test_settings_come_from_file_and_environment(tmp_path: Path) -> None:
    """An option wins over a variable, a variable over the file; a wrong key in the file is named."""
    file = tmp_path / "server.toml"
    file.write_text('store = "from the file"\n[tls]\ncertificate = "c"\nkey = "k"\nca = "a"\n')
    done = run(
        "--config",
        str(file),
        "--store",
        "http://127.0.0.1:9/",
        INFRASIGHT_SERVER_STORE="from the environment",
    )
    assert "http://127.0.0.1:9/" in done.stderr
    file.write_text("max_insert_rowz = 5\n")
    done = run(INFRASIGHT_SERVER_CONFIG=str(file))
    assert done.returncode == 1
    assert "max_insert_rowz" in done.stderr
    assert "max_insert_rows" in done.stderr


def test_a_password_is_never_shown(tmp_path: Path) -> None:
    """Neither a wrong setting nor an unreachable store repeats it."""
    done = run(
        "--data",
        str(tmp_path),
        "--store",
        "http://127.0.0.1:9/",
        INFRASIGHT_SERVER_STORE_PASSWORD="hush-hush",
    )
    assert done.returncode == 1
    assert "hush-hush" not in done.stderr + done.stdout


def test_help_teaches() -> None:
    """--help shows examples, defaults, variables, and what to do next."""
    done = run("--help")
    assert done.returncode == 0
    for text in (
        "infrasight-server --data ./data",
        "[127.0.0.1:7443]",
        "_TLS__CERTIFICATE",
        "infrasight query",
    ):
        assert text in done.stdout
