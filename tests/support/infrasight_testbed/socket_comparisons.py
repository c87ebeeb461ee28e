"""The expected row of `connect` and `accept` for a call and socket that strace shows."""

import errno
import re
import socket
from ipaddress import ip_address

from attrs import frozen

from infrasight_testbed.addresses import column
from infrasight_testbed.oracle import Row
from infrasight_testbed.strace import Call, Number, Text, Traced, Value, number

SOL_SOCKET = 1
SO_ERROR = 4
ERESTARTSYS = 512
LOOPBACK = {4: column("127.0.0.1"), 6: column("::1")}
BROKEN_OFF = {-errno.EINPROGRESS, -errno.EINTR, -ERESTARTSYS}
CONNECTED = {-errno.EISCONN, -errno.EALREADY}
_KINDS: dict[bytes, Row] = {  # the kernel's names; one of Unix sockets does not tell the type
    b"TCP": {
        "family": socket.AF_INET,
        "socket_type": socket.SOCK_STREAM,
        "protocol": socket.IPPROTO_TCP,
    },
    b"TCPv6": {
        "family": socket.AF_INET6,
        "socket_type": socket.SOCK_STREAM,
        "protocol": socket.IPPROTO_TCP,
    },
    b"UDP": {
        "family": socket.AF_INET,
        "socket_type": socket.SOCK_DGRAM,
        "protocol": socket.IPPROTO_UDP,
    },
    b"UDPv6": {
        "family": socket.AF_INET6,
        "socket_type": socket.SOCK_DGRAM,
        "protocol": socket.IPPROTO_UDP,
    },
    b"UNIX-STREAM": {"family": socket.AF_UNIX, "socket_type": socket.SOCK_STREAM},
    b"UNIX": {"family": socket.AF_UNIX},
    b"NETLINK": {"family": socket.AF_NETLINK},
}
_SOCKET = re.compile(rb"([\w-]+):\[(.*)\]")
_NAMED = re.compile(rb'\d+(?:->\d+)?,(@?)"([^"]*)"')
_END = re.compile(rb"\[?([0-9a-f.:]+?)\]?:(\d+)")


@frozen
class Socket:
    """What strace says of the socket behind a descriptor.

    Attributes:
        kind: The fields that tell what kind of socket it is; empty where it is none.
        local: Its own address and port, where it is known.
        remote: Those of the other side.
        path: A Unix socket's own name, where it has one.
    """

    kind: Row
    local: tuple[bytes, int] | None = None
    remote: tuple[bytes, int] | None = None
    path: bytes | None = None

    @property
    def is_tcp(self) -> bool:
        """Whether it is one of TCP."""
        return self.kind.get("protocol") == socket.IPPROTO_TCP


def socket_of(link: bytes) -> Socket:
    """Takes strace's words on a socket apart."""
    match = _SOCKET.fullmatch(link)
    if not match:
        return Socket({"family": 0, "socket_type": 0, "protocol": 0})
    kind = _KINDS.get(match[1], {})
    named = _NAMED.fullmatch(match[2])
    if named:
        name = bytes.fromhex(named[2].replace(b"\\x", b"").decode())
        return Socket(kind, path=b"\0" + name if named[1] else name)
    if kind.get("family") not in (socket.AF_INET, socket.AF_INET6) or match[2].isdigit():
        return Socket(kind)  # strace found no more than its inode
    local, _, remote = match[2].partition(b"->")
    return Socket(kind, _end(local), _end(remote) if remote else None)


def _end(text: bytes) -> tuple[bytes, int]:
    match = _END.fullmatch(text)
    assert match, text
    host = match[1].decode()
    return column("" if ip_address(host).is_unspecified else host), int(match[2])


def given(value: Value, length: int = 110) -> Row | None:
    """The columns of an address in the caller's memory; None for an unknown family."""
    if not isinstance(value, dict):
        return None
    family = number(value["sa_family"])
    if family == socket.AF_UNIX:
        path = value.get("sun_path", Text(b""))
        assert isinstance(path, Text)
        return {"unix_path": path.value}
    host = value.get("sin_addr", value.get("sin6_addr"))
    port = value.get("sin_port", value.get("sin6_port"))
    if length < 8 or not isinstance(host, Text) or not isinstance(port, Text):
        return None
    address = column(str(ip_address(host.value))) if any(host.value) else bytes(16)
    return {"remote_address": address, "remote_port": int.from_bytes(port.value)}


