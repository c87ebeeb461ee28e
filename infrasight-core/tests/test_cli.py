"""The command `infrasight`, run as people run it."""

import csv
import io
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import grpc
import pyarrow as pa
import pytest
from infrasight_core import cli
from infrasight_core.cli.group import COMMANDS, infrasight
from infrasight_testbed.command import COMMAND, environment, on_terminal, run
from infrasight_testbed.event_server import EventServer, RefusedError

TABLE = pa.table(
    {
        "pid": pa.array([1, 2, 3], pa.uint32()),
        "uid": pa.array([0, 1000, 0], pa.uint32()),
        "comm": pa.array(
            [b"sh", b"a\xff", b"\x1b[2J[red]"], pa.dictionary(pa.int32(), pa.binary())
        ),
        "argv": pa.array([[b"sh", b"-c"], [], [b"x,\n"]], pa.list_(pa.binary())),
    }
)


@pytest.fixture
def server() -> Iterator[EventServer]:
    """A server whose every answer is TABLE, twice."""
    with EventServer() as running:
        running.answer = lambda sql: iter((TABLE, TABLE))
        yield running


def test_help_lists_every_command_and_each_has_examples() -> None:
    """--help lists the modules of the commands, and the help of each command has examples."""
    done = run("--help")
    folder = Path(cli.__file__).parent
    for name, text in COMMANDS.items():
        assert (folder / f"{name}.py").exists()
        assert f"  {name} " in done.stdout
        assert text.endswith(".")
    for name in ("query", "tail", "certs", "probes", "doctor", "loadtest", "top"):
        assert "Examples:\n    infrasight" in run(name, "--help").stdout.replace("sudo ", "")
    assert run("--version").stdout.startswith("infrasight ")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["qeury"], "no command 'qeury'; did you mean query or verify?"),
        (
            ["zzz"],
            "no command 'zzz'; the commands are trace, agent, packages, tail, query, "
            "verify, loadtest, top, certs, probes, doctor",
        ),
        (["query"], "Missing argument 'SQL'"),
        (["query", " "], "no statement"),
        (["query", "SELECT 1", "--format", "xml"], "'xml' is not one of"),
        (
            ["tail", "--where", "uid=root"],
            "infrasight: --where 'uid=root': write uid=NUMBER, pid=NUMBER, or comm=NAME",
        ),
        (
            ["query", "SELECT 1", "--server", "nowhere"],
            "infrasight: address 'nowhere': write host:port",
        ),
        (
            ["query", "SELECT 1", "--server", "192.0.2.1:1"],
            "infrasight: 192.0.2.1:1 is not on this machine and there is no TLS",
        ),
        (
            ["query", "SELECT 1", "--tls-ca", "x"],
            "infrasight: mutual TLS needs three files: --tls-certificate and --tls-key missing",
        ),
        (
            ["query", "SELECT 1", "--server", "127.0.0.1:1"],
            "infrasight: the server at 127.0.0.1:1 is not reachable",
        ),
        (
            ["tail", "--server", "127.0.0.1:1"],
            "infrasight: the server at 127.0.0.1:1 is not reachable",
        ),
    ],
)
def test_command_reports_bad_input_in_one_line(arguments: list[str], expected: str) -> None:
    """A status that is not 0, the reason, no traceback, nothing on stdout."""
    done = run(*arguments)
    assert done.returncode in (1, 2)
    assert expected in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not expected.startswith("infrasight:") or len(done.stderr.splitlines()) == 1


def test_query_reports_the_reason_of_a_rejection(server: EventServer) -> None:
    """The server's reason is one line, status 1."""

    def refuse(sql: str) -> Iterator[pa.Table]:
        raise RefusedError(
            grpc.StatusCode.INVALID_ARGUMENT, f"only reading is allowed here, not {sql}"
        )

    server.answer = refuse
    done = run("query", "DROP", server=server)
    assert (done.returncode, done.stderr, done.stdout) == (
        1,
        "infrasight: only reading is allowed here, not DROP\n",
        "",
    )


def test_query_points_a_format_clause_to_the_option(server: EventServer) -> None:
    """A statement that the server rejects for its FORMAT clause: the option that replaces it."""

    def reject(sql: str) -> Iterator[pa.Table]:
        raise RefusedError(grpc.StatusCode.INVALID_ARGUMENT, "leave FORMAT out")

    server.answer = reject
    done = run("query", "SELECT 1 FORMAT JSON;", server=server)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "infrasight: leave the FORMAT clause out: --format chooses the output "
        "(table, json, csv, arrow)\n"
    )


