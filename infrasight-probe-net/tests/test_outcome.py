"""The probe connect: how attempts of TCP ended that their call did not wait for."""

import ctypes
import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import infrasight_probe_net.connect
import pytest
from attrs import evolve
from infrasight_core import hookimpl
from infrasight_core.kernel.filters import Filters
from infrasight_recording import Recording, recording
from infrasight_testbed.addresses import column, inet, inet6
from infrasight_testbed.socket_rows import (
    INET,
    INET6,
    TCP,
    Row,
    assert_fields,
    remote_end,
    rows_of,
    socket_kind,
)
from infrasight_testbed.syscalls import NUMBERS, call, in_child
from infrasight_testbed.system import until

Record = Callable[..., tuple[list[Row], list[Row], Any]]
ERESTARTSYS = -512
SAME = (
    "pid",
    "tid",
    "ppid",
    "process_key",
    "parent_process_key",
    "uid",
    "gid",
    "comm",
    "cgroup_id",
    "connection_id",
)


def is_connecting(thread: int | None) -> bool:
    """Whether a thread of this process waits in connect(2)."""
    call_and_arguments = Path(f"/proc/self/task/{thread}/syscall").read_text().split()
    return call_and_arguments[0] == str(NUMBERS["connect"])


def detach_state_changed(recorded: Recording) -> None:
    """Detaches the program from sock:inet_sock_set_state, the last attachment but one."""
    os.close(recorded.recorder._recordings["connect"].loaded.descriptors.pop(-2))


@pytest.mark.parametrize(("family", "host"), [(INET, "127.0.0.1"), (INET6, "::1")])
@pytest.mark.parametrize("refused", [True, False])
def test_a_call_that_does_not_wait(
    family: int, host: str, refused: bool, closed: int, record: Record
) -> None:
    """EINPROGRESS, and a second row says how it ended, with the same id, caller and ends."""
    with socket.create_server((host, 0), family=family) as server, socket.socket(family) as client:
        client.setblocking(False)
        port = closed if refused else server.getsockname()[1]
        address = (inet if family == INET else inet6)(host, port)
        (row,), (outcome,), _ = record(
            lambda: call("connect", client.fileno(), address, len(address))
        )
    both = (
        socket_kind(family, TCP)
        | remote_end(host, port)
        | {"local_address": column(host), "fd": row["fd"]}
    )
    assert_fields(row, both | {"error": "EINPROGRESS", "in_progress": True, "quality": []})
    assert_fields(
        outcome,
        both | {"error": "ECONNREFUSED" if refused else "", "return_code": -111 if refused else 0},
    )
    assert_fields(
        outcome, {name: row[name] for name in SAME} | {"in_progress": False, "quality": []}
    )
    assert outcome["local_port"] == row["local_port"] > 0
    assert row["connection_id"] > 0


def test_further_calls_while_it_is_made_and_after(
    full: socket.socket, listener: socket.socket, record: Record
) -> None:
    """EALREADY and EISCONN have the existing connection's remote end and id."""
    port = full.getsockname()[1]
    other = inet("127.0.0.9", 9)
    with socket.socket() as waiting, socket.create_connection(listener.getsockname()) as connected:
        waiting.setblocking(False)
        address = inet("127.0.0.1", port)

        def work() -> list[int]:
            first = call("connect", waiting.fileno(), address, 16)
            return [first, *(call("connect", s.fileno(), other, 16) for s in (waiting, connected))]

        rows, outcomes, _ = record(work)
        assert [row["error"] for row in rows] == ["EINPROGRESS", "EALREADY", "EISCONN"]
        for row in rows[:2]:
            assert_fields(
                row,
                remote_end("127.0.0.1", port)
                | {"quality": [], "local_port": waiting.getsockname()[1]},
            )
        assert rows[0]["connection_id"] == rows[1]["connection_id"] != 0
        assert_fields(
            rows[2],
            remote_end(*listener.getsockname())
            | {"connection_id": 0, "local_port": connected.getsockname()[1]},
        )
    assert outcomes == []  # it was still waiting when the recording ended


