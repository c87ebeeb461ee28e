"""Container updates: stored before they are acknowledged, and visible in the container's rows."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import grpc
import pyarrow as pa
import pytest
from infrasight.v1.stream_pb2 import Account, Batch, Container, QueryRequest
from infrasight.v1.stream_pb2_grpc import EventServiceStub
from infrasight_core import constant
from infrasight_core.cli.format import json_lines
from infrasight_core.net import ipc
from infrasight_core.plugin.ddl import define_table
from infrasight_core.plugin.schema import EventSchema
from infrasight_server import metrics
from infrasight_server.server import Server
from infrasight_server.settings import ServerSettings
from infrasight_server.store.clickhouse import Store
from infrasight_server.store.migration import migrate
from infrasight_testbed.agent_client import AgentClient
from infrasight_testbed.clickhouse import ClickHouseServer
from infrasight_testbed.execve_batches import SCHEMA, batch, hello, plugins, table
from infrasight_testbed.server_thread import running_server
from infrasight_testbed.system import until

MakeSettings = Callable[..., ServerSettings]
WEB = "ab" * 32


def container_update(
    container_id: str = WEB, *, seconds: int = 1_790_000_000, **fields: Any
) -> Container:
    """Returns what a runtime reports of a container at a time."""
    names = {"name": b"web", "image": b"nginx:1"}
    container = Container(container_id=container_id, runtime="cri", **(names | fields))
    container.time.FromSeconds(seconds)
    return container


def update_batch(batch_id: str, *containers: Container) -> Batch:
    """Returns a batch of container updates."""
    return Batch(batch_id=batch_id, containers=containers)


def connected(server: Server) -> AgentClient:
    """Returns an agent that the server has welcomed."""
    agent = AgentClient(server.address)
    agent.send(hello())
    agent.answer()
    return agent


def rows_of(container_id: str, rows: int, first: int = 0) -> pa.Table:
    """Returns events of one container."""
    return table(rows, first, container_id=constant(container_id, rows, pa.string()))


def query(server: Server, sql: str) -> pa.Table:
    """Returns the answer of a query over gRPC."""
    with grpc.insecure_channel(server.address) as channel:
        pieces = EventServiceStub(channel).Query(QueryRequest(sql=sql), timeout=60)
        return pa.concat_tables([ipc.from_bytes(piece.arrow) for piece in pieces])


def answer(server: Server, sql: str) -> list[Mapping[str, Any]]:
    """Returns the rows of a query, bytes as text."""
    return [json.loads(line) for line in json_lines(query(server, sql))]


def seen_in_a_row(server: Server, container_id: str) -> Mapping[str, Any]:
    """Returns what one event's row shows of its container."""
    (row,) = answer(
        server,
        "SELECT container.name AS name, container.image AS image, labels FROM execve_events "
        f"WHERE container_id = '{container_id}' LIMIT 1",
    )
    return row


def test_row_shows_a_container_that_becomes_known_later(make_settings: MakeSettings) -> None:
    """A row shows its container's name and labels as soon as the update is acknowledged.

    The newest update wins in any order, another node's container with the same id stays apart, and
    a restart changes nothing.
    """
    settings = make_settings()
    with running_server(settings, plugins()) as server, connected(server) as agent:
        agent.send(batch("rows", rows_of(WEB, 3)))
        assert agent.answers(1) == {"rows": "stored"}
        before = seen_in_a_row(server, WEB)
        assert (before["name"], before["labels"]) == ("", {})
        newest = {"name": "web", "image": "nginx:1", "labels": {"app": "new", "tier": "é"}}
        for seconds, label in ((5, "new"), (3, "old")):
            update = container_update(seconds=seconds, labels={"app": label, "tier": "é"})
            agent.send(update_batch(f"c-{seconds}", update))
            assert agent.answers(1) == {f"c-{seconds}": "stored"}
            assert seen_in_a_row(server, WEB) == newest
        with AgentClient(server.address) as other:
            other.send(hello(node="node-2"))
            other.answer()
            other.send(update_batch("c", container_update(seconds=9, name=b"other")))
            assert other.answers(1) == {"c": "stored"}
    with running_server(settings, plugins()) as server, connected(server) as agent:
        assert seen_in_a_row(server, WEB) == newest
        assert len(answer(server, "SELECT * FROM containers FINAL")) == 2
        assert query(server, "SELECT * FROM execve_events").schema.names == SCHEMA.stored.names
        agent.send(batch("more", rows_of("", 2, first=10)))
        assert agent.answers(1) == {"more": "stored"}
        assert seen_in_a_row(server, "") == {"name": "", "image": "", "labels": {}}


