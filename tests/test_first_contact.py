"""Every command, as somebody meets it who tries it under odd circumstances.

Whatever the user, the terminal and the outputs are: a command ends with one clear line or with
silence, with the right status, and never with a traceback.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from infrasight_testbed.command import environment, on_terminal, restore_interrupt
from infrasight_testbed.event_server import EventServer

BIN = Path(sys.executable).parent
COMMANDS = [
    "infrasight",
    "infrasight trace",
    "infrasight agent",
    "infrasight packages",
    "infrasight tail",
    "infrasight query",
    "infrasight verify",
    "infrasight loadtest",
    "infrasight top",
    "infrasight certs",
    "infrasight probes",
    "infrasight doctor",
    "infrasight-server",
    "infrasight-operator",
    "infrasight-operator run",
]
# Commands that read from a server, and that print something without one.
READERS = ["infrasight query x", "infrasight verify", "infrasight probes", "infrasight doctor"]
ORDINARY_USER = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
NAME = "中 é"
# What `infrasight verify` asks for, of a node that records.
ACCOUNTS = {
    "node": b"web-1",
    "probe": b"open",
    "seen": 21_600_003,
    "filtered": 1,
    "block_full": 0,
    "heap_full": 0,
    "decode_failed": 0,
    "outbox_full": 0,
    "rejected": 0,
    "pending": -40,
    "stored": 21_600_042,
    "deleted": 0,
    "entries_full": 0,
    "skipped": 0,
    "untraced": 0,
    "wrong": 0,
    "difference": 0,
    "broken_off": 0,
}
FIELDS = {"node": b"web-1", "probe": b"open", "rows": 9, "incomplete_rows": 0, "fields": None}

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")


@pytest.fixture
def server() -> Iterator[EventServer]:
    """A server with the accounts of one node, and a name that Latin-1 lacks for other questions."""

    def answer(sql: str) -> Iterator[pa.Table]:
        rows = [{"name": NAME.encode(), "number": 123_456_789_012}]
        if "FROM accounting" in sql:
            rows = [ACCOUNTS]
        elif "FROM missing" in sql:
            rows = [FIELDS]
        return iter((pa.Table.from_pylist(rows),))

    with EventServer() as running:
        running.answer = answer
        yield running


def argv(command: str) -> list[str]:
    """The words of a command, the first one as a path."""
    program, *arguments = command.split()
    return [str(BIN / program), *arguments]


def shell(
    command: str, redirection: str = "", server: EventServer | None = None, **variables: str
) -> subprocess.CompletedProcess[bytes]:
    """Runs a command in bash with a redirection."""
    return subprocess.run(
        ["bash", "-c", f'exec "$@" {redirection}', "bash", *argv(command)],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        env=environment(server, **variables),
        timeout=120,
        check=False,
    )


def one_line(done: subprocess.CompletedProcess[bytes]) -> str:
    """The single line on stderr."""
    (line,) = done.stderr.decode().splitlines()
    return line


@pytest.mark.parametrize("command", COMMANDS)
def test_help_reports_an_output_that_cannot_be_written(command: str) -> None:
    """A full disk and a closed stdout: one line with the reason, status 1."""
    full = shell(f"{command} --help", ">/dev/full")
    program = command.split()[0]
    assert one_line(full) == f"{program}: cannot write the output: No space left on device"
    closed = shell(f"{command} --help", ">&-")
    assert one_line(closed) == f"{program}: cannot write the output: standard output is closed"
    assert (full.returncode, closed.returncode) == (1, 1)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_ascii_and_states_the_exit_statuses(command: str) -> None:
    """Every terminal can show the help, and a script's author finds the statuses in it."""
    done = shell(f"{command} --help")
    assert (done.returncode, done.stderr) == (0, b"")
    assert "Exit status:" in done.stdout.decode("ascii")


@pytest.mark.parametrize("command", COMMANDS)
def test_wrong_usage_is_one_line_and_its_status_survives_any_stderr(command: str) -> None:
    """An unknown option: one line that names it, status 2; also where stderr cannot be written."""
    done = shell(f"{command} --nonsense")
    assert "--nonsense" in one_line(done)
    assert "--help" in one_line(done)
    assert (done.returncode, done.stdout) == (2, b"")
    for redirection in ("2>&-", "2>/dev/full"):
        assert shell(f"{command} --nonsense", redirection).returncode == 2


@root_only
@pytest.mark.parametrize(
    ("command", "status", "words"),
    [
        ("infrasight trace execve", 1, "root"),
        ("infrasight loadtest", 1, "root"),
        ("infrasight top", 1, "root"),
        ("infrasight agent --status-listen 127.0.0.1:0", 1, "root"),
        ("infrasight packages --operator 127.0.0.1:1 --node n --target /packages", 1, "/packages"),
        ("infrasight tail --server 127.0.0.1:1", 1, "not reachable"),
        ("infrasight query x --server 127.0.0.1:1", 1, "not reachable"),
        ("infrasight verify --server 127.0.0.1:1", 1, "not reachable"),
        ("infrasight-server", 1, "/var/lib/infrasight"),
        ("infrasight-operator run", 1, "KUBECONFIG"),
    ],
)
def test_an_ordinary_user_gets_one_line(
    command: str, status: int, words: str, tmp_path: Path
) -> None:
    """Without rights, without a server, below a tracefs of mode 0700: one line, status 1."""
    done = as_ordinary_user(command, HOME="/root")
    assert words in one_line(done)
    assert (done.returncode, done.stdout) == (status, b"")


