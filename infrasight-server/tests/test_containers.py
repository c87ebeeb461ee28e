"""What agents tell of containers: stored before it is acknowledged, and seen in every event's row, early and late."""

import json
import time
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

MakeSettings = Callable[..., ServerSettings]
WEB = "ab" * 32


def news(container_id: str = WEB, *, seconds: int = 1_790_000_000, **fields: Any) -> Container:
    """What is told of a container at a time."""
    said = Container(
        container_id=container_id, runtime="cri", **{"name": b"web", "image": b"nginx:1", **fields}
    )
    said.time.FromSeconds(seconds)
    return said


def told(batch_id: str, *containers: Container) -> Batch:
    """A batch of news."""
    return Batch(batch_id=batch_id, containers=containers)


def connected(server: Server) -> AgentClient:
    """An agent that has said hello."""
    agent = AgentClient(server.address)
    agent.send(hello())
    agent.answer()
    return agent


def rows_of(container_id: str, rows: int, first: int = 0) -> pa.Table:
    """Events of one container."""
    return table(rows, first, container_id=constant(container_id, rows, pa.string()))


def query(server: Server, sql: str) -> pa.Table:
    """A query over the wire."""
    with grpc.insecure_channel(server.address) as channel:
        pieces = EventServiceStub(channel).Query(QueryRequest(sql=sql), timeout=60)
        return pa.concat_tables([ipc.from_bytes(piece.arrow) for piece in pieces])


def answer(server: Server, sql: str) -> list[Mapping[str, Any]]:
    """A query's rows, bytes as text."""
    return [json.loads(line) for line in json_lines(query(server, sql))]


SEEN = "SELECT container.name AS name, container.image AS image, labels FROM execve_events WHERE container_id = '{id}' LIMIT 1"


def test_a_row_shows_what_was_learned_later(make_settings: MakeSettings) -> None:
    """A row is stored first, its container told after: with the acknowledgement the row has its name and labels; newer news
    replace older ones and not the other way; another node's container of the same id stays its own; and all of it is there
    after a restart."""
    settings = make_settings()
    with running_server(settings, plugins()) as server, connected(server) as agent:
        agent.send(batch("rows", rows_of(WEB, 3)))
        assert agent.answers(1) == {"rows": "stored"}
        (before,) = answer(server, SEEN.format(id=WEB))
        assert (before["name"], before["labels"]) == ("", {})
        for at, label in ((5, "new"), (3, "old")):
            agent.send(told(f"c-{at}", news(seconds=at, labels={"app": label, "tier": "é"})))
            assert agent.answers(1) == {f"c-{at}": "stored"}
            (now,) = answer(server, SEEN.format(id=WEB))
            assert now == {"name": "web", "image": "nginx:1", "labels": {"app": "new", "tier": "é"}}
        with AgentClient(server.address) as other:
            other.send(hello(node="node-2"))
            other.answer()
            other.send(told("c", news(seconds=9, name=b"other")))
            assert other.answers(1) == {"c": "stored"}
    with running_server(settings, plugins()) as server, connected(server) as agent:
        assert answer(server, SEEN.format(id=WEB)) == [now]
        assert len(answer(server, "SELECT * FROM containers FINAL")) == 2
        assert query(server, "SELECT * FROM execve_events").schema.names == SCHEMA.stored.names
        agent.send(batch("more", rows_of("", 2, first=10)))
        assert agent.answers(1) == {"more": "stored"}
        (none,) = answer(server, SEEN.format(id=""))
        assert none == {"name": "", "image": "", "labels": {}}


