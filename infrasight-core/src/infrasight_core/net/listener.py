"""Verifies who listens at an address of this machine, before anything is sent there.

While the server is down, any local user may take its port, and a careless path its socket.
"""

import errno
import os
import socket
import stat
from pathlib import Path

from infrasight_core.errors import AuthenticationError, TransportError
from infrasight_core.net.address import Address
from infrasight_core.net.local_sockets import Endpoint, LocalSocket, local_sockets
from infrasight_core.net.peer import Peer
from infrasight_core.net.unix_peer import PeerCredentials, find_user

_CONNECT_SECONDS = 5.0
_SHARED_WRITE = stat.S_IWGRP | stat.S_IWOTH
_REMEDY = "set `server_user` if that user may run the server"


def needs_verification(peer: Peer) -> bool:
    """Returns whether only the kernel can tell who listens: on this machine, without TLS."""
    address = Address.parse(peer.address)
    is_plain = peer.tls is None and not peer.plaintext
    return address.is_unix or (address.is_loopback_port and is_plain)


def verify_listener(peer: Peer) -> None:
    """Verifies that a trusted user's process listens at the peer's address.

    Trusted are root, the own user, and the user that is set as `server_user`; also the user who
    owns the folder of a Unix socket, if only root, the own user and that user could have created
    it.

    Raises:
        TransportError: Nothing listens there.
        AuthenticationError: Another user's process listens there, or could at any time.
    """
    address = Address.parse(peer.address)
    trusted = {0, os.geteuid()}
    if peer.server_user:
        trusted.add(find_user("server_user", peer.server_user))
    if address.is_unix:
        _verify_unix(address, trusted)
    else:
        _verify_tcp(address, trusted)


def _verify_unix(address: Address, trusted: set[int]) -> None:
    path = Path(address.host).absolute()
    try:
        trusted = _require_safe_folder(address, path.parent, trusted)
        _require_user(address, path.lstat().st_uid, trusted, f"{path} belongs to")
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_CONNECT_SECONDS)
            connection.connect(str(path))
            uid = PeerCredentials.of(connection).uid
    except OSError as error:
        raise _unreachable(address, error.strerror or str(error)) from error
    _require_user(address, uid, trusted, "the listener is run by")


def _require_safe_folder(address: Address, folder: Path, trusted: set[int]) -> set[int]:
    """Raises AuthenticationError if another user could replace the socket, or a folder above it.

    Returns:
        The trusted users, with the folder's owner if no other user could have created the folder.
    """
    real = folder.resolve(strict=True)
    # The path as it is written, whose links must not change, and the folders where they lead.
    statuses = {each: each.lstat() for each in (folder, *folder.parents, real, *real.parents)}
    is_shared = {
        each: bool(status.st_mode & _SHARED_WRITE) and not stat.S_ISLNK(status.st_mode)
        for each, status in statuses.items()
    }
    if not any(is_shared.values()):
        trusted = trusted | {statuses[real].st_uid}
    for each, status in statuses.items():
        _require_user(address, status.st_uid, trusted, f"{each} belongs to")
        # In a sticky folder, users cannot replace what belongs to others.
        is_sticky = bool(status.st_mode & stat.S_ISVTX) and each != real
        if is_shared[each] and not is_sticky:
            raise AuthenticationError(
                f"nothing is sent to {address}: other users may write to {each}; "
                "give the server's socket a folder that only the server's user may write to"
            )
    return trusted


def _require_user(address: Address, uid: int, trusted: set[int], relation: str) -> None:
    if uid not in trusted:
        raise AuthenticationError(
            f"nothing is sent to {address}: {relation} user {uid}, who is not trusted; {_REMEDY}"
        )


def _verify_tcp(address: Address, trusted: set[int]) -> None:
    hosts = ("127.0.0.1", "::1") if address.host == "localhost" else (address.host,)
    endpoints = {Endpoint.of(host, address.port) for host in hosts}
    try:
        serving = [each for each in local_sockets() if _serves(each, endpoints, address.port)]
    except (OSError, ValueError) as error:
        raise AuthenticationError(
            f"nothing is sent to {address}: cannot find out who listens there ({error}); use TLS"
        ) from error
    if not any(each.is_listening for each in serving):
        raise _unreachable(address, os.strerror(errno.ECONNREFUSED))
    # Established connections count as well: their listener may have been replaced since.
    for each in serving:
        _require_user(address, each.uid, trusted, "the listener is run by")


def _serves(candidate: LocalSocket, endpoints: set[Endpoint], port: int) -> bool:
    """Whether connections to one of the endpoints may end at a socket."""
    local = candidate.local
    return local in endpoints or (local.is_any_host and local.port == port)


def _unreachable(address: Address, reason: str) -> TransportError:
    return TransportError(f"UNAVAILABLE: cannot connect to {address}: {reason}")
