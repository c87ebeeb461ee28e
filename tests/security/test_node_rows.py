"""A compromised node sends rows, accounts and updates that are meant to harm those of others."""

from collections.abc import Iterator
from typing import Any

import grpc
import pyarrow as pa
import pytest
from infrasight.v1.stream_pb2 import Account, Batch, Container, Hello
from infrasight_server.store.clickhouse import Store
from infrasight_server.store.containers import migrate_containers
from infrasight_testbed.agent_client import AgentClient
from infrasight_testbed.execve_batches import NODE, SCHEMA, TIME, WINDOW, batch, hello, table
from infrasight_testbed.system import Process, System, running_system, until

EVIL = "node-evil"
DAY = 86_400 * 10**9


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A system without processes."""
    with running_system(tmp_path_factory.mktemp("system")) as running:
        yield running


@pytest.fixture(scope="module", autouse=True)
def server(system: System) -> Process:
    """The server process."""
    return system.start_server("--linger-seconds", "0.05")


@pytest.fixture
def evil(system: System) -> Iterator[AgentClient]:
    """The stream of the compromised node."""
    with connected(system, EVIL) as agent:
        yield agent


def connected(system: System, node: str = NODE) -> AgentClient:
    """Returns an agent that the server has welcomed."""
    agent = AgentClient(system.address)
    agent.send(hello(node=node))
    agent.answer()
    return agent


def answer(agent: AgentClient, sent: Batch) -> str:
    """Sends a batch; returns its answer."""
    agent.send(sent)
    (outcome,) = agent.answers(1).values()
    return outcome


def count(system: System, condition: str, source: str = "execve_events") -> int:
    """Returns how many rows of a table fulfil a condition."""
    (row,) = system.query(f"SELECT count() AS n FROM {source} WHERE {condition}")
    return int(row["n"])


def good_account(window: int = WINDOW, **numbers: int) -> Account:
    """Returns an account that adds up."""
    account = Account(run="1", window=window, number=1, seen=10, submitted=10, read=10)
    account.MergeFrom(Account(**numbers))  # type: ignore[arg-type]  # all of them are numbers
    return account


def assert_others_are_served(system: System, name: str) -> None:
    """Asserts that a batch of another node is stored and acknowledged with its account."""
    batch_id = f"1-{WINDOW}-{name}"
    with connected(system, f"node-{name}") as agent:
        assert answer(agent, batch(batch_id, table(10), account=good_account())) == "stored"
    assert count(system, f"node = 'node-{name}'") == 10
    assert count(system, f"node = 'node-{name}' AND read = 10", "accounts") == 1


def times(*moments: int) -> pa.Array:
    """Returns a column of times."""
    return pa.array(moments).cast(SCHEMA.agent.field("time").type)


@pytest.mark.parametrize("rows", [3, 20], ids=["fewer", "more"])
def test_acknowledged_rows_are_not_replaced(system: System, evil: AgentClient, rows: int) -> None:
    """A known id with another number of rows deletes nothing: it is a conflict, and counted."""
    batch_id = f"victim-{rows}"
    assert answer(evil, batch(batch_id, table(10))) == "stored"
    replacement = batch(batch_id, table(rows, first=500), retry=True)
    assert answer(evil, replacement) == "CONFLICT"
    assert count(system, f"batch_id = '{batch_id}' AND sequence < 10") == 10
    assert count(system, f"batch_id = '{batch_id}'") == 10


def test_acknowledged_rows_are_not_claimed_by_others(system: System, evil: AgentClient) -> None:
    """A known id with as many other rows is a conflict: the other rows are not acknowledged."""
    assert answer(evil, batch("claimed", table(10))) == "stored"
    assert answer(evil, batch("claimed", table(10, first=500), retry=True)) == "CONFLICT"
    assert answer(evil, batch("claimed", table(10), retry=True)) == "stored"
    assert count(system, "batch_id = 'claimed'") == 10


@pytest.mark.parametrize(
    "account",
    [
        good_account(window=(1 << 32) - 1),
        good_account(window=(1 << 32) // 60),
        good_account(window=WINDOW + 3 * 1440),
        good_account(window=1),
        good_account(read=(1 << 64) - 1),
        good_account(waiting=-(1 << 63)),
        good_account(number=(1 << 64) - 1),
        Account(run="a" * 10_000, window=WINDOW, number=1),
        Account(run="\x1b[2J", window=WINDOW, number=1),
    ],
    ids=[
        "last_window",
        "overflowing_window",
        "future_window",
        "old_window",
        "count_of_64_bits",
        "negative_count",
        "number_of_64_bits",
        "long_run",
        "escapes_in_run",
    ],
)
def test_impossible_account_costs_its_batch_only(
    system: System, evil: AgentClient, account: Account, request: pytest.FixtureRequest
) -> None:
    """It is rejected; accounts of others are still stored, and the server stays ready."""
    name = request.node.callspec.id.replace("_", "-")
    sent = batch(f"1-{WINDOW}-{name}", table(1), account=account)
    assert answer(evil, sent) == "MALFORMED"
    alone = Batch(batch_id=f"1-{WINDOW}-{name}-alone", probe="execve", account=account)
    assert answer(evil, alone) == "MALFORMED"
    assert_others_are_served(system, name)
    assert count(system, f"node = '{EVIL}' AND read != 10", "accounts") == 0


def test_account_that_goes_backwards_leaves_its_stream_usable(
    system: System, evil: AgentClient
) -> None:
    """Fewer dropped events than before are rejected; the next batches are answered."""
    for number, dropped in ((1, 100), (2, 7)):
        account = good_account(number=number, block_full=dropped, seen=10 + dropped)
        sent = Batch(batch_id=f"1-{WINDOW}-back-{number}", probe="execve", account=account)
        assert answer(evil, sent) == ("stored" if number == 1 else "MALFORMED")
    assert answer(evil, batch("after-back", table(3))) == "stored"


def test_account_of_an_unknown_probe_is_rejected(system: System, evil: AgentClient) -> None:
    """No table of the server grows by probes that it does not have."""
    sent = Batch(batch_id=f"1-{WINDOW}-unknown", probe="made-up", account=good_account())
    assert answer(evil, sent) == "UNKNOWN_PROBE"
    sent = batch(f"1-{WINDOW}-unknown-2", table(1), probe="made-up", account=good_account())
    assert answer(evil, sent) == "UNKNOWN_PROBE"
    assert count(system, "probe = 'made-up'", "accounts") == 0


def test_rejected_rows_cannot_be_inflated(system: System, evil: AgentClient) -> None:
    """2^63 declared rows do not appear as rejected events, which would hide dropped ones."""
    sent = batch(f"1-{WINDOW}-huge", table(1), rows=1 << 63)
    assert answer(evil, sent) == "TOO_LARGE"
    (row,) = system.query("SELECT max(rows) AS n FROM rejections")
    assert int(row["n"]) <= 1_000_000


@pytest.mark.parametrize(
    "moments",
    [(0,), (TIME + 4 * DAY,), (TIME - 1000 * DAY,), ((1 << 63) - 1,), (-1,)],
    ids=["epoch", "future", "years_ago", "end_of_time", "before_epoch"],
)
def test_events_of_impossible_times_are_rejected(
    system: System, evil: AgentClient, moments: tuple[int, ...]
) -> None:
    """No partition appears outside the period that the server accepts."""
    sent = batch("when", table(len(moments), time=times(*moments)))
    assert answer(evil, sent) == "MALFORMED"
    assert count(system, "batch_id = 'when'") == 0


def test_batch_of_many_days_is_rejected(system: System, evil: AgentClient) -> None:
    """A batch cannot write 90 partitions, which takes the table's writer a second."""
    days = times(*(TIME - day * DAY for day in range(90)))
    assert answer(evil, batch("days", table(90, time=days))) == "MALFORMED"
    assert count(system, "batch_id = 'days'") == 0


