"""The server's settings, as far as they are more than values."""

from pathlib import Path

import attrs
import pytest
from infrasight_core.errors import ConfigError
from infrasight_core.net.tls import TlsFiles
from infrasight_server.command import command
from infrasight_server.settings import ServerSettings
from infrasight_testbed.clickhouse import ClickHouseServer


def test_plaintext_leaves_the_machine_only_when_asked_for() -> None:
    """Loopback needs nothing; elsewhere TLS or the word is needed; both at once is a contradiction."""
    files = TlsFiles(Path("c"), Path("k"), Path("a"))
    ServerSettings().check()
    ServerSettings(listen="0.0.0.0:7443", tls=files).check()
    ServerSettings(listen="0.0.0.0:7443", plaintext=True).check()
    for wrong in (
        ServerSettings(listen="0.0.0.0:7443"),
        ServerSettings(listen="0.0.0.0:7443", tls=files, plaintext=True),
    ):
        with pytest.raises(ConfigError, match="plaintext"):
            wrong.check()
    with pytest.raises(ConfigError, match="Unix socket, which does not use TLS"):
        ServerSettings(listen="unix:/run/x", tls=files).check()


def test_the_password_comes_from_a_file(clickhouse: ClickHouseServer, tmp_path: Path) -> None:
    """It is read without its line break and used; a file that is not there is named; neither is ever shown."""
    (tmp_path / "password").write_text("\n")
    ServerSettings(
        store=clickhouse.url, store_password_file=tmp_path / "password"
    ).open_store().close()
    with pytest.raises(ConfigError, match=r"store_password_file: cannot read .*none"):
        ServerSettings(store=clickhouse.url, store_password_file=tmp_path / "none").open_store()
    assert "hush" not in repr(ServerSettings(store_password="hush"))


def test_every_setting_has_its_option() -> None:
    """What a file can say, an option can; but a password, which would show in process lists."""
    options = {option.name for option in command.params} - {"file", "version"}
    settings = {a.name for a in attrs.fields(ServerSettings)} - {"tls", "store_password"}
    assert options == settings | {f"tls_{a.name}" for a in attrs.fields(TlsFiles)}