def test_a_socket_that_is_closed_while_it_connects(full: socket.socket, record: Record) -> None:
    """The outcome of a closed or disconnected socket is ECANCELED, of the call's process."""
    address = inet(*full.getsockname())

    def attempt() -> socket.socket:
        client = socket.socket()
        client.setblocking(False)
        assert call("connect", client.fileno(), address, 16) == -115
        return client

    def work() -> None:
        attempt().close()
        recorded = attempt()
        call("connect", recorded.fileno(), bytes(16), 16)
        attempt().detach()  # the process ends with it

    rows, outcomes, _ = record(work)
    assert [row["error"] for row in rows] == ["EINPROGRESS", "EINPROGRESS", "", "EINPROGRESS"]
    assert [row["error"] for row in outcomes] == ["ECANCELED"] * 3
    begun = [row for row in rows if row["in_progress"]]
    for row, outcome in zip(begun, outcomes, strict=True):
        assert_fields(outcome, {name: row[name] for name in SAME} | remote_end(*full.getsockname()))
    assert len({row["connection_id"] for row in begun}) == 3


def test_a_call_that_a_signal_breaks_off(full: socket.socket, record: Record) -> None:
    """An attempt that outlives its call succeeds later; the outcome has the call's process."""
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
    assert [(row["return_code"], row["in_progress"]) for row in rows] == [
        (ERESTARTSYS, True),
        (0, False),
    ]
    assert rows[0]["connection_id"] == rows[1]["connection_id"] == outcome["connection_id"] != 0
    assert_fields(
        outcome,
        {name: rows[0][name] for name in SAME}
        | remote_end(*full.getsockname())
        | {"return_code": 0},
    )
    assert outcome["duration_ns"] > rows[0]["duration_ns"]
    assert rows[1]["local_port"] == outcome["local_port"] > 0


def test_nobody_answers(full: socket.socket, record: Record) -> None:
    """ETIMEDOUT of a blocking and of a non-blocking call has both ends and the duration."""
    address = inet(*full.getsockname())
    with socket.socket() as waiting, socket.socket() as other:
        other.setblocking(False)
        for client in (waiting, other):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, 1)
        rows, (outcome,), _ = record(
            lambda: [call("connect", s.fileno(), address, 16) for s in (other, waiting)]
        )
    assert [row["error"] for row in (*rows, outcome)] == ["EINPROGRESS", "ETIMEDOUT", "ETIMEDOUT"]
    for row in (rows[1], outcome):
        assert_fields(row, remote_end(*full.getsockname()) | {"local_address": column("127.0.0.1")})
        assert row["local_port"] > 0
        assert row["duration_ns"] > 10**9
    assert_fields(outcome, {name: rows[0][name] for name in SAME})


def test_the_descriptor_is_replaced_while_it_connects(full: socket.socket, record: Record) -> None:
    """When a thread replaces the descriptor, the row still has the ends of the attempt."""
    address = inet(*full.getsockname())

    def work() -> int:
        client = socket.socket()

        def replace() -> None:
            while not is_connecting(main):
                os.sched_yield()
            os.dup2(os.open("/dev/null", os.O_RDONLY), client.fileno())
            full.accept()

        main = threading.get_native_id()
        thread = threading.Thread(target=replace)
        thread.start()
        return call("connect", client.fileno(), address, 16)

    (row,), outcomes, result = record(work)
    assert result == 0
    assert_fields(
        row,
        socket_kind(INET, TCP)
        | remote_end(*full.getsockname())
        | {"quality": [], "local_address": column("127.0.0.1")},
    )
    assert outcomes == []


