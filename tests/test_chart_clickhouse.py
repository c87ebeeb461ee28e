"""The configuration of the chart's ClickHouse, read by a real one: the servers' user gets in with its password."""

import urllib.error
import urllib.request
from pathlib import Path

import pytest
from infrasight_testbed.chart import named, render
from infrasight_testbed.clickhouse import ClickHouseServer
from infrasight_testbed.system import running_system

PASSWORD = "not for others"
# The library that plays ClickHouse here begins with a session of its own user, which the chart does not have.
_OWN_USER = "<users><default><no_password/><networks><ip>127.0.0.1</ip></networks></default>"


def ask(url: str, user: str, password: str) -> str:
    """What ClickHouse answers to somebody, or its status."""
    request = urllib.request.Request(f"{url}?query=SELECT+currentUser()")
    request.add_header("X-ClickHouse-User", user)
    request.add_header("X-ClickHouse-Key", password)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return str(response.read().decode().strip())
    except urllib.error.HTTPError as error:
        with error:
            return str(error.code)


def test_the_servers_user_and_no_other(
    cluster_tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the rendered files the user has the variable's password; a real infrasight-server makes its tables and is ready."""
    files = named(render(cluster_tools), "ConfigMap", "infrasight-clickhouse")["data"]
    users = files["users.xml"].replace("<users>", _OWN_USER)
    (tmp_path / "users.xml").write_text(users)
    data, said = str(tmp_path / "data"), files["config.xml"]
    assert "<path>/var/lib/clickhouse/</path>" in said
    said = said.replace("/var/lib/clickhouse", data).replace(
        "<path>users.xml", f"<path>{tmp_path}/users.xml"
    )
    (tmp_path / "config.xml").write_text(said.replace("<tcp_port>9000</tcp_port>", ""))
    monkeypatch.setenv("CLICKHOUSE_PASSWORD", PASSWORD)
    clickhouse = ClickHouseServer(
        tmp_path / "server", f"--config-file={tmp_path / 'config.xml'}"
    ).start()
    try:
        assert ask(clickhouse.url, "infrasight", PASSWORD) == "infrasight"
        assert ask(clickhouse.url, "infrasight", "guessed") in ("401", "403")
        assert ask(clickhouse.url, "infrasight", "") in ("401", "403")
        (tmp_path / "password").write_text(PASSWORD)
        url = clickhouse.url.replace("//", "//infrasight@")
        with running_system(tmp_path, url) as system:
            server = system.start_server("--store-password-file", str(tmp_path / "password"))
            assert "execve" in server.get("readyz")
            assert system.query("SELECT count() AS rows FROM execve_events") == [{"rows": 0}]
    finally:
        clickhouse.kill()
