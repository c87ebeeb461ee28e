"""The relay between the server's Unix socket and gRPC."""

import socket
from pathlib import Path

import pytest
from infrasight_server.settings import ServerSettings
from infrasight_testbed.execve_batches import plugins
from infrasight_testbed.server_thread import running_server


def test_server_stops_without_errors_while_connections_are_open(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A connection without a call is closed; nothing is logged as an error."""
    settings = ServerSettings(
        listen=f"unix:{tmp_path}/run/s", status_listen="127.0.0.1:0", data=tmp_path
    )
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        with running_server(settings, plugins()):
            connection.connect(f"{tmp_path}/run/s")
            assert connection.recv(1)  # gRPC's greeting: the relay serves the connection
        while connection.recv(65536):
            continue
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []
