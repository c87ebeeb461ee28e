"""A small real server of `infrasight.v1.EventService` with answers that a test sets."""

import queue
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pyarrow as pa
from infrasight.v1.stream_pb2 import QueryRequest, QueryResponse, WatchRequest, WatchResponse
from infrasight.v1.stream_pb2_grpc import EventServiceServicer, add_EventServiceServicer_to_server
from infrasight_core.net import ipc
from infrasight_core.net.tls import TlsFiles


class RefusedError(Exception):
    """Raised by an answer: the status and the words that the client gets."""

    def __init__(self, code: grpc.StatusCode, words: str) -> None:
        super().__init__(words)
        self.code = code


class EventServer(EventServiceServicer):
    """A server on a loopback port; a context manager.

    Attributes:
        answer: What Query answers to a statement, table by table; it may raise RefusedError.
        events: What Watch sends: probe, rows, dropped; None ends the stream.
        asked: The statements and lists of probes that came, in order.

    Args:
        tls: The server's own files; None for plaintext.
        host: Where to listen.
    """

    def __init__(self, tls: TlsFiles | None = None, host: str = "localhost") -> None:
        self.answer: Callable[[str], Iterator[pa.Table]] = lambda sql: iter(())
        self.events: queue.SimpleQueue[tuple[str, pa.Table, int] | None] = queue.SimpleQueue()
        self.asked: list[object] = []
        self._tls = tls
        self._host = host
        self._port = 0
        self.start()

    @property
    def address(self) -> str:
        """Where it listens; the same when it is started again."""
        return f"{self._host}:{self._port}"

    def start(self) -> None:
        """Listens."""
        self._server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        add_EventServiceServicer_to_server(self, self._server)
        address = f"{self._host}:{self._port}"
        if self._tls is None:
            self._port = self._server.add_insecure_port(address)
        else:
            certificate, key, ca = self._tls.read()
            credentials = grpc.ssl_server_credentials(
                [(key, certificate)], ca, require_client_auth=True
            )
            self._port = self._server.add_secure_port(address, credentials)
        self._server.start()

    def stop(self) -> None:
        """Breaks every call and listens no more."""
        self.events.put(None)
        self._server.stop(0).wait()

    def Query(
        self, request: QueryRequest, context: grpc.ServicerContext
    ) -> Iterator[QueryResponse]:
        """Answers with `answer`."""
        self.asked.append(request.sql)
        try:
            for table in self.answer(request.sql):
                yield QueryResponse(arrow=_bytes(table))
        except RefusedError as refused:
            context.abort(refused.code, str(refused))

    def Watch(
        self, request: WatchRequest, context: grpc.ServicerContext
    ) -> Iterator[WatchResponse]:
        """Sends `events`."""
        self.asked.append(list(request.probes))
        if "unknown" in request.probes:
            context.abort(
                grpc.StatusCode.NOT_FOUND, "no probe unknown here; this server knows: execve"
            )
        context.send_initial_metadata(())
        while (event := self.events.get()) is not None:
            probe, rows, dropped = event
            yield WatchResponse(probe=probe, arrow=_bytes(rows), dropped=dropped)

    def __enter__(self) -> "EventServer":
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()


def _bytes(table: pa.Table) -> bytes:
    return ipc.to_bytes(*(table.to_batches() or [pa.RecordBatch.from_pylist([], table.schema)]))
