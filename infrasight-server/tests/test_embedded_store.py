"""The embedded store's process: it is confined, starts again after its end, and closes cleanly."""

import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest
from infrasight_core.errors import QueryError, StoreError, StoreUnavailableError
from infrasight_server import metrics
from infrasight_server.settings import ServerSettings
from infrasight_server.store.clickhouse import Store
from infrasight_server.store.embedded import supervisor
from infrasight_server.store.embedded.confinement import confine
from infrasight_server.store.embedded.process import marker
from infrasight_server.store.memory import memory_limit
from infrasight_server.store.query_limits import QueryLimits
from infrasight_testbed.agent_client import AgentClient
from infrasight_testbed.execve_batches import batch, hello, plugins, table
from infrasight_testbed.server_thread import running_server
from infrasight_testbed.system import until


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The store's data directory."""
    return tmp_path / "store"


@pytest.fixture
def store(folder: Path) -> Iterator[Store]:
    """An open, empty store."""
    opened = Store.embedded(folder, "test", require_confinement=True)
    yield opened
    opened.close()


def is_running(store: Store, statement_id: str) -> bool:
    """Returns whether the store runs a statement."""
    sql = "SELECT 1 FROM system.processes WHERE startsWith(query, {start:String})"
    return bool(store.rows(sql, {"start": marker(statement_id)}))


def process_of(folder: Path) -> int:
    """Returns the id of the process that has the store's folder open, as soon as there is one."""
    found: list[int] = []

    def has_process() -> bool:
        inode = (folder / "status").stat().st_ino
        for line in Path("/proc/locks").read_text().splitlines():
            pid = line.split()[4]
            # A process that was killed holds its lock a little longer.
            is_alive = Path(f"/proc/{pid}/exe").exists()
            if line.split()[5].endswith(f":{inode}") and is_alive:
                found.append(int(pid))
        return bool(found)

    until(has_process, f"a process has {folder} open")
    return found[0]


def answer(store: Store, sql: str) -> list[dict[str, object]]:
    """Returns the rows of a query."""
    rows: list[dict[str, object]] = pa.Table.from_batches(store.query(sql)).to_pylist()
    return rows


def status_of(process: int) -> dict[str, str]:
    """Returns the lines of a process's status by name."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return dict(re.split(r":\s+", line, maxsplit=1) for line in lines if ":\t" in line)


def test_process_has_no_privileges(store: Store, folder: Path) -> None:
    """No capabilities, no new privileges, and a seccomp filter, in every thread."""
    process = process_of(folder)
    assert process != os.getpid()
    for thread in Path(f"/proc/{process}/task").iterdir():
        status = status_of(int(thread.name))
        assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
        assert status["NoNewPrivs"] == "1"
        assert status["Seccomp"] == "2"
    assert int(Path(f"/proc/{process}/oom_score_adj").read_text()) >= 500


def test_process_inherits_no_secrets(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a password among the server's variables nor a file that the server has open."""
    monkeypatch.setenv("INFRASIGHT_SERVER_STORE_PASSWORD", "secret")
    key = folder.with_name("key.pem")
    with key.open("w") as file:
        os.set_inheritable(file.fileno(), True)
        store = Store.embedded(folder, "test")
    process = Path(f"/proc/{process_of(folder)}")
    assert b"secret" not in (process / "environ").read_bytes()
    assert key not in [descriptor.readlink() for descriptor in (process / "fd").iterdir()]
    store.close()


def test_server_does_not_load_chdb(store: Store) -> None:
    """The server's own process maps no chDB."""
    assert "_chdb" not in Path("/proc/self/maps").read_text()


