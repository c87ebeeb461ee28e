"""The probes connect and accept against the contract of every probe."""

import socket

from infrasight_core.testing import ProbeContract

NAME_COLUMNS = frozenset({"family_name", "type_name", "protocol_name"})


def connect_and_accept() -> None:
    """Makes one TCP connection over loopback and accepts it."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()),
    ):
        accepted, _ = server.accept()
        accepted.close()


class TestConnect(ProbeContract):
    """The contract's tests."""

    probe = "connect"
    decoded = NAME_COLUMNS

    def make_event(self) -> None:
        """Connects to a server of this process."""
        connect_and_accept()


class TestAccept(ProbeContract):
    """The contract's tests."""

    probe = "accept"
    decoded = NAME_COLUMNS | {"flag_names"}

    def make_event(self) -> None:
        """Accepts a connection of this process."""
        connect_and_accept()
