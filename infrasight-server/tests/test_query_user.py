"""A ClickHouse server with a user who runs queries: what that user, and so a query, can do."""

from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pyarrow as pa
import pytest
from infrasight_core.errors import QueryError, StoreError
from infrasight_server.settings import ServerSettings
from infrasight_server.store.clickhouse import Store
from infrasight_testbed.clickhouse import ClickHouseServer
from infrasight_testbed.system import until

USERS = """<clickhouse>
    <profiles><default/></profiles>
    <quotas><default/></quotas>
    <users>
        <default>
            <password/>
            <networks><ip>127.0.0.1</ip></networks>
            <profile>default</profile>
            <quota>default</quota>
        </default>
        <reader>
            <password>secret</password>
            <networks><ip>127.0.0.1</ip></networks>
            <profile>default</profile>
            <quota>default</quota>
            <grants>
                <query>GRANT SELECT, dictGet ON test.*</query>
            </grants>
        </reader>
        <writer>
            <password>secret</password>
            <networks><ip>127.0.0.1</ip></networks>
            <profile>default</profile>
            <quota>default</quota>
            <grants>
                <query>GRANT SELECT, INSERT ON test.*</query>
            </grants>
        </writer>
    </users>
</clickhouse>
"""


@pytest.fixture(scope="module")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    """A ClickHouse server with these users."""
    folder = tmp_path_factory.mktemp("clickhouse")
    (folder / "users.xml").write_text(USERS)
    (folder / "config.xml").write_text(
        f"<clickhouse><path>{folder}/data/</path><user_directories><users_xml>"
        f"<path>{folder}/users.xml</path></users_xml></user_directories></clickhouse>"
    )
    server = ClickHouseServer(folder, f"--config-file={folder}/config.xml").start()
    yield server
    server.kill()


def settings_for(clickhouse: ClickHouseServer, **settings: object) -> ServerSettings:
    """Returns settings whose queries run as the reading user."""
    values = {"query_user": "reader", "query_password": "secret", **settings}
    return ServerSettings(store=clickhouse.url, database="test", **values)  # type: ignore[arg-type]


@pytest.fixture
def store(clickhouse: ClickHouseServer) -> Iterator[Store]:
    """A store with one table and one row."""
    opened = settings_for(clickhouse, query_memory=1 << 30).open_store()
    opened.command("CREATE OR REPLACE TABLE t (n UInt64) ENGINE = MergeTree ORDER BY n")
    opened.insert("t", pa.table({"n": pa.array([7], pa.uint64())}), "1")
    opened.command("CREATE DATABASE IF NOT EXISTS other")
    opened.command("CREATE OR REPLACE TABLE other.t (n UInt64) ENGINE = MergeTree ORDER BY n")
    yield opened
    opened.close()


def test_query_reads_the_database_as_its_user(store: Store) -> None:
    """Its memory counts for the user, and nothing is to warn of."""
    rows = pa.Table.from_batches(store.query("SELECT n, currentUser() AS user FROM t")).to_pylist()
    assert rows == [{"n": 7, "user": b"reader"}]
    (limits,) = pa.Table.from_batches(
        store.query("SELECT toUInt64(getSetting('max_memory_usage_for_user')) AS bytes")
    ).to_pylist()
    assert limits == {"bytes": 1 << 30}
    assert store.warnings == []


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM other.t",
        "SELECT * FROM file('/etc/hostname', 'LineAsString')",
        "SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString')",
        "SELECT * FROM remote('127.0.0.1', 'other', 't')",
        "INSERT INTO t VALUES (8)",
        "DROP TABLE t",
        "CREATE TABLE test.u (n UInt8) ENGINE = Memory",
    ],
)
def test_query_can_do_nothing_else(store: Store, sql: str) -> None:
    """Other databases, files, machines and writing are denied to the user."""
    with pytest.raises(QueryError):
        list(store.query(sql))


def test_cancelled_query_of_the_user_ends(store: Store) -> None:
    """The server ends a query of its query user."""
    raised: list[QueryError] = []

    def run() -> None:
        try:
            list(store.query("SELECT sum(cityHash64(number)) FROM numbers(1e12)", query_id="long"))
        except QueryError as error:
            raised.append(error)

    thread = Thread(target=run)
    thread.start()
    running = "SELECT 1 FROM system.processes WHERE query_id = 'long'"
    until(lambda: bool(store.rows(running)), "the query is running")
    store.cancel("long")
    thread.join(30)
    (error,) = raised
    assert "cancelled" in str(error)


def test_user_who_may_write_is_reported(clickhouse: ClickHouseServer) -> None:
    """A query user with INSERT is a warning that names the user."""
    store = settings_for(clickhouse, query_user="writer").open_store()
    (warning,) = store.warnings
    assert "query_user writer has more rights than SELECT on test" in warning
    store.close()


def test_missing_query_user_is_reported(clickhouse: ClickHouseServer) -> None:
    """Without one, the warning names the setting."""
    store = settings_for(clickhouse, query_user="").open_store()
    (warning,) = store.warnings
    assert "set query_user" in warning
    store.close()


def test_wrong_password_of_the_query_user_is_an_error(
    clickhouse: ClickHouseServer, tmp_path: Path
) -> None:
    """The start fails with ClickHouse's reason; the password may come from a file."""
    (tmp_path / "password").write_text("guessed\n")
    with pytest.raises(StoreError, match="Authentication failed"):
        settings_for(clickhouse, query_password_file=tmp_path / "password").open_store()