def test_repeated_update_is_stored_once_byte_for_byte(make_settings: MakeSettings) -> None:
    """A repeated batch changes nothing; every column, also a name that is not UTF-8, is intact."""
    update = container_update(
        name=b"\xff\x01",
        pod_name=b"p",
        pod_namespace=b"ns",
        pod_container=b"pc",
        labels={"a": "1"},
        labels_cut=True,
    )
    with running_server(make_settings(), plugins()) as server, connected(server) as agent:
        for number in range(3):
            agent.send(update_batch("again", update))
            assert agent.answers(1) == {"again": "stored"}, number
        (row,) = query(
            server,
            "SELECT * EXCEPT (time, labels), toUnixTimestamp(time) AS t FROM containers FINAL",
        ).to_pylist()
    wanted = {
        "pod_name": b"p",
        "pod_namespace": b"ns",
        "pod_container": b"pc",
        "labels_cut": True,
        "runtime": b"cri",
    }
    wanted |= {
        "node": b"node-1",
        "container_id": WEB.encode(),
        "name": b"\xff\x01",
        "image": b"nginx:1",
        "t": 1_790_000_000,
    }
    assert row == wanted


@pytest.mark.parametrize(
    ("sent", "reason", "message"),
    [
        (update_batch("b", container_update("")), "MALFORMED", "a container has no container_id"),
        (
            update_batch("b", container_update(), container_update("x" * 257)),
            "MALFORMED",
            "its id is longer than 256 bytes",
        ),
        (
            update_batch("b", container_update(image=b"i" * 4097)),
            "MALFORMED",
            "its image is longer than 4096 bytes",
        ),
        (
            update_batch("b", container_update(labels={"a": "v" * (64 << 10)})),
            "MALFORMED",
            "its labels are longer than 65536 bytes",
        ),
        (
            update_batch("b", Container(container_id="c")),
            "MALFORMED",
            "its time is not between 1970 and 2262",
        ),
        (update_batch("", container_update()), "MALFORMED", "it has no batch_id"),
        (
            Batch(batch_id="b", containers=[container_update()], rows=3),
            "MALFORMED",
            "neither rows nor an account",
        ),
        (
            Batch(batch_id="b", containers=[container_update()], account=Account(run="r")),
            "MALFORMED",
            "neither rows nor an account",
        ),
        (
            update_batch(
                "b", *(container_update(f"c{n}", labels={"a": "v" * 60_000}) for n in range(40))
            ),
            "TOO_LARGE",
            "send fewer containers",
        ),
    ],
)
def test_invalid_update_is_rejected(
    make_settings: MakeSettings, sent: Batch, reason: str, message: str
) -> None:
    """It is rejected with the reason, none of it is stored, and the stream continues."""
    with (
        running_server(make_settings(max_batch_bytes=1 << 20), plugins()) as server,
        connected(server) as agent,
    ):
        agent.send(sent)
        rejection = agent.answer().rejection
        assert message in rejection.detail
        agent.send(update_batch("good", container_update("good")))
        assert agent.answers(1) == {"good": "stored"}
        assert [
            row["container_id"] for row in answer(server, "SELECT container_id FROM containers")
        ] == ["good"]
        assert answer(server, "SELECT * FROM accounting WHERE rejected") == []
        (row,) = answer(server, "SELECT reason, detail FROM rejections")
        assert (row["reason"], row["detail"]) == (reason.lower(), rejection.detail)


def test_update_waits_for_an_unavailable_store(tmp_path: Path) -> None:
    """Without ClickHouse an update is not acknowledged; when it is back, the update is stored."""
    clickhouse = ClickHouseServer(tmp_path / "clickhouse").start()
    try:
        settings = ServerSettings(
            listen="127.0.0.1:0",
            status_listen="127.0.0.1:0",
            store=clickhouse.url,
            linger_seconds=0,
        )
        retries = metrics.INSERT_RETRIES.labels("containers")
        with running_server(settings, plugins()) as server, connected(server) as agent:
            agent.send(batch("rows", rows_of(WEB, 1)))
            assert agent.answers(1) == {"rows": "stored"}
            clickhouse.kill()
            before = retries._value.get()
            agent.send(update_batch("update", container_update(labels={"a": "b"})))
            until(lambda: retries._value.get() >= before + 2, "the insert is retried twice")
            assert metrics.PENDING_BYTES._value.get() > 0
            clickhouse.start()
            assert agent.answers(1) == {"update": "stored"}
            assert seen_in_a_row(server, WEB)["labels"] == {"a": "b"}
    finally:
        clickhouse.kill()


def test_migration_adds_the_container_columns_and_leaves_own_ones(
    store: Store, tmp_path: Path
) -> None:
    """An older table gets the columns, an outdated column is corrected, and a third migration
    changes nothing; a column of that name that the probe declares stays.
    """
    store.command(define_table("execve", SCHEMA).statement)
    store.command("INSERT INTO execve_events (node, container_id) VALUES ('node-1', 'old')")
    assert migrate(store, {"execve": SCHEMA}, None) == {}
    right = store.aliases("execve_events")
    assert {"labels", "container"} <= right.keys()
    store.command(
        "ALTER TABLE execve_events DROP COLUMN labels, ADD COLUMN labels Map(String, String) ALIAS "
        f"map('old', toString(dictHas('{store.database}.containers_known', (node, container_id))))"
    )
    assert migrate(store, {"execve": SCHEMA}, None) == {}
    assert store.aliases("execve_events") == right
    created = store.create_statement("execve_events")
    assert migrate(store, {"execve": SCHEMA}, None) == {}
    assert store.create_statement("execve_events") == created
    (row,) = list(
        store.query("SELECT container.name AS name, length(labels) AS n FROM execve_events")
    )[-1].to_pylist()
    assert row == {"name": b"", "n": 0}

    own = tmp_path / "own.sql"
    own.write_text(
        SCHEMA.ddl_text()
        .replace("    command ", "    labels String ALIAS 'mine',\n    command ")
        .replace("execve_events", "own_events")
    )
    assert migrate(store, {"own": EventSchema(SCHEMA.message, own)}, None) == {}
    columns = store.columns("own_events")
    assert columns["labels"] == "String"
    assert "container" in columns


def test_known_container_is_not_a_missing_field(make_settings: MakeSettings) -> None:
    """A row lacks its container's name until the container is known; other fields stay missing."""
    flags = [
        ["container_name_missing", "pod_name_missing"],
        ["container_name_missing", "cwd_missing"],
        ["argv_cut"],
    ]
    quality = pa.array(flags, pa.list_(pa.string())).cast(SCHEMA.agent.field("quality").type)
    rows = table(3, container_id=constant(WEB, 3, pa.string()), quality=quality)
    sql = (
        "SELECT arrayJoin(missing) AS field, sum(rows) AS n FROM missing "
        "WHERE probe = 'execve' GROUP BY field"
    )
    with running_server(make_settings(), plugins()) as server, connected(server) as agent:
        agent.send(batch("rows", rows))
        assert agent.answers(1) == {"rows": "stored"}
        before = {row["field"]: row["n"] for row in answer(server, sql)}
        assert before == {"container_name": 2, "cwd": 1, "pod_name": 1}
        agent.send(update_batch("update", container_update()))
        assert agent.answers(1) == {"update": "stored"}
        assert {row["field"]: row["n"] for row in answer(server, sql)} == {"cwd": 1}
        assert answer(server, "SELECT sum(rows) AS n FROM missing") == [{"n": 3}]


def test_dictionary_reads_its_table_with_the_password(tmp_path: Path) -> None:
    """If the store's user has a password, the dictionary uses it, and no query shows it."""
    users = tmp_path / "users.xml"
    users.write_text(
        r"""
        <clickhouse>
          <profiles><default/></profiles>
          <quotas><default/></quotas>
          <users>
            <default>
              <password/>
              <networks><ip>127.0.0.1</ip></networks>
              <profile>default</profile>
              <quota>default</quota>
              <grants>
                <query>GRANT SELECT ON system.*</query>
                <query>GRANT SYSTEM, SOURCES, CREATE TEMPORARY TABLE ON *.*</query>
              </grants>
            </default>
            <writer>
              <password>s'ecr\et</password>
              <networks><ip>::/0</ip></networks>
              <profile>default</profile>
              <quota>default</quota>
            </writer>
          </users>
        </clickhouse>
        """
    )
    config = tmp_path / "config.xml"
    config.write_text(f"<clickhouse><users_config>{users}</users_config></clickhouse>")
    clickhouse = ClickHouseServer(tmp_path / "clickhouse", f"--config-file={config}").start()
    try:
        url = clickhouse.url.replace("//", "//writer@")
        settings = ServerSettings(
            listen="127.0.0.1:0", status_listen="127.0.0.1:0", store=url, store_password="s'ecr\\et"
        )
        for _ in range(2):
            with running_server(settings, plugins()) as server, connected(server) as agent:
                agent.send(batch("rows", rows_of(WEB, 1)))
                agent.send(update_batch("update", container_update(labels={"a": "b"})))
                assert set(agent.answers(2).values()) == {"stored"}
                assert seen_in_a_row(server, WEB)["labels"] == {"a": "b"}
                shown = query(server, "SHOW CREATE DICTIONARY containers_known").to_pylist()
                assert "ecr" not in str(shown)
                assert "writer" in str(shown)
    finally:
        clickhouse.kill()
