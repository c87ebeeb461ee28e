"""Free TCP ports of the loopback, for processes whose address is an option."""

import functools
import itertools
import socket
from collections.abc import Iterator

# Below the range from which the kernel takes the ports of outgoing connections, so that no
# connection of a test that runs at the same time takes one before it is used.
_FIRST = 12_000
_END = 32_000
_PORTS_PER_PROCESS = 200
_claims: list[socket.socket] = []  # held until this process ends


def free_port() -> int:
    """A free port.

    No other process that runs tests takes it, and this one takes it again only after all others.
    """
    while True:
        port = next(_own_ports())
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


@functools.cache
def _own_ports() -> Iterator[int]:
    """Claims some ports for this process; returns them in turn, without an end."""
    for start in range(_FIRST, _END, _PORTS_PER_PROCESS):
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0infrasight-test-ports-{start}")
        except OSError:
            claim.close()
            continue
        _claims.append(claim)
        return itertools.cycle(range(start, start + _PORTS_PER_PROCESS))
    raise AssertionError("too many processes run tests on this machine")