def connected(call: Call, row: Row) -> Row:
    """connect: the given remote end, or the existing one of a connected socket."""
    descriptor, address, length = call.arguments
    assert isinstance(descriptor, Number)
    here = socket_of(descriptor.link)
    result = call.result
    wanted: Row = {"stage": b"call", "fd": descriptor.value, "return_code": result, **here.kind}
    wanted["in_progress"] = result == -errno.EINPROGRESS or (here.is_tcp and result in BROKEN_OFF)
    quality = [] if descriptor.link else ["socket_missing"]
    nowhere = {"remote_address": bytes(16), "remote_port": 0, "unix_path": b""}
    there = given(address, number(length))
    if result in CONNECTED:
        there = (
            dict(zip(("remote_address", "remote_port"), here.remote, strict=True))
            if here.remote
            else {}
        )
    elif there is None:
        there = nowhere
        if result != 0:  # else the socket is connected to nothing any more
            quality.append(
                "unix_path_missing"
                if here.kind.get("family") == socket.AF_UNIX
                else "remote_address_missing"
            )
            del there["remote_port"]  # stands in front of what cannot be read
    elif (
        there.get("remote_address") == bytes(16)
        and row
        and "remote_address_user_memory" not in row["quality"]
    ):
        there["remote_address"] = LOOPBACK[
            6 if isinstance(address, dict) and "sin6_addr" in address else 4
        ]  # what the kernel takes it to mean
    if not here.is_tcp:
        wanted["connection_id"] = 0
    return wanted | there | {"quality": quality}


def ended(call: Call, row: Row, traced: Traced) -> Row:
    """The outcome of an attempt if the program asked for SO_ERROR, with the known ends."""
    wanted = {
        name: row[name]
        for name in ("pid", "tid", "comm", "fd", "remote_address", "remote_port", "local_address")
    }
    descriptor = call.arguments[0]
    for later in traced.calls:
        if (
            later.place > call.end
            and later.tid == call.tid
            and later.name in ("connect", "getsockopt")
        ):
            asked = later.arguments
            assert isinstance(asked[0], Number)
            if number(asked[0]) != number(descriptor):
                continue
            if later.name == "connect" or later.result != 0:
                break
            if (number(asked[1]), number(asked[2])) == (SOL_SOCKET, SO_ERROR) and isinstance(
                asked[3], list
            ):
                wanted["return_code"] = -number(asked[3][0])
                here = socket_of(asked[0].link)
                if here.local and here.remote:
                    wanted["local_address"], wanted["local_port"] = here.local
                    wanted["remote_address"], wanted["remote_port"] = here.remote
                break
    return wanted


def accepted(call: Call, row: Row) -> Row:
    """accept, accept4: both ends of the new socket, or the listening one's if it failed."""
    descriptor, *rest = call.arguments
    assert isinstance(descriptor, Number)
    if call.result is None:  # strace writes the others at the end
        return {"listen_fd": descriptor.value}
    address, *rest = rest
    listening = socket_of(descriptor.link)
    result = call.result
    wanted: Row = {
        "listen_fd": descriptor.value,
        "return_code": result,
        "fd": max(result, -1),
        "flags": 0,
    }
    if call.name == "accept4":
        wanted["flags"] = number(rest[1]) & 0xFFFFFFFF
    if result < 0:
        wanted |= {"remote_address": bytes(16), "remote_port": 0, "unix_client_path": b""}
        here = listening
    else:
        here = socket_of(call.link)
        there = given(address) or {}
        if "unix_path" in there:
            there["unix_client_path"] = there.pop("unix_path")
        wanted |= there
        if here.remote:
            wanted["remote_address"], wanted["remote_port"] = here.remote
        elif here.is_tcp and listening.local:  # reset before strace looked
            wanted["local_port"] = listening.local[1]
    if here.local:
        wanted["local_address"], wanted["local_port"] = here.local
    if (path := here.path or listening.path) is not None:
        wanted["unix_path"] = path
    return wanted | here.kind | {"quality": [] if descriptor.link else ["socket_missing"]}