def test_what_is_filtered_has_no_outcome(listener: socket.socket) -> None:
    """A filtered call has neither a row nor an outcome; another user's call has both."""
    address = inet(*listener.getsockname())

    def work() -> int:
        client = socket.socket()
        client.setblocking(False)
        return call("connect", client.fileno(), address, 16)

    with recording(
        "connect", infrasight_probe_net.connect, filters=Filters(exclude_uid=(65534,))
    ) as recorded:
        (others, _) = in_child(work, 65534)
        (roots, _) = in_child(work)
    assert rows_of(recorded, others, 65534) == []
    assert [row["stage"] for row in rows_of(recorded, roots)] == [b"call", b"outcome"]
    recorded.assert_accounted()
    assert recorded.counts.filtered >= 1


def test_where_no_attempt_can_be_kept_the_row_says_so(full: socket.socket) -> None:
    """With room for one attempt, the second call's row is flagged `outcome_missing`."""
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

    with recording("connect", Small()) as recorded:
        pid, _ = in_child(work)
    rows = [row for row in recorded.table.sort_by("time").to_pylist() if row["pid"] == pid]
    assert [(row["stage"], row["quality"]) for row in rows] == [
        (b"call", []),
        (b"outcome", []),
        (b"call", ["outcome_missing"]),
    ]


def test_an_end_that_was_not_seen(full: socket.socket) -> None:
    """Without the state change, the outcome comes with the socket's end, and flags the unknown."""
    with recording("connect", infrasight_probe_net.connect) as recorded, socket.socket() as client:
        client.setblocking(False)
        result = call("connect", client.fileno(), inet(*full.getsockname()), 16)
        detach_state_changed(recorded)
        client.close()
    rows = [
        row
        for row in recorded.table.to_pylist()
        if row["pid"] == os.getpid() and row["connection_id"]
    ]
    rows.sort(key=lambda row: row["stage"])  # the thread may have moved to another CPU's block
    assert (result, [row["stage"] for row in rows]) == (-115, [b"call", b"outcome"])
    assert_fields(
        rows[1],
        {name: rows[0][name] for name in SAME}
        | remote_end(*full.getsockname())
        | {"return_code": 0, "duration_ns": 0},
    )
    assert rows[1]["quality"] == ["return_code_missing", "duration_ns_missing"]


def test_a_failure_that_was_not_seen(full: socket.socket) -> None:
    """Without the state change, the row of a call that timed out has the local port."""
    address = inet(*full.getsockname())
    with recording("connect", infrasight_probe_net.connect) as recorded, socket.socket() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, 1)
        thread = threading.Thread(target=lambda: call("connect", client.fileno(), address, 16))
        thread.start()
        until(lambda: is_connecting(thread.native_id), "the thread waits in connect(2)")
        detach_state_changed(recorded)
        thread.join()
        port = client.getsockname()[1]
    (row,) = [row for row in recorded.table.to_pylist() if row["tid"] == thread.native_id]
    assert_fields(
        row,
        remote_end(*full.getsockname())
        | {"error": "ETIMEDOUT", "quality": [], "local_address": column("127.0.0.1")},
    )
    assert row["local_port"] == port > 0


def test_a_storm(listener: socket.socket) -> None:
    """Of 4,000 calls, half non-blocking, each has one row, and each outcome one row."""
    processes = 8
    calls = 500

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

    with recording("connect", infrasight_probe_net.connect) as recorded:
        _, _ = in_child(work)
    recorded.assert_accounted()
    port = listener.getsockname()[1]
    rows = [row for row in recorded.table.to_pylist() if row["remote_port"] == port]
    begun = [row["connection_id"] for row in rows if row["in_progress"]]
    ended = [row["connection_id"] for row in rows if row["stage"] == b"outcome"]
    assert len([row for row in rows if row["stage"] == b"call"]) == processes * calls
    assert len(begun) == processes * calls // 2
    assert sorted(begun) == sorted(ended)
    assert len({row["connection_id"] for row in rows}) == processes * calls
