"""The probe connect under the running kernel: known calls over IP in, exactly those rows out, field by field."""

import ctypes
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import infrasight_probe_net.connect
import pytest
from attrs import evolve
from infrasight_core import hookimpl
from infrasight_core.kernel.filters import Filters
from infrasight_recording import Recording, recording
from infrasight_testbed.addresses import column, inet, inet6
from infrasight_testbed.syscalls import call, in_child

Row = dict[str, Any]
Record = Callable[..., tuple[list[Row], list[Row], Any]]
INET, INET6, TCP, UDP = socket.AF_INET, socket.AF_INET6, socket.SOCK_STREAM, socket.SOCK_DGRAM
FAMILIES: dict[int, bytes] = {INET: b"inet", INET6: b"inet6"}
CLONE_NEWNET, ERESTARTSYS = 0x40000000, -512
USER_MEMORY, MISSING = "remote_address_user_memory", "remote_address_missing"
SAME = ("pid", "tid", "ppid", "process_key", "parent_process_key", "uid", "gid", "comm", "cgroup_id", "connection_id")


def kind(family: int, type: int) -> Row:
    """What the row says of the socket itself."""
    return {
        "family": family,
        "family_name": FAMILIES[family],
        "socket_type": type,
        "type_name": b"stream" if type == TCP else b"dgram",
        "protocol": 6 if type == TCP else 17,
        "protocol_name": b"tcp" if type == TCP else b"udp",
        "unix_path": b"",
        "unix_client_path": b"",
    }


def remote(host: str, port: int) -> Row:
    """The remote end of a row."""
    return {"remote_address": column(host), "remote_port": port}


def has(row: Row, wanted: Row) -> None:
    """The row has these values."""
    assert {name: row[name] for name in wanted} == wanted


@pytest.fixture(scope="module")
def kept() -> Iterator[Recording]:
    """A recording that goes on through all tests: loading the programs takes longer than what they record."""
    with recording("connect", infrasight_probe_net.connect) as recorded:
        yield recorded
    counts = recorded.counts
    assert (counts.dropped, counts.entries_full) == (0, 0)
    assert counts.seen == counts.submitted == counts.read


@pytest.fixture
def record(kept: Recording) -> Record:
    """Records what a child does; see `rows_of`."""

    def recorded(work: Callable[[], Any], uid: int = 0) -> tuple[list[Row], list[Row], Any]:
        pid, said = in_child(work, uid)
        kept.wait("connect")
        return *rows_of(kept, pid, uid), said

    return recorded


def rows_of(kept: Recording, pid: int, uid: int = 0) -> tuple[list[Row], list[Row]]:
    """The rows of a child's calls in order, and those of outcomes."""
    found = [row for delivery in list(kept.deliveries) for row in delivery.batch.to_pylist() if row["pid"] == pid]
    rows = sorted(found, key=lambda row: row["time"])
    for row in rows:
        has(row, {"uid": uid, "gid": uid, "ppid": os.getpid(), "comm": Path("/proc/self/comm").read_bytes().rstrip()})
        exe = b"" if row["stage"] == b"outcome" else bytes(Path("/proc/self/exe").resolve())
        assert row["exe"] == exe
        assert row["duration_ns"] > 0
    return [r for r in rows if r["stage"] == b"call"], [r for r in rows if r["stage"] == b"outcome"]


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A socket that listens on the loopback and that nobody accepts from."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.fixture
def closed() -> Iterator[int]:
    """A port of the loopback that refuses every connection, because it is bound and nobody listens."""
    with socket.socket() as bound, socket.socket(INET6) as bound6:
        bound.bind(("127.0.0.1", 0))
        bound6.bind(("::1", bound.getsockname()[1]))
        yield bound.getsockname()[1]


@pytest.fixture
def full() -> Iterator[socket.socket]:
    """A listening socket whose queue is full, so that the kernel lets further attempts wait."""
    with socket.socket() as server, socket.socket() as first:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        first.connect(server.getsockname())
        yield server