def test_killed_process_starts_again_with_its_data(store: Store, folder: Path) -> None:
    """While it is down, calls fail as unavailable; then the rows are there."""
    restarts = metrics.STORE_RESTARTS._value.get()
    store.command("CREATE TABLE t (n UInt64) ENGINE = MergeTree ORDER BY n")
    store.insert("t", pa.table({"n": pa.array([1, 2], pa.uint64())}), "1")
    process = process_of(folder)
    os.kill(process, signal.SIGKILL)

    def answers() -> bool:
        try:
            store.ping()
        except StoreUnavailableError:
            return False
        return process_of(folder) != process

    until(answers, "the process has started again")
    assert answer(store, "SELECT sum(n) AS n FROM t") == [{"n": 3}]
    assert metrics.STORE_RESTARTS._value.get() == restarts + 1


def test_store_has_time_to_close(folder: Path) -> None:
    """Closed in the middle of the supervisor's wait, the process ends by itself, not by a kill."""
    store = Store.embedded(folder, "test")
    process = process_of(folder)
    os.kill(process, signal.SIGSTOP)
    closer = threading.Thread(target=store.close)
    closer.start()
    closer.join(1.5)
    assert status_of(process)["State"].startswith("T"), "it was killed before its time was over"
    os.kill(process, signal.SIGCONT)
    closer.join(60)
    assert not closer.is_alive()


