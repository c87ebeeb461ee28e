"""Reads from the kernel who is at the other end of a Unix socket."""

import errno
import grp
import pwd
import socket
import struct

from attrs import frozen

from infrasight_core.errors import ConfigError

_CREDENTIALS = struct.Struct("iII")
_SO_PEERGROUPS = 59  # the socket module lacks it
_GROUPS_BYTES = 1024  # the most that `getsockopt` returns


@frozen
class PeerCredentials:
    """The process at the other end, as it was when it connected or began to listen.

    Attributes:
        pid: Its process id.
        uid: Its effective user id.
        gids: Its effective group id and its supplementary groups.
    """

    pid: int
    uid: int
    gids: frozenset[int]

    @classmethod
    def of(cls, connection: socket.socket) -> "PeerCredentials":
        """Reads the credentials of a connection's other end. Raises OSError."""
        answer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, gid = _CREDENTIALS.unpack(answer)
        return cls(pid, uid, frozenset({gid, *_supplementary_groups(connection)}))


def _supplementary_groups(connection: socket.socket) -> list[int]:
    try:
        answer = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_BYTES)
    except OSError as error:
        if error.errno != errno.ERANGE:
            raise
        return []  # more than 256 groups: only the effective one counts
    return list(memoryview(answer).cast("I"))


def find_user(setting: str, user: str) -> int:
    """Returns the id of a user that a setting gives by name or number. Raises ConfigError."""
    if user.isdecimal():
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise ConfigError(f"{setting}: this machine has no user {user!r}") from None


def find_group(name: str) -> int | None:
    """Returns the id of a group; None if this machine does not have it."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None