def test_backlog_of_a_node_does_not_delay_others(system: System, evil: AgentClient) -> None:
    """Another node's batch is stored while sixty of one node wait, eight days in each."""
    backlog = 60
    for number in range(backlog):
        first = TIME - (1 + number % 40) * 8 * DAY
        days = times(*(first + day * DAY for day in range(8)))
        evil.send(batch(f"backlog-{number}", table(8, time=days)))
    evil.answers(1)
    with connected(system, "node-patient") as other:
        assert answer(other, batch("patient", table(10))) == "stored"
    assert count(system, "startsWith(batch_id, 'backlog-')") < backlog * 8
    assert set(evil.answers(backlog - 1).values()) == {"stored"}


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("exe", pa.array([b"a" * (2 << 20)])),
        ("comm", pa.DictionaryArray.from_arrays(pa.array([0], pa.int32()), [b"a" * 10_000])),
        (
            "comm",
            pa.DictionaryArray.from_arrays(
                pa.array([0], pa.int32()), pa.array([b"%d" % n for n in range(100_000)])
            ),
        ),
        ("container_id", pa.DictionaryArray.from_arrays(pa.array([0], pa.int32()), ["a" * 5_000])),
    ],
    ids=["path_of_2_MiB", "long_name", "unused_names", "long_container"],
)
def test_oversized_values_are_rejected(
    system: System, evil: AgentClient, name: str, values: pa.Array
) -> None:
    """Values and dictionaries that no kernel produces cost their batch."""
    assert answer(evil, batch("value", table(1, **{name: values}))) == "MALFORMED"
    assert count(system, "batch_id = 'value'") == 0


