"""The server's settings, as far as they are more than values."""

from pathlib import Path

import attrs
import pytest
from infrasight_core.errors import ConfigError
from infrasight_core.net.tls import ListenerTls
from infrasight_server.command import command
from infrasight_server.settings import ServerSettings
from infrasight_testbed.clickhouse import ClickHouseServer


def test_port_needs_tls_or_plaintext_or_on_loopback_tokens() -> None:
    """So does loopback, unless there are tokens; a Unix socket needs none of them."""
    files = ListenerTls(Path("c"), Path("k"), Path("a"))
    ServerSettings().check()
    ServerSettings(listen="0.0.0.0:7443", tls=files).check()
    ServerSettings(listen="0.0.0.0:7443", plaintext=True).check()
    for unsafe in (
        ServerSettings(listen="0.0.0.0:7443"),
        ServerSettings(listen="0.0.0.0:7443", tls=files, plaintext=True),
        ServerSettings(listen="127.0.0.1:7443"),
        ServerSettings(listen="0.0.0.0:7443", plaintext=True, tokens=Path("t")),
    ):
        with pytest.raises(ConfigError, match="plaintext"):
            unsafe.check()
    ServerSettings(listen="127.0.0.1:7443", tokens=Path("t")).check()
    ServerSettings(listen="127.0.0.1:7443", plaintext=True).check()
    with pytest.raises(ConfigError, match="Unix socket, which does not use TLS"):
        ServerSettings(listen="unix:/run/x", tls=files).check()


def test_password_is_read_from_its_file(clickhouse: ClickHouseServer, tmp_path: Path) -> None:
    """A line break does not belong to it; a missing file is named; `repr` hides a password."""
    file = tmp_path / "password"
    file.write_text("\n")
    ServerSettings(store=clickhouse.url, store_password_file=file).open_store().close()
    missing = tmp_path / "none"
    with pytest.raises(ConfigError, match=r"store_password_file: cannot read .*none"):
        ServerSettings(store=clickhouse.url, store_password_file=missing).open_store()
    assert "hush" not in repr(ServerSettings(store_password="hush"))


def test_every_setting_has_an_option() -> None:
    """Except the passwords, which would show in lists of processes."""
    options = {option.name for option in command.params} - {"file", "version"}
    secrets = {"store_password", "query_password"}
    settings = {a.name for a in attrs.fields(ServerSettings)} - {"tls"} - secrets
    assert options == settings | {f"tls_{a.name}" for a in attrs.fields(ListenerTls)}
