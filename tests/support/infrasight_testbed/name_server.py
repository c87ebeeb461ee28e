"""A real name server, dnsmasq, on its own port."""

import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from infrasight_testbed.ports import free_port
from infrasight_testbed.system import until


@contextmanager
def name_server(names: Mapping[str, str]) -> Iterator[int]:
    """Runs a name server on the loopback that knows these names only; returns its port."""
    port = free_port()
    command = [
        "dnsmasq",
        "--keep-in-foreground",
        "--no-resolv",
        "--no-hosts",
        "--conf-file=/dev/null",
        "--pid-file",
        "--user=root",
    ]
    command += [
        f"--port={port}",
        "--listen-address=127.0.0.1",
        "--bind-interfaces",
        "--log-facility=/dev/null",
    ]
    command += [
        "--bogus-priv",
        "--local=//",
        *(f"--host-record={name},{address}" for address, name in names.items()),
    ]
    with subprocess.Popen(command) as process:
        try:
            until(lambda: _answers(port), "dnsmasq answers")
            yield port
        finally:
            process.terminate()


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 1):
            return True
    except OSError:
        return False