@pytest.mark.parametrize(
    ("family", "type", "bound", "host"),
    [
        (INET, TCP, "127.0.0.1", "127.0.0.1"),
        (INET, TCP, "0.0.0.0", "127.8.9.10"),
        (INET6, TCP, "::1", "::1"),
        (INET6, TCP, "::", "::ffff:127.0.0.1"),
        (INET, UDP, "127.0.0.1", "127.0.0.1"),
        (INET6, UDP, "::1", "::1"),
        (INET6, UDP, "::", "::ffff:127.0.0.1"),
    ],
)
def test_a_call_that_succeeds(family: int, type: int, bound: str, host: str, record: Record) -> None:
    """TCP and UDP over IPv4, IPv6 and IPv4 through IPv6: both ends are what the kernel says of the socket."""
    with socket.socket(family, type) as server, socket.socket(family, type) as client:
        server.bind((bound, 0))
        if type == TCP:
            server.listen()
        port = server.getsockname()[1]
        address = (inet if family == INET else inet6)(host, port)
        (row,), outcomes, result = record(lambda: call("connect", client.fileno(), address, len(address)))
        own = client.getsockname()
        assert result == 0
        has(row, kind(family, type) | remote(host, port) | {"fd": client.fileno(), "return_code": 0, "quality": []})
        has(row, {"local_address": column(own[0]), "local_port": own[1], "in_progress": False})
    assert outcomes == []
    assert bool(row["connection_id"]) == (type == TCP)


@pytest.mark.parametrize(("family", "host"), [(INET, "127.0.0.1"), (INET6, "::1"), (INET6, "::ffff:127.0.0.1")])
def test_a_call_that_is_refused(family: int, host: str, closed: int, record: Record) -> None:
    """ECONNREFUSED of a call that waited: both ends as the kernel had them, though it has cleared the socket since."""
    address = (inet if family == INET else inet6)(host, closed)
    with socket.socket(family) as client:
        (row,), outcomes, _ = record(lambda: call("connect", client.fileno(), address, len(address)))
    has(row, kind(family, TCP) | remote(host, closed) | {"error": "ECONNREFUSED", "quality": [], "in_progress": False})
    assert (row["local_address"], outcomes) == (column(host), [])
    assert row["local_port"] > 0


@pytest.mark.parametrize(("family", "host"), [(INET, "127.0.0.1"), (INET6, "::1")])
@pytest.mark.parametrize("refused", [True, False])
def test_a_call_that_does_not_wait(family: int, host: str, refused: bool, closed: int, record: Record) -> None:
    """EINPROGRESS, and a second row says how it ended, with the same id, caller and ends."""
    with socket.create_server((host, 0), family=family) as server, socket.socket(family) as client:
        client.setblocking(False)
        port = closed if refused else server.getsockname()[1]
        address = (inet if family == INET else inet6)(host, port)
        (row,), (outcome,), _ = record(lambda: call("connect", client.fileno(), address, len(address)))
    both = kind(family, TCP) | remote(host, port) | {"local_address": column(host), "fd": row["fd"]}
    has(row, both | {"error": "EINPROGRESS", "in_progress": True, "quality": []})
    has(outcome, both | {"error": "ECONNREFUSED" if refused else "", "return_code": -111 if refused else 0})
    has(outcome, {name: row[name] for name in SAME} | {"in_progress": False, "quality": ["exe_missing"]})
    assert outcome["local_port"] == row["local_port"] > 0
    assert row["connection_id"] > 0


def test_further_calls_while_it_is_made_and_after(full: socket.socket, listener: socket.socket, record: Record) -> None:
    """EALREADY and EISCONN: the rows have that connection's remote end and id, not what the call asked for."""
    port, other = full.getsockname()[1], inet("127.0.0.9", 9)
    with socket.socket() as waiting, socket.create_connection(listener.getsockname()) as connected:
        waiting.setblocking(False)
        address = inet("127.0.0.1", port)

        def work() -> list[int]:
            first = call("connect", waiting.fileno(), address, 16)
            return [first, *(call("connect", s.fileno(), other, 16) for s in (waiting, connected))]

        rows, outcomes, _ = record(work)
        assert [row["error"] for row in rows] == ["EINPROGRESS", "EALREADY", "EISCONN"]
        for row in rows[:2]:
            has(row, remote("127.0.0.1", port) | {"quality": [], "local_port": waiting.getsockname()[1]})
        assert rows[0]["connection_id"] == rows[1]["connection_id"] != 0
        has(rows[2], remote(*listener.getsockname()) | {"connection_id": 0, "local_port": connected.getsockname()[1]})
    assert outcomes == []  # it was still waiting when the recording ended