@root_only
def test_doctor_tells_an_ordinary_user_what_to_do() -> None:
    """Every check has a result, those that need rights have the remedy, and the status is 1."""
    done = as_ordinary_user("infrasight doctor")
    checks = {check["name"]: check for check in map(json.loads, done.stdout.splitlines())}
    assert (done.returncode, done.stderr) == (1, b"")
    assert checks["capabilities"]["status"] == "fail"
    assert "run as root" in checks["capabilities"]["remedy"]
    assert {"tracefs", "tracepoints", "optional tracepoints", "32-bit calls"} <= checks.keys()
    assert all(check["remedy"] for check in checks.values() if check["status"] == "fail")


@root_only
def test_probes_works_for_an_ordinary_user() -> None:
    """Listing plugins needs no rights."""
    done = as_ordinary_user("infrasight probes")
    assert (done.returncode, done.stderr) == (0, b"")
    assert all(json.loads(line)["name"] for line in done.stdout.splitlines())


def as_ordinary_user(command: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """Runs a command as a user without rights, who can at least read the packages."""
    if subprocess.run([*ORDINARY_USER, *argv("python -c pass")], check=False).returncode != 0:
        pytest.skip("other users cannot read this clone")
    return subprocess.run(
        [*ORDINARY_USER, *argv(command)],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        cwd="/",
        env=environment(None, **variables),
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("command", READERS)
def test_results_report_an_output_that_cannot_be_written(command: str, server: EventServer) -> None:
    """Rows to a full disk or a closed stdout: one line, status 1. A closed stderr is no error."""
    for redirection in (">/dev/full", ">&-"):
        done = shell(command, redirection, server)
        assert "cannot write the output" in one_line(done)
        assert done.returncode == 1
    closed = shell(command, "2>&-", server)
    assert closed.returncode == shell(command, "", server).returncode
    assert all(json.loads(line) for line in closed.stdout.splitlines())


@pytest.mark.parametrize("command", READERS)
def test_results_end_quietly_when_no_one_reads(command: str, server: EventServer) -> None:
    """A reader that ends before the first row: no word; doctor still reports what it found."""
    ours, theirs = os.pipe()
    os.close(ours)
    with os.fdopen(theirs, "wb") as output:
        done = subprocess.run(
            argv(command),
            stdout=output,
            stderr=subprocess.PIPE,
            env=environment(server),
            timeout=120,
            check=False,
        )
    assert done.stderr == b""
    assert done.returncode in ((0, 1) if "doctor" in command else (0,))


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_json_in_another_encoding_is_the_same_json(encoding: str, server: EventServer) -> None:
    """Characters that the encoding lacks are escaped as JSON does it, and decode to themselves."""
    done = shell("infrasight query x", "", server, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout.decode("ascii"))["name"] == NAME


@pytest.mark.parametrize(
    ("encoding", "shown"), [("ascii", "\\u4e2d \\xe9"), ("latin-1", "\\u4e2d é"), ("utf-8", NAME)]
)
def test_a_terminal_shows_escapes_for_what_it_lacks(
    encoding: str, shown: str, server: EventServer
) -> None:
    """A table and CSV on a terminal: characters that its encoding lacks are escaped."""
    for output_format in ("table", "csv"):
        text = on_terminal(
            *("query", "x", "--format", output_format),
            server=server,
            encoding=encoding,
            PYTHONIOENCODING=encoding,
        )
        assert shown in text


@pytest.mark.parametrize("width", [20, 80, 200])
def test_verify_cuts_no_number_and_shows_no_impossible_one(width: int, server: EventServer) -> None:
    """However narrow: each number stands whole on a line, and none is negative."""
    text = on_terminal("verify", server=server, width=width)
    seen = "21,600,043"
    stored = "21,600,042"
    for number in (seen, stored):
        assert any(number in line.split() for line in text.splitlines())
    assert "…" not in text
    assert "-40" not in text


@pytest.mark.parametrize("command", ["doctor", "probes", "query"])
def test_a_narrow_terminal_gets_a_field_a_line(command: str, server: EventServer) -> None:
    """On fewer columns than a row needs, no word is shredded and no number broken."""
    arguments = [command, "x"] if command == "query" else [command]
    text = on_terminal(*arguments, server=server, width=17)
    assert text.startswith("── row 1 ──\n")
    assert command != "query" or "123456789012" in text.split()


HOOK = """
import os, signal, sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
sys.argv = {argv!r}
from {package} import main
main()
"""


@pytest.mark.parametrize(
    ("command", "module"),
    [
        ("infrasight query x", "click"),
        ("infrasight query x", "pyarrow"),
        ("infrasight query x", "grpc"),
        ("infrasight trace execve", "numpy"),
        ("infrasight trace execve", "infrasight_core.cli.trace"),
        ("infrasight tail", "rich"),
        ("infrasight agent", "infrasight_core.agent.agent"),
        ("infrasight-server", "infrasight_core.settings.reader"),
        ("infrasight-server", "clickhouse_connect"),
        ("infrasight-operator run", "kopf"),
    ],
)
def test_ctrl_c_while_a_command_starts_is_silent(command: str, module: str) -> None:
    """Ctrl-C during an import ends the process by the signal, without a word."""
    program, *arguments = command.split()
    packages = {
        "infrasight": "infrasight_core.cli",
        "infrasight-server": "infrasight_server.cli",
        "infrasight-operator": "infrasight_operator.cli",
    }
    script = HOOK.format(module=module, argv=[program, *arguments], package=packages[program])
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        env=environment(),
        timeout=120,
        check=False,
        preexec_fn=restore_interrupt,
    )
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, b"", b"")
