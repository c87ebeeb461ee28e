"""Names of remote addresses in the rows of real connections."""

import os
import socket

import infrasight_probe_net.connect
from infrasight_core.agent.recorder import Recorder
from infrasight_core.enrichers import reverse_dns
from infrasight_core.kernel.loader import LoadSettings
from infrasight_recording import Recording, plugins_with
from infrasight_testbed.name_server import name_server
from infrasight_testbed.system import until


def names_of(recorded: Recording, port: int) -> list[tuple[bytes, bool]]:
    """The name in each row to this port, and whether it is flagged as missing."""
    names = []
    for row in recorded.rows_of(os.getpid()):
        if row["remote_port"] == port:
            names.append((row["remote_name"], "remote_name_missing" in row["quality"]))
    return names


def test_later_connections_have_the_remote_name() -> None:
    """With the enricher on, the first row flags the missing name, and a later row has it."""
    plugins = plugins_with("connect", infrasight_probe_net.connect)
    recorded = Recording()
    plugins.register("reverse_dns", reverse_dns)
    with (
        name_server({"127.0.0.77": "shop.example"}) as port,
        socket.create_server(("127.0.0.77", 0)) as server,
    ):
        options = {"enabled": True, "servers": ["127.0.0.1"], "port": port}
        plugins.options = {"reverse_dns": options}
        recorder = Recorder(plugins, LoadSettings(), "here", recorded)
        recorded.recorder = recorder
        recorder.attach("connect", {})
        recorder.start()
        names: list[tuple[bytes, bool]] = []

        def is_named() -> bool:
            socket.create_connection(server.getsockname()).close()
            recorded.wait("connect")
            names[:] = names_of(recorded, server.getsockname()[1])
            return names[-1] == (b"shop.example", False)

        until(is_named, "a row has the name", 60)
        recorder.stop()
    assert recorder.failure is None
    assert names[0] == (b"", True)