def test_a_socket_that_is_closed_while_it_connects(full: socket.socket, record: Record) -> None:
    """Closed, disconnected, and its process killed: the outcome is ECANCELED, in the name of the call's process."""
    address = inet(*full.getsockname())

    def attempt() -> socket.socket:
        client = socket.socket()
        client.setblocking(False)
        assert call("connect", client.fileno(), address, 16) == -115
        return client

    def work() -> None:
        attempt().close()
        kept = attempt()
        call("connect", kept.fileno(), bytes(16), 16)
        attempt().detach()  # the process ends with it

    rows, outcomes, _ = record(work)
    assert [row["error"] for row in rows] == ["EINPROGRESS", "EINPROGRESS", "", "EINPROGRESS"]
    assert [row["error"] for row in outcomes] == ["ECANCELED"] * 3
    begun = [row for row in rows if row["in_progress"]]
    for row, outcome in zip(begun, outcomes, strict=True):
        has(outcome, {name: row[name] for name in SAME} | remote(*full.getsockname()))
    assert len({row["connection_id"] for row in begun}) == 3


def test_a_call_that_a_signal_breaks_off(full: socket.socket, record: Record) -> None:
    """The attempt outlives the call: it succeeds later, in no process's name, and the row of that has the first call's."""
    address = inet(*full.getsockname())
    with socket.socket() as client:

        def work() -> list[int]:
            signal.signal(signal.SIGALRM, lambda *_: None)
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            broken = call("connect", client.fileno(), address, 16)
            full.accept()
            return [broken, call("connect", client.fileno(), address, 16)]

        rows, (outcome,), results = record(work)
    assert results == [-4, 0]
    assert [(row["return_code"], row["in_progress"]) for row in rows] == [(ERESTARTSYS, True), (0, False)]
    assert rows[0]["connection_id"] == rows[1]["connection_id"] == outcome["connection_id"] != 0
    has(outcome, {name: rows[0][name] for name in SAME} | remote(*full.getsockname()) | {"return_code": 0})
    assert outcome["duration_ns"] > rows[0]["duration_ns"]
    assert rows[1]["local_port"] == outcome["local_port"] > 0


def test_nobody_answers(full: socket.socket, record: Record) -> None:
    """ETIMEDOUT of a call that waits, and of one that does not: both ends are there, the time it took too."""
    address = inet(*full.getsockname())
    with socket.socket() as waiting, socket.socket() as other:
        other.setblocking(False)
        for client in (waiting, other):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, 1)
        rows, (outcome,), _ = record(lambda: [call("connect", s.fileno(), address, 16) for s in (other, waiting)])
    assert [row["error"] for row in (*rows, outcome)] == ["EINPROGRESS", "ETIMEDOUT", "ETIMEDOUT"]
    for row in (rows[1], outcome):
        has(row, remote(*full.getsockname()) | {"local_address": column("127.0.0.1")})
        assert row["local_port"] > 0
        assert row["duration_ns"] > 10**9
    has(outcome, {name: rows[0][name] for name in SAME})


