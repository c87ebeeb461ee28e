"""The names of a socket's family, type and protocol.

Source: include/linux/socket.h, include/linux/net.h and include/uapi/linux/in.h.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from infrasight_core import Columns, map_distinct

# By number. AF_UNSPEC, 0, has no name here.
# fmt: off
_FAMILIES = (
    "", "unix", "inet", "ax25", "ipx", "appletalk", "netrom", "bridge", "atmpvc", "x25", "inet6",
    "rose", "decnet", "netbeui", "security", "key", "netlink", "packet", "ash", "econet", "atmsvc",
    "rds", "sna", "irda", "pppox", "wanpipe", "llc", "ib", "mpls", "can", "tipc", "bluetooth",
    "iucv", "rxrpc", "isdn", "phonet", "ieee802154", "caif", "alg", "nfc", "vsock", "kcm",
    "qipcrtr", "smc", "xdp", "mctp",
)
# fmt: on
_TYPES = {
    0: "",
    1: "stream",
    2: "dgram",
    3: "raw",
    4: "rdm",
    5: "seqpacket",
    6: "dccp",
    10: "packet",
}
_PROTOCOLS = {
    0: "ip",
    1: "icmp",
    2: "igmp",
    4: "ipip",
    6: "tcp",
    17: "udp",
    33: "dccp",
    41: "ipv6",
    47: "gre",
    50: "esp",
    51: "ah",
    58: "icmpv6",
    115: "l2tp",
    132: "sctp",
    136: "udplite",
    255: "raw",
    262: "mptcp",
}
_INET = frozenset({2, 10})  # the families with the protocols of IP; others number their own


def names_of(columns: Columns) -> Mapping[str, pa.Array]:
    """Makes `family_name`, `type_name` and `protocol_name`; empty where there is no socket."""
    family = columns.fixed["family"]
    protocol = family << np.uint32(16) | columns.fixed["protocol"]
    return {
        "family_name": map_distinct(family, _families, pa.binary()),
        "type_name": map_distinct(columns.fixed["socket_type"], _types, pa.binary()),
        "protocol_name": map_distinct(protocol, _protocols, pa.binary()),
    }


def _families(numbers: list[int]) -> list[bytes]:
    names = []
    for number in numbers:
        name = _FAMILIES[number] if number < len(_FAMILIES) else str(number)
        names.append(name.encode())
    return names


def _types(numbers: list[int]) -> list[bytes]:
    return [_TYPES.get(number, str(number)).encode() for number in numbers]


def _protocols(numbers: list[int]) -> list[bytes]:
    """Of numbers that hold the family in the upper 16 bits and the protocol in the lower."""
    return [_protocol(number >> 16, number & 0xFFFF).encode() for number in numbers]


def _protocol(family: int, number: int) -> str:
    if not family:
        return ""
    if family in _INET and number in _PROTOCOLS:
        return _PROTOCOLS[number]
    return str(number)