def test_arguments_that_are_not_utf8_reach_the_server_escaped(server: EventServer) -> None:
    """A raw byte in a statement, a name or a filter is that byte, and no command fails on it."""
    server.answer = lambda sql: iter((pa.table({"x": pa.array([], pa.int8())}),))
    commands = [
        ["query", "SELECT '\udcff'"],
        ["verify", "--node", "\udcff"],
        ["tail", "unknown", "\udcff"],
    ]
    for command in commands:
        done = run(*command, server=server)
        assert "Traceback" not in done.stderr
    statement, accounts, fields, probes = server.asked
    assert statement == "SELECT '\\xff'"
    assert "node IN ('\\xff')" in str(accounts)
    assert "node IN ('\\xff')" in str(fields)
    assert probes == ["unknown", "\\xff"]


def test_query_in_a_pipe_is_json_lines(server: EventServer) -> None:
    """Each row is a line; the statement may come from standard input."""
    done = run("query", "-", server=server, text="SELECT 'é'\n")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert rows == 2 * [
        {"pid": 1, "uid": 0, "comm": "sh", "argv": ["sh", "-c"]},
        {"pid": 2, "uid": 1000, "comm": "a\\xff", "argv": []},
        {"pid": 3, "uid": 0, "comm": "\x1b[2J[red]", "argv": ["x,\n"]},
    ]
    assert server.asked == ["SELECT 'é'\n"]
    assert (done.returncode, done.stderr) == (0, "")


def test_query_as_csv_and_arrow(server: EventServer) -> None:
    """CSV has one header and lists as JSON; Arrow is one stream of everything."""
    rows = list(csv.reader(io.StringIO(run("query", "x", "--format", "csv", server=server).stdout)))
    assert rows[0] == ["pid", "uid", "comm", "argv"]
    assert rows[1] == ["1", "0", "sh", '["sh", "-c"]']
    assert len(rows) == 7
    done = subprocess.run(
        [*COMMAND, "query", "x", "--format", "arrow"],
        capture_output=True,
        env=environment(server),
        timeout=120,
        check=True,
    )
    assert pa.ipc.open_stream(done.stdout).read_all().to_pylist() == 2 * TABLE.to_pylist()


def test_csv_on_a_terminal_is_printable(server: EventServer) -> None:
    """A value that commands a terminal is escaped there, but not in a pipe."""
    text = on_terminal("query", "x", "--format", "csv", server=server)
    assert "\\x1b[2J[red]" in text
    assert "\x1b[2J" not in text
    assert "\x1b[2J[red]" in run("query", "x", "--format", "csv", server=server).stdout


def test_query_on_a_terminal_is_a_table(server: EventServer) -> None:
    """Aligned columns; control characters and rich's markup are shown, not interpreted."""
    text = on_terminal("query", "x", server=server)
    lines = text.splitlines()
    assert lines[0].split() == ["pid", "uid", "comm", "argv"]
    assert len({line.index("sh") for line in lines if '["sh", "-c"]' in line}) == 1
    assert "\\x1b[2J[red]" in text
    assert "\x1b[2J" not in text


def test_query_prints_rows_that_do_not_fit_field_by_field(server: EventServer) -> None:
    """With more columns than fit, each value has its own line."""
    text = on_terminal("query", "x", server=server, width=20)
    assert "── row 6 ──\npid   3\nuid   0\ncomm  \\x1b[2J[red]\n" in text


def test_query_ends_quietly_when_its_reader_ends(server: EventServer) -> None:
    """`query | head` ends quietly with status 0 however long the answer is."""
    server.answer = lambda sql: (TABLE for _ in range(100_000))
    with subprocess.Popen(
        [*COMMAND, "query", "x"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(server),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_query_reports_a_full_disk(server: EventServer) -> None:
    """Output that cannot be written is an error in one line."""
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        done = subprocess.run(
            [*COMMAND, "query", "x"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(server),
            timeout=120,
            check=False,
        )
    assert (done.returncode, done.stderr) == (
        1,
        "infrasight: cannot write the output: No space left on device\n",
    )


def test_group_finds_every_command() -> None:
    """The group finds each command's own object."""
    context = click.Context(infrasight)
    assert all(
        isinstance(infrasight.get_command(context, name), click.Command) for name in COMMANDS
    )