def test_what_fails_before_the_kernel_takes_the_address(closed: int, listener: socket.socket, record: Record) -> None:
    """EBADF to EAFNOSUPPORT: what was asked for comes from the caller's memory and says so, or that it could not be had."""
    good, short6 = inet("127.0.0.1", closed), inet6("::1", closed)
    asked = remote("127.0.0.1", closed) | {"quality": [USER_MEMORY]}
    none = remote("", 0) | {"quality": [MISSING]}
    other = (99).to_bytes(2, "little") + bytes(14)
    with (
        socket.socket() as tcp,
        socket.socket(INET, UDP) as udp,
        socket.socket(INET6) as tcp6,
        Path("/dev/null").open() as file,
    ):
        no_socket = {"socket_type": 0, "family": 0, "family_name": b"", "type_name": b"", "protocol_name": b""}
        cases: list[tuple[int, bytes | int, int, Row]] = [
            (9999, good, 16, asked | no_socket | {"error": "EBADF", "quality": ["socket_missing", USER_MEMORY]}),
            (-1, 0, 0, none | no_socket | {"error": "EBADF", "quality": ["socket_missing", MISSING]}),
            (file.fileno(), good, 16, asked | no_socket | {"error": "ENOTSOCK", "quality": ["socket_missing", USER_MEMORY]}),
            (tcp.fileno(), 0, 16, none | {"error": "EFAULT"}),
            (tcp.fileno(), 8, 16, none | {"error": "EFAULT"}),
            (tcp.fileno(), good, 1, none | {"error": "EINVAL"}),
            (tcp.fileno(), good, 4, none | {"error": "EINVAL"}),
            (tcp.fileno(), good, -1, none | {"error": "EINVAL"}),
            (tcp.fileno(), good, 4096, none | {"error": "EINVAL"}),
            (tcp.fileno(), good, 8, asked | {"error": "EINVAL"}),
            (tcp6.fileno(), short6, 20, none | {"error": "EINVAL"}),
            (tcp.fileno(), other, 16, none | {"error": "EAFNOSUPPORT"}),
            (udp.fileno(), other, 16, none | {"error": "EAFNOSUPPORT"}),
            (udp.fileno(), inet("127.255.255.255", 9), 16, remote("127.255.255.255", 9) | {"error": "EACCES"}),
            (listener.fileno(), good, 16, asked | {"error": "EISCONN", "quality": []} | remote("", 0)),
        ]
        rows, outcomes, _ = record(lambda: [call("connect", fd, address, length) for fd, address, length, _ in cases])
    assert len(rows) == len(cases)
    for row, (fd, _, _, wanted) in zip(rows, cases, strict=True):
        has(row, wanted | {"fd": fd, "in_progress": False, "connection_id": 0})
    assert outcomes == []


def test_no_way_there(record: Record) -> None:
    """ENETUNREACH, and EADDRNOTAVAIL, in a network namespace of the child's own, where no interface is up."""
    addresses = [(INET, TCP, inet("192.0.2.1", 80)), (INET, UDP, inet("192.0.2.1", 80)), (INET6, TCP, inet6("2001:db8::1", 80))]
    errors = ["ENETUNREACH", "ENETUNREACH", "EADDRNOTAVAIL"]

    def work() -> list[int]:
        assert call("unshare", CLONE_NEWNET) == 0
        return [call("connect", socket.socket(f, t).detach(), address, len(address)) for f, t, address in addresses]

    rows, outcomes, _ = record(work)
    for row, error, (family, type, _) in zip(rows, errors, addresses, strict=True):
        has(row, kind(family, type) | remote("192.0.2.1" if family == INET else "2001:db8::1", 80))
        has(row, {"error": error, "quality": [USER_MEMORY]})
    assert outcomes == []


def test_a_connection_is_dissolved(listener: socket.socket, record: Record) -> None:
    """A call with AF_UNSPEC succeeds and leaves no remote end."""
    with socket.create_connection(listener.getsockname()) as tcp, socket.socket(INET, UDP) as udp:
        udp.connect(("127.0.0.1", 9))
        rows, _, results = record(lambda: [call("connect", s.fileno(), bytes(16), 16) for s in (tcp, udp)])
    assert results == [0, 0]
    for row in rows:
        has(row, remote("", 0) | {"quality": [], "return_code": 0})