@pytest.mark.parametrize(
    "greeting",
    [
        Hello(node="n" * 10_000),
        Hello(node="\x1b[31mnode"),
        Hello(node=" "),
        Hello(node="node-evil", boot_id="b" * 100_000),
        hello(*(f"probe-{number}" for number in range(1_000)), node="node-evil"),
    ],
    ids=["long_node", "escapes_in_node", "blank_node", "long_boot", "many_probes"],
)
def test_oversized_hello_ends_its_stream(system: System, greeting: Hello) -> None:
    """What the server would log and remember of a node is bounded."""
    with AgentClient(system.address) as agent:
        agent.send(greeting)
        with pytest.raises(grpc.RpcError) as raised:
            agent.answer()
    assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION


@pytest.mark.parametrize(
    "fields",
    [
        {"batch_id": "b" * 1_000},
        {"batch_id": "b\x1b[2J"},
        {"batch_id": "b", "message_type": "m" * 1_000},
        {"batch_id": "b", "probe": "p" * 1_000},
    ],
    ids=["long_id", "escapes_in_id", "long_type", "long_probe"],
)
def test_oversized_ids_are_rejected(
    system: System, evil: AgentClient, fields: dict[str, Any]
) -> None:
    """They cost their batch, and no table has a row with them."""
    assert answer(evil, batch(**{"content": table(1), **fields})) == "MALFORMED"
    unbounded = "length(batch_id) > 256 OR length(probe) > 256 OR batch_id LIKE '%\\x1b%'"
    assert count(system, unbounded, "rejections") == 0


def test_containers_of_the_future_are_rejected(system: System, evil: AgentClient) -> None:
    """An update cannot win over all later ones."""
    update = Container(container_id="ab" * 32, name=b"forged", runtime="cri")
    update.time.FromNanoseconds(TIME + 10_000 * DAY)
    assert answer(evil, Batch(batch_id="c", containers=[update])) == "MALFORMED"
    assert count(system, "name = 'forged'", "containers") == 0


def test_server_that_was_attacked_is_ready(server: Process) -> None:
    """After all of that, no task has ended."""
    until(server.ready, "the server is ready", 10)
    assert server.metric("infrasight_server_task_failures_total") == 0


def test_node_displaces_no_container_of_another(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Half a million newer containers of one node leave the other's container its name."""
    store = Store.embedded(tmp_path_factory.mktemp("store"), "infrasight")
    migrate_containers(store)
    columns = "INSERT INTO containers (node, container_id, name, time) SELECT"
    store.command(f"{columns} 'node-good', 'web', 'nginx', now() - 3600")
    store.command(
        f"{columns} '{EVIL}', toString(number), 'forged', now() + number % 9 FROM numbers(500000)"
    )
    store.command("SYSTEM RELOAD DICTIONARY containers_known")
    known = "dictGet('infrasight.containers_known', 'name', ('{}', '{}')) AS name"
    (row,) = list(store.query(f"SELECT {known.format('node-good', 'web')}"))[-1].to_pylist()
    assert row == {"name": b"nginx"}
    counted = (
        f"SELECT countIf(dictHas('infrasight.containers_known', ('{EVIL}', toString(number))))"
    )
    (row,) = list(store.query(f"{counted} AS n FROM numbers(500000)"))[-1].to_pylist()
    store.close()
    assert 0 < row["n"] <= 20_000
