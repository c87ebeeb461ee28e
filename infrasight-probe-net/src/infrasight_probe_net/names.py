"""The names of a socket's family, type and protocol. Source: include/linux/socket.h, linux/net.h, uapi/linux/in.h."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from infrasight_core import Columns, map_distinct

_FAMILIES = (
    *(
        "",
        "unix",
        "inet",
        "ax25",
        "ipx",
        "appletalk",
        "netrom",
        "bridge",
        "atmpvc",
        "x25",
        "inet6",
        "rose",
        "decnet",
    ),
    *(
        "netbeui",
        "security",
        "key",
        "netlink",
        "packet",
        "ash",
        "econet",
        "atmsvc",
        "rds",
        "sna",
        "irda",
        "pppox",
        "wanpipe",
    ),
    *(
        "llc",
        "ib",
        "mpls",
        "can",
        "tipc",
        "bluetooth",
        "iucv",
        "rxrpc",
        "isdn",
        "phonet",
        "ieee802154",
        "caif",
        "alg",
        "nfc",
    ),
    *("vsock", "kcm", "qipcrtr", "smc", "xdp", "mctp"),
)
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
_INET = frozenset({2, 10})  # whose protocols are those of IP; other families number their own


def names_of(columns: Columns) -> Mapping[str, pa.Array]:
    """The columns `family_name`, `type_name` and `protocol_name`; empty where there is no socket."""
    family = columns.fixed["family"]
    protocol = family << np.uint32(16) | columns.fixed["protocol"]
    return {
        "family_name": map_distinct(family, lambda values: list(map(_family, values)), pa.binary()),
        "type_name": map_distinct(
            columns.fixed["socket_type"], lambda values: list(map(_type, values)), pa.binary()
        ),
        "protocol_name": map_distinct(
            family << np.uint32(16) | protocol,
            lambda values: list(map(_protocol, values)),
            pa.binary(),
        ),
    }


def _family(number: int) -> bytes:
    return (_FAMILIES[number] if number < len(_FAMILIES) else str(number)).encode()


def _type(number: int) -> bytes:
    return _TYPES.get(number, str(number)).encode()


def _protocol(family_protocol: int) -> bytes:
    family = family_protocol >> 16
    number = family_protocol & 0xFFFF
    if not family:
        return b""
    return (_PROTOCOLS.get(number, str(number)) if family in _INET else str(number)).encode()