def test_the_descriptor_is_replaced_while_it_connects(full: socket.socket, record: Record) -> None:
    """Another thread puts a file in the socket's place: the row has the attempt's ends all the same, not the file's."""
    address = inet(*full.getsockname())

    def work() -> int:
        client = socket.socket()

        def replace() -> None:
            while Path(f"/proc/self/task/{main}/syscall").read_text().split()[:2] != [str(NUMBER), hex(client.fileno())]:
                os.sched_yield()
            os.dup2(os.open("/dev/null", os.O_RDONLY), client.fileno())
            full.accept()

        main = threading.get_native_id()
        thread = threading.Thread(target=replace)
        thread.start()
        return call("connect", client.fileno(), address, 16)

    (row,), outcomes, result = record(work)
    assert result == 0
    has(row, kind(INET, TCP) | remote(*full.getsockname()) | {"quality": [], "local_address": column("127.0.0.1")})
    assert outcomes == []


NUMBER = {"x86_64": 42, "aarch64": 203}[os.uname().machine]


def test_what_is_filtered_has_no_outcome(listener: socket.socket) -> None:
    """Of an excluded user neither the call's row nor the outcome's comes, and no attempt is kept; of another both do."""
    address = inet(*listener.getsockname())

    def work() -> int:
        client = socket.socket()
        client.setblocking(False)
        return call("connect", client.fileno(), address, 16)

    with recording("connect", infrasight_probe_net.connect, filters=Filters(exclude_uid=(65534,))) as kept:
        (others, _), (roots, _) = in_child(work, 65534), in_child(work)
    assert [len(rows) for rows in (*rows_of(kept, others, 65534), *rows_of(kept, roots))] == [0, 0, 1, 1]
    assert kept.counts.seen == kept.counts.submitted + kept.counts.filtered
    assert kept.counts.filtered >= 1


def test_where_no_attempt_can_be_kept_the_row_says_so(full: socket.socket) -> None:
    """With room for one attempt, the second's row says that no outcome will come; the first's comes."""
    address = inet(*full.getsockname())

    class Small:
        """The probe with room for one."""

        infrasight_api = 1
        schema = staticmethod(infrasight_probe_net.connect.schema)
        decode = staticmethod(infrasight_probe_net.connect.decode)

        @staticmethod
        @hookimpl
        def load_bpf(kernel: Any, options: Any) -> Any:
            """One entry."""
            program = infrasight_probe_net.connect.load_bpf(kernel, options)
            return evolve(program, defines={**program.defines, "ENTRIES": 1})

    def work() -> None:
        clients = [socket.socket() for _ in range(2)]
        for client in clients:
            client.setblocking(False)
            call("connect", client.fileno(), address, 16)

    with recording("connect", Small()) as kept:
        pid, _ = in_child(work)
    rows = [row for row in kept.table.sort_by("time").to_pylist() if row["pid"] == pid]
    assert [(row["stage"], row["quality"]) for row in rows] == [
        (b"call", []),
        (b"outcome", ["exe_missing"]),
        (b"call", ["outcome_missing"]),
    ]


def test_a_storm(listener: socket.socket) -> None:
    """Eight processes of 500 calls each, half of them without waiting: exactly one row per call and one per outcome."""
    processes, calls = 8, 500

    def work() -> None:
        libc = ctypes.CDLL(None)
        listener.listen(65535)
        address = inet(*listener.getsockname())
        for _ in range(processes):
            if os.fork() == 0:
                for number in range(calls):
                    with socket.socket() as client:
                        client.setblocking(number % 2 == 0)
                        libc.connect(client.fileno(), address, 16)
                os._exit(0)
        for _ in range(processes):
            os.wait()

    with recording("connect", infrasight_probe_net.connect) as kept:
        _, _ = in_child(work)
    counts = kept.counts
    assert counts.seen == counts.submitted + counts.filtered + counts.dropped
    assert counts.dropped == 0
    port = listener.getsockname()[1]
    rows = [row for row in kept.table.to_pylist() if row["remote_port"] == port]
    begun = [row["connection_id"] for row in rows if row["in_progress"]]
    ended = [row["connection_id"] for row in rows if row["stage"] == b"outcome"]
    assert len([row for row in rows if row["stage"] == b"call"]) == processes * calls
    assert len(begun) == processes * calls // 2
    assert sorted(begun) == sorted(ended)
    assert len({row["connection_id"] for row in rows}) == processes * calls
