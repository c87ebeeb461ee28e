"""Names of remote addresses in the rows of real connections."""

import os
import socket
import time

import infrasight_probe_net.connect
from infrasight_core.agent.recorder import Recorder
from infrasight_core.enrichers import reverse_dns
from infrasight_core.kernel.loader import LoadSettings
from infrasight_recording import Recording, plugins_with
from infrasight_testbed.name_server import name_server


def rows_of(kept: Recording) -> list[tuple[int, bytes, bool]]:
    """Port, name and whether that is said to be missing, of this process's connections."""
    rows = [row for row in kept.table.to_pylist() if row["pid"] == os.getpid()]
    return [
        (row["remote_port"], row["remote_name"], "remote_name_missing" in row["quality"])
        for row in rows
    ]


def test_connections_have_the_name_from_the_second_time_on() -> None:
    """With the enricher on, the first row flags the missing name, and a later row has it."""
    plugins = plugins_with("connect", infrasight_probe_net.connect)
    kept = Recording()
    plugins.register("reverse_dns", reverse_dns)
    with (
        name_server({"127.0.0.77": "shop.example"}) as port,
        socket.create_server(("127.0.0.77", 0)) as server,
    ):
        told = {"enabled": True, "servers": ["127.0.0.1"], "port": port}
        plugins.options = {"reverse_dns": told}
        recorder = kept.recorder = Recorder(plugins, LoadSettings(), "here", kept)
        recorder.attach("connect", {})
        recorder.start()
        end = time.monotonic() + 60
        while True:
            socket.create_connection(server.getsockname()).close()
            kept.wait("connect")
            time.sleep(0.1)
            named = [row for row in rows_of(kept) if row[0] == server.getsockname()[1]]
            if named and named[-1][1] and not named[-1][2]:
                break
            assert time.monotonic() < end
        recorder.stop()
    assert recorder.failure is None
    assert named[0][1:] == (b"", True)
    assert named[-1][1:] == (b"shop.example", False)