def test_repeated_news_are_there_once_and_bytes_as_they_came(make_settings: MakeSettings) -> None:
    """The same batch again changes nothing; a name that is not UTF-8 is kept; all columns come back as they went in."""
    said = news(
        name=b"\xff\x01",
        pod_name=b"p",
        pod_namespace=b"ns",
        pod_container=b"pc",
        labels={"a": "1"},
        labels_cut=True,
    )
    with running_server(make_settings(), plugins()) as server, connected(server) as agent:
        for number in range(3):
            agent.send(told("again", said))
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
    ("sent", "reason", "said"),
    [
        (told("b", news("")), "MALFORMED", "a container has no container_id"),
        (told("b", news(), news("x" * 257)), "MALFORMED", "its id is longer than 256 bytes"),
        (told("b", news(image=b"i" * 4097)), "MALFORMED", "its image is longer than 4096 bytes"),
        (
            told("b", news(labels={"a": "v" * (64 << 10)})),
            "MALFORMED",
            "its labels are longer than 65536 bytes",
        ),
        (
            told("b", Container(container_id="c")),
            "MALFORMED",
            "its time is not one between 1970 and 2262",
        ),
        (told("", news()), "MALFORMED", "it has no batch_id"),
        (
            Batch(batch_id="b", containers=[news()], rows=3),
            "MALFORMED",
            "neither rows nor an account",
        ),
        (
            Batch(batch_id="b", containers=[news()], account=Account(run="r")),
            "MALFORMED",
            "neither rows nor an account",
        ),
        (
            told("b", *(news(f"c{n}", labels={"a": "v" * 60_000}) for n in range(40))),
            "TOO_LARGE",
            "send fewer containers",
        ),
    ],
)
def test_bad_news_are_refused(
    make_settings: MakeSettings, sent: Batch, reason: str, said: str
) -> None:
    """Malformed or too large: rejected with the reason, nothing of it is stored, the stream goes on; accounting has no row."""
    with (
        running_server(make_settings(max_batch_bytes=1 << 20), plugins()) as server,
        connected(server) as agent,
    ):
        agent.send(sent)
        rejection = agent.answer().rejection
        assert said in rejection.detail
        agent.send(told("good", news("good")))
        assert agent.answers(1) == {"good": "stored"}
        assert [
            row["container_id"] for row in answer(server, "SELECT container_id FROM containers")
        ] == ["good"]
        assert answer(server, "SELECT * FROM accounting WHERE rejected") == []
        (row,) = answer(server, "SELECT reason, detail FROM rejections")
        assert (row["reason"], row["detail"]) == (reason.lower(), rejection.detail)


def test_news_wait_for_a_store_that_is_away(tmp_path: Path) -> None:
    """While ClickHouse is away nothing is acknowledged; when it is back, the news are stored, and rows show them."""
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
            agent.send(told("news", news(labels={"a": "b"})))
            while retries._value.get() < before + 2:
                time.sleep(0.01)
            assert metrics.PENDING_BYTES._value.get() > 0
            clickhouse.start()
            assert agent.answers(1) == {"news": "stored"}
            assert answer(server, SEEN.format(id=WEB))[0]["labels"] == {"a": "b"}
    finally:
        clickhouse.kill()


def test_old_tables_get_the_columns_and_own_ones_stay(store: Store, tmp_path: Path) -> None:
    """A table from before has them after a migration, one that is out of date is corrected, the next migration changes nothing;
    a probe's own column of that name is left alone."""
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
    assert (store.columns("own_events")["labels"], "container" in store.columns("own_events")) == (
        "String",
        True,
    )


def test_a_known_container_is_no_missing_field(make_settings: MakeSettings) -> None:
    """Rows that went without their container's name lack it until the container is known; what else they lack stays."""
    flags = [
        ["container_name_missing", "pod_name_missing"],
        ["container_name_missing", "cwd_missing"],
        ["argv_cut"],
    ]
    quality = pa.array(flags, pa.list_(pa.string())).cast(SCHEMA.agent.field("quality").type)
    rows = table(3, container_id=constant(WEB, 3, pa.string()), quality=quality)
    asked = "SELECT arrayJoin(missing) AS field, sum(rows) AS n FROM missing WHERE probe = 'execve' GROUP BY field"
    with running_server(make_settings(), plugins()) as server, connected(server) as agent:
        agent.send(batch("rows", rows))
        assert agent.answers(1) == {"rows": "stored"}
        before = {row["field"]: row["n"] for row in answer(server, asked)}
        assert before == {"container_name": 2, "cwd": 1, "pod_name": 1}
        agent.send(told("news", news()))
        assert agent.answers(1) == {"news": "stored"}
        assert {row["field"]: row["n"] for row in answer(server, asked)} == {"cwd": 1}
        assert answer(server, "SELECT sum(rows) AS n FROM missing") == [{"n": 3}]


def test_a_store_with_a_password(tmp_path: Path) -> None:
    """Where the store's user has a password, the store reads its own table with it, and shows the password to nobody."""
    users = tmp_path / "users.xml"
    users.write_text(
        "<clickhouse><profiles><default/></profiles><quotas><default/></quotas><users><default><password/>"
        "<networks><ip>127.0.0.1</ip></networks><profile>default</profile><quota>default</quota><grants>"
        "<query>GRANT SELECT ON system.*</query><query>GRANT SYSTEM, SOURCES, CREATE TEMPORARY TABLE ON *.*</query></grants>"
        "</default><writer><password>s'ecr\\et</password>"
        "<networks><ip>::/0</ip></networks><profile>default</profile><quota>default</quota></writer></users></clickhouse>"
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
                agent.send(told("news", news(labels={"a": "b"})))
                assert set(agent.answers(2).values()) == {"stored"}
                assert answer(server, SEEN.format(id=WEB))[0]["labels"] == {"a": "b"}
                shown = query(server, "SHOW CREATE DICTIONARY containers_known").to_pylist()
                assert "ecr" not in str(shown)
                assert "writer" in str(shown)
    finally:
        clickhouse.kill()
