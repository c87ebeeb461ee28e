"""Listens on the server's Unix socket, asks the kernel who connects, and relays to gRPC.

gRPC does not show the service which user is at the other end of a Unix socket. The relay does not
forward connections of users who may not connect. It forwards the others to a socket in a private
folder, where gRPC listens, and binds its end of each forwarded connection to a unique name. gRPC
shows this name to the service, which finds the identity by it.
"""

import asyncio
import socket
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import grpc.aio
import structlog
from infrasight_core.errors import AuthenticationError
from infrasight_core.net.identity import Identity
from infrasight_core.net.tasks import cancel_all, run_together
from infrasight_core.net.unix_peer import PeerCredentials
from infrasight_core.settings.private_files import make_private_folder

from infrasight_server.access.socket_folder import bind_socket, prepare_folder
from infrasight_server.access.socket_users import SocketUsers

log = structlog.get_logger(__name__)
_PIECE_BYTES = 128 << 10
_MOST_OF_A_USER = 32
_MOST_OF_ALL_USERS = 128
_PEER = "unix-abstract:"  # how gRPC shows a peer that is bound to an abstract name


class SocketRelay:
    """The server's Unix socket.

    Args:
        path: The path of the socket.
        users: Who may connect.

    Raises:
        ConfigError: The folder of the socket cannot be used.
    """

    def __init__(self, path: Path, users: SocketUsers) -> None:
        self._path = path
        self._users = users
        self._identities: dict[str, Identity] = {}
        self._connections: Counter[int] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._rejected: set[int] = set()
        self._server: asyncio.Server | None = None
        prepare_folder(path.parent, users.group)
        private = path.with_name(f".{path.name}")
        make_private_folder(private, "listen")
        self._grpc_socket = private / "grpc"

    @property
    def grpc_address(self) -> str:
        """The address where gRPC must listen before `start`."""
        return f"unix:{self._grpc_socket}"

    async def start(self) -> None:
        """Listens. Raises ConfigError."""
        listener = bind_socket(self._path, self._users.group)
        self._server = await asyncio.start_unix_server(
            self._accept, sock=listener, limit=_PIECE_BYTES
        )

    def close(self) -> None:
        """Accepts no more connections; those that are open stay until gRPC closes them."""
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)

    async def stop(self) -> None:
        """Ends what is still open, after gRPC has stopped."""
        await cancel_all(self._tasks)
        self._grpc_socket.unlink(missing_ok=True)

    def identify(self, context: grpc.aio.ServicerContext[Any, Any]) -> Identity:
        """Returns the peer of a call. Raises AuthenticationError."""
        identity = self._identities.get(context.peer())
        if identity is None:
            raise AuthenticationError(f"the connection {context.peer()} did not come by the socket")
        return identity

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # If asyncio made the task from a coroutine, it would log its cancellation as an error.
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            peer = PeerCredentials.of(writer.get_extra_info("socket"))
            identity = self._admit(peer)
            if identity is not None:
                await self._relay(reader, writer, peer.uid, identity)
        except OSError as error:
            log.debug("connection to the socket ended", reason=str(error))
        finally:
            writer.close()

    def _admit(self, peer: PeerCredentials) -> Identity | None:
        """Returns the identity of a process that may connect now; logs each user's rejection."""
        identity = self._users.identify(peer)
        others = sum(
            count for uid, count in self._connections.items() if not self._users.is_trusted(uid)
        )
        reason = ""
        if identity is None:
            reason = "neither root, nor the server's user, nor in the group of the socket"
        elif self._users.is_trusted(peer.uid):
            return identity
        elif self._connections[peer.uid] >= _MOST_OF_A_USER or others >= _MOST_OF_ALL_USERS:
            reason = "too many connections"
        if not reason:
            return identity
        if peer.uid not in self._rejected:
            self._rejected.add(peer.uid)
            log.warning("connection rejected", uid=peer.uid, pid=peer.pid, reason=reason)
        return None

    async def _relay(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        uid: int,
        identity: Identity,
    ) -> None:
        name = f"infrasight-{uuid.uuid4().hex}"
        self._identities[_PEER + name] = identity
        self._connections[uid] += 1
        try:
            grpc_reader, grpc_writer = await self._connect(name)
            try:
                await run_together(_pump(reader, grpc_writer), _pump(grpc_reader, writer))
            finally:
                grpc_writer.close()
        finally:
            self._connections[uid] -= 1
            if not self._connections[uid]:
                del self._connections[uid]
                self._rejected.discard(uid)
            del self._identities[_PEER + name]

    async def _connect(self, name: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connects to gRPC from a socket of the given name."""
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.bind(f"\0{name}")
            connection.setblocking(False)
            await asyncio.get_running_loop().sock_connect(connection, str(self._grpc_socket))
            return await asyncio.open_unix_connection(sock=connection, limit=_PIECE_BYTES)
        except BaseException:
            connection.close()
            raise


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Forwards bytes in one direction until its end."""
    while piece := await reader.read(_PIECE_BYTES):
        writer.write(piece)
        await writer.drain()