def test_process_killed_ten_times_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches that arrive meanwhile are all acknowledged, and every row is stored once."""
    monkeypatch.setattr(supervisor, "_LONGEST_PAUSE", 0.1)
    rows = 2000
    kills = 10
    settings = ServerSettings(
        listen=f"unix:{tmp_path}/run/s", status_listen="127.0.0.1:0", data=tmp_path
    )
    folder = tmp_path / "store"
    answers: dict[str, str] = {}
    sent = 0
    with running_server(settings, plugins()) as server, AgentClient(server.address) as agent:
        agent.send(hello())
        agent.answer()
        for _ in range(kills):
            for _ in range(3):
                agent.send(batch(f"b{sent}", table(rows, first=rows * sent)))
                sent += 1
            answers |= agent.answers(1)  # the others may be in the middle of their insert
            os.kill(process_of(folder), signal.SIGKILL)
        answers |= agent.answers(sent - len(answers))
    assert answers == {f"b{number}": "stored" for number in range(sent)}
    store = settings.open_store()
    stored = pa.Table.from_batches(store.query("SELECT sequence FROM execve_events"))
    store.close()
    assert sorted(stored["sequence"].to_pylist()) == list(range(sent * rows))


def test_killed_process_fails_the_running_query(store: Store, folder: Path) -> None:
    """A query that waits for its answer ends with an error; it does not hang."""
    raised: list[Exception] = []

    def run() -> None:
        try:
            list(store.query("SELECT sum(cityHash64(number)) FROM numbers(1e12)", query_id="long"))
        except StoreError as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    until(lambda: is_running(store, "long"), "the query is running")
    os.kill(process_of(folder), signal.SIGKILL)
    thread.join(30)
    (error,) = raised
    assert isinstance(error, StoreUnavailableError)
    assert "has ended" in str(error)


def test_abandoned_query_ends(store: Store) -> None:
    """A reader who stops reading in the middle of an answer leaves no running query behind."""
    pieces = store.query("SELECT number FROM numbers(1e12)", query_id="abandoned")
    with closing(pieces):  # type: ignore[type-var]
        next(pieces)
        assert is_running(store, "abandoned")
    until(lambda: not is_running(store, "abandoned"), "the query has ended")
    assert answer(store, "SELECT 1 AS one") == [{"one": 1}]


def test_failed_query_leaves_nothing_for_the_next(store: Store) -> None:
    """Queries that fail in the middle of their answers do not affect later ones."""
    failing = "SELECT throwIf(number = 900000, 'late') FROM numbers(1000000)"
    for number in range(10):
        with pytest.raises(QueryError, match="late"):
            list(store.query(failing))
        assert answer(store, f"SELECT {number} AS n") == [{"n": number}]


def test_answer_without_rows_has_its_columns(store: Store) -> None:
    """Of a SELECT and of a SHOW."""
    for sql, names in (
        ("SELECT number AS n, 'a' AS s FROM numbers(10) WHERE number > 20", ["n", "s"]),
        ("SHOW TABLES", ["name"]),
    ):
        (piece,) = [piece for piece in store.query(sql) if not piece.num_rows][:1]
        assert piece.schema.names == names


def test_wide_answers_arrive_whole(store: Store) -> None:
    """Blocks larger than a frame, strings of every byte, and lists."""
    sql = (
        "SELECT number AS n, repeat(char(number % 256), 3000) AS s, range(number % 5) AS l "
        "FROM numbers(20000) ORDER BY n"
    )
    rows = pa.Table.from_batches(store.query(sql))
    assert rows["n"].to_pylist() == list(range(20_000))
    for number in (0, 255, 19_999):
        assert rows["s"][number].as_py() == bytes([number % 256]) * 3000
        assert rows["l"][number].as_py() == list(range(number % 5))


def test_inserts_go_on_while_queries_use_all_their_memory(folder: Path) -> None:
    """Four queries at a time that collect numbers fail; every insert succeeds."""
    limits = QueryLimits(memory_bytes=64 << 20)
    store = Store.embedded(folder, "test", limits, memory_bytes=1 << 30)
    store.command("CREATE TABLE t (n UInt64) ENGINE = MergeTree ORDER BY n")
    stop = threading.Event()
    messages: list[str] = []

    def collect() -> None:
        while not stop.is_set():
            try:
                list(store.query("SELECT length(groupArray(number)) FROM numbers(1e10)"))
            except QueryError as error:
                messages.append(str(error))

    readers = [threading.Thread(target=collect) for _ in range(4)]
    for reader in readers:
        reader.start()
    until(lambda: len(messages) >= 4, "queries have failed")
    for number in range(10):
        rows = pa.array(range(number * 10_000, (number + 1) * 10_000), pa.uint64())
        store.insert("t", pa.table({"n": rows}), str(number))
    stop.set()
    for reader in readers:
        reader.join()
    assert all("MEMORY_LIMIT_EXCEEDED" in message for message in messages)
    assert answer(store, "SELECT count() AS n FROM t") == [{"n": 100_000}]
    store.close()


def test_store_as_a_whole_has_a_memory_limit(folder: Path) -> None:
    """A query whose own limit is higher than the store's fails by the store's."""
    limits = QueryLimits(memory_bytes=1 << 40)
    store = Store.embedded(folder, "test", limits, memory_bytes=600 << 20)
    with pytest.raises(QueryError, match=r"\(total\) memory limit exceeded"):
        list(store.query("SELECT length(groupArray(number)) FROM numbers(1e10)"))
    assert answer(store, "SELECT 1 AS one") == [{"one": 1}]
    store.close()


def test_large_aggregation_uses_the_disk(store: Store) -> None:
    """What exceeds a query's memory goes through files of the store's folder."""
    limits = QueryLimits(memory_bytes=256 << 20)
    sql = "SELECT count() AS n FROM (SELECT number FROM numbers(6000000) GROUP BY number)"
    assert pa.Table.from_batches(store.query(sql, limits)).to_pylist() == [{"n": 6_000_000}]


def test_second_server_reports_that_the_folder_is_in_use(store: Store, folder: Path) -> None:
    """The message names the folder; the first server is not affected."""
    with pytest.raises(StoreError, match=f"{folder} is in use by another infrasight-server"):
        Store.embedded(folder, "test")
    store.ping()


def test_unreadable_data_is_one_line(folder: Path) -> None:
    """Data that chDB cannot load make the start fail, with ClickHouse's reason in one line."""
    Store.embedded(folder, "test").close()
    (folder / "metadata" / "test.sql").write_text("ATTACH DATABASE broken")
    with pytest.raises(StoreError, match=f"cannot open the embedded store in {folder}") as raised:
        Store.embedded(folder, "test")
    assert "\n" not in str(raised.value)


