"""The chart's ClickHouse settings in a real ClickHouse: only the servers' user can connect."""

import urllib.error
import urllib.request
from pathlib import Path

import pytest
from infrasight_testbed.chart import find_manifest, render
from infrasight_testbed.clickhouse import ClickHouseServer
from infrasight_testbed.system import running_system

PASSWORD = "not for others"
# The ClickHouse library in these tests opens a session as the user `default`, which the chart
# removes.
_DEFAULT_USER = "<users><default><no_password/><networks><ip>127.0.0.1</ip></networks></default>"


def query_as(url: str, user: str, password: str) -> str:
    """ClickHouse's answer to a user, or the HTTP status of its error."""
    request = urllib.request.Request(f"{url}?query=SELECT+currentUser()")
    request.add_header("X-ClickHouse-User", user)
    request.add_header("X-ClickHouse-Key", password)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return str(response.read().decode().strip())
    except urllib.error.HTTPError as error:
        with error:
            return str(error.code)


def test_only_the_servers_user_can_connect(
    cluster_tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user has the password of the variable, and a real server creates its tables with it."""
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
    clickhouse = ClickHouseServer(
        tmp_path / "server", f"--config-file={tmp_path / 'config.xml'}"
    ).start()
    try:
        assert query_as(clickhouse.url, "infrasight", PASSWORD) == "infrasight"
        assert query_as(clickhouse.url, "infrasight", "guessed") in ("401", "403")
        assert query_as(clickhouse.url, "infrasight", "") in ("401", "403")
        (tmp_path / "password").write_text(PASSWORD)
        url = clickhouse.url.replace("//", "//infrasight@")
        with running_system(tmp_path, url) as system:
            server = system.start_server("--store-password-file", str(tmp_path / "password"))
            assert "execve" in server.get("readyz")
            assert system.query("SELECT count() AS rows FROM execve_events") == [{"rows": 0}]
    finally:
        clickhouse.kill()
