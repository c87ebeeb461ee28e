"""The server's settings, as far as they are more than values."""

from pathlib import Path

import attrs
import pytest
from infrasight_core.errors import ConfigError
from infrasight_core.net.tls import ListenerTls
from infrasight_core.settings.reader import read_settings
from infrasight_server.command import command
from infrasight_server.settings import ServerSettings
from infrasight_server.store.ttl import Ttl
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
    """Except tables, and the passwords, which would show in lists of processes."""
    options = {option.name for option in command.params} - {"file", "version"}
    secrets = {"store_password", "query_password"}
    settings = {a.name for a in attrs.fields(ServerSettings)} - {"tls", "probe_ttl_days"} - secrets
    assert options == settings | {f"tls_{a.name}" for a in attrs.fields(ListenerTls)}


def test_ttl_of_single_probes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """File and environment add up; the longest TTL bounds the age of events that may arrive."""
    file = tmp_path / "server.toml"
    file.write_text("ttl_days = 30\n[probe_ttl_days]\nopen = 7\n")
    monkeypatch.setenv("INFRASIGHT_SERVER_PROBE_TTL_DAYS__EXECVE", "90")
    settings = read_settings(ServerSettings, file=file, env_prefix="INFRASIGHT_SERVER_", flags={})
    assert settings.ttl == Ttl(30, {"open": 7, "execve": 90})
    assert [settings.ttl.of(probe) for probe in ("open", "execve", "chmod")] == [7, 90, 30]
    assert settings.batch_limits.max_age_days == 90
    assert ServerSettings(probe_ttl_days={"open": 7}).batch_limits.max_age_days == 366


@pytest.mark.parametrize("share", [0.0, 1.0, 85])
def test_disk_limit_is_a_share(share: float) -> None:
    """Between 0 and 1: a percentage is rejected."""
    with pytest.raises(ValueError, match="disk_limit"):
        ServerSettings(disk_limit=share)
    assert ServerSettings(disk_limit=0.85).disk_limit == 0.85


@pytest.mark.parametrize("line", ["'op en' = 7", "open = 0", "open = 'never'"])
def test_malformed_ttl_of_a_probe_is_rejected(tmp_path: Path, line: str) -> None:
    """A name that no probe can have, or a value that is no number of days."""
    file = tmp_path / "server.toml"
    file.write_text(f"[probe_ttl_days]\n{line}\n")
    with pytest.raises(ConfigError, match="probe_ttl_days"):
        read_settings(ServerSettings, file=file, env_prefix="INFRASIGHT_SERVER_", flags={})