def test_closed_store_leaves_no_process(folder: Path) -> None:
    """The process has ended when `close` returns, and the folder can be opened again."""
    store = Store.embedded(folder, "test")
    process = process_of(folder)
    store.close()
    assert not Path(f"/proc/{process}").exists()
    Store.embedded(folder, "test").close()


def test_signals_to_the_whole_group_do_not_end_the_process(store: Store, folder: Path) -> None:
    """Ctrl-C and a service manager reach the process too; the server decides when it ends."""
    process = process_of(folder)
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(process, number)
    store.ping()
    assert process_of(folder) == process


def in_confined_child(folder: Path, attempt: str) -> str:
    """Returns what an attempt of a confined process raises; "" for nothing."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            confine(folder, [])
            exec(attempt, {"os": os, "socket": socket, "Path": Path, "folder": folder})
        except OSError as error:
            os.write(writing, str(error.strerror).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        raised = pipe.read().decode()
    os.waitpid(child, 0)
    return raised


@pytest.mark.parametrize(
    "attempt",
    [
        "Path('/etc/shadow').read_bytes()",
        "Path('/proc/self/environ').read_bytes()",
        "os.listdir('/etc')",
        "(folder.parent / 'new').touch()",
        "(folder.parent / 'link').symlink_to('/etc')",
        "os.link(folder / 'inside', folder.parent / 'outside')",
        "os.chmod('/etc/hostname', 0o666)",
        "os.execv('/bin/true', ['true'])",
        "os.fork()",
        "os.kill(os.getppid(), 0)",
        "socket.socket(socket.AF_INET, socket.SOCK_STREAM)",
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
        "socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)",
        "os.mknod(folder / 'device', 0o600 | 0o020000, os.makedev(1, 1))",
        "os.mkfifo(folder / 'fifo')",
    ],
)
def test_confined_process_reaches_only_its_folder(tmp_path: Path, attempt: str) -> None:
    """Other files, programs, processes and the network are forbidden by the kernel."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "inside").touch()
    reason = in_confined_child(tmp_path / "data", attempt)
    assert reason in ("Permission denied", "Operation not permitted", "Invalid cross-device link")


def test_confined_process_uses_its_folder(tmp_path: Path) -> None:
    """It writes, reads, renames between folders and deletes there."""
    attempt = (
        "(folder / 'a').mkdir(); (folder / 'b').mkdir(); (folder / 'a/f').write_text('x'); "
        "(folder / 'a/f').rename(folder / 'b/f'); assert (folder / 'b/f').read_text() == 'x'; "
        "(folder / 'b/f').unlink(); os.rmdir(folder / 'a')"
    )
    assert in_confined_child(tmp_path, attempt) == ""
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/a/b\n", {"a/memory.max": "1000", "a/b/memory.max": "max"}, 1000),
        ("0::/a/b\n", {"a/memory.max": "max", "a/b/memory.max": "900"}, 900),
        ("0::/host/path\n", {"memory.max": "800"}, 800),
        ("4:memory:/a\n0::/\n", {"memory/a/memory.limit_in_bytes": "700"}, 700),
        ("4:memory:/a/b\n", {"memory/a/memory.limit_in_bytes": "600"}, 600),
        ("0::/a\n", {"a/memory.max": "max"}, None),
        ("", {}, None),
    ],
)
def test_memory_limit_is_the_least_of_the_control_groups(
    tmp_path: Path, groups: str, files: dict[str, str], expected: int | None
) -> None:
    """Of both versions and of every ancestor; without any, the machine's memory."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name, content in files.items():
        (tmp_path / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cgroup" / name).write_text(content + "\n")
    (tmp_path / "proc").write_text(groups)
    assert memory_limit(tmp_path / "cgroup", tmp_path / "proc") == (expected or machine)
