"""The probes connect and accept keep every probe's contract."""

from infrasight_core.testing import ProbeContract

NAMES = frozenset({"family_name", "type_name", "protocol_name"})


class TestConnect(ProbeContract):
    """All of the contract's tests."""

    probe = "connect"
    decoded = NAMES


class TestAccept(ProbeContract):
    """All of the contract's tests."""

    probe = "accept"
    decoded = NAMES | {"flag_names"}
