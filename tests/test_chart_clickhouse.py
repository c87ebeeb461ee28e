"""The chart's ClickHouse settings in a real ClickHouse: who can connect, and do what."""

import urllib.error
import urllib.request
from pathlib import Path

import pytest
from infrasight_testbed.chart import find_manifest, render
from infrasight_testbed.clickhouse import ClickHouseServer
from infrasight_testbed.system import running_system

PASSWORD = "not for others"
QUERY_PASSWORD = "for readers"
# The ClickHouse library in these tests opens a session as the user `default`, which the chart
# removes.
_DEFAULT_USER = "<users><default><no_password/><networks><ip>127.0.0.1</ip></networks></default>"


def query_as(url: str, user: str, password: str, sql: str = "SELECT currentUser()") -> str:
    """ClickHouse's answer to a user, or the HTTP status of its error."""
    request = urllib.request.Request(url, data=sql.encode())
    request.add_header("X-ClickHouse-User", user)
    request.add_header("X-ClickHouse-Key", password)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return str(response.read().decode().strip())
    except urllib.error.HTTPError as error:
        with error:
            return str(error.code)


def test_one_user_stores_and_another_can_only_read(
    cluster_tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have the passwords of the variables; a real server creates its tables and queries."""
    files = find_manifest(render(cluster_tools), "ConfigMap", "infrasight-clickhouse")["data"]
    users = files["users.xml"].replace("<users>", _DEFAULT_USER)
    (tmp_path / "users.xml").write_text(users)
    config = files["config.xml"]
    assert "<path>/var/lib/clickhouse/</path>" in config
    config = config.replace("/var/lib/clickhouse", str(tmp_path / "data"))
    config = config.replace("<path>users.xml", f"<path>{tmp_path}/users.xml")
    config = config.replace("<tcp_port>9000</tcp_port>", "")
    (tmp_path / "config.xml").write_text(config)
    monkeypatch.setenv("CLICKHOUSE_PASSWORD", PASSWORD)
    monkeypatch.setenv("CLICKHOUSE_QUERY_PASSWORD", QUERY_PASSWORD)
    clickhouse = ClickHouseServer(
        tmp_path / "server", f"--config-file={tmp_path / 'config.xml'}"
    ).start()
    try:
        assert query_as(clickhouse.url, "infrasight", PASSWORD) == "infrasight"
        assert query_as(clickhouse.url, "infrasight", "guessed") in ("401", "403")
        assert query_as(clickhouse.url, "infrasight", "") in ("401", "403")
        assert query_as(clickhouse.url, "infrasight_reader", QUERY_PASSWORD) == "infrasight_reader"
        assert query_as(clickhouse.url, "infrasight_reader", PASSWORD) in ("401", "403")
        for name, password in (("password", PASSWORD), ("query-password", QUERY_PASSWORD)):
            (tmp_path / name).write_text(password)
            (tmp_path / name).chmod(0o600)
        url = clickhouse.url.replace("//", "//infrasight@")
        with running_system(tmp_path, url) as system:
            server = system.start_server(
                *("--store-password-file", str(tmp_path / "password")),
                *("--query-user", "infrasight_reader"),
                *("--query-password-file", str(tmp_path / "query-password")),
            )
            ready = server.get("readyz")
            assert "execve" in ready
            assert "warning" not in ready
            assert system.query("SELECT count() AS rows FROM execve_events") == [{"rows": 0}]
            columns = "labels, container"
            assert system.query(f"SELECT {columns} FROM execve_events") == []
        for sql in ("TRUNCATE TABLE infrasight.execve_events", "CREATE DATABASE other"):
            answer = query_as(clickhouse.url, "infrasight_reader", QUERY_PASSWORD, sql)
            assert answer in ("403", "500")
    finally:
        clickhouse.kill()
