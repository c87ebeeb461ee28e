"""The store's process: confines itself, opens chDB, and runs the statements that it receives.

`python -m infrasight_server.store.embedded.process SOCKET < OPTIONS`. The options are a JSON
object, see `Options`. Over the Unix socket the server sends the sockets of its connections; the
first message on it comes from the process, a JSON object: `missing`, a list of what confines it
incompletely, or `error`, why it cannot run.

The main thread runs no statement: ClickHouse would look at its stack in `/proc`, which the process
cannot read.
"""

import json
import os
import re
import select
import shutil
import signal
import socket
import sys
import sysconfig
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any

from attrs import field, frozen, mutable

from infrasight_server.store.embedded import frames
from infrasight_server.store.embedded.confinement import confine
from infrasight_server.store.embedded.folder import lock_folder
from infrasight_server.store.names import literal, quoted

MESSAGE_BYTES = 1 << 16
STOP_SECONDS = 50
"""After so long the process ends, though chDB has not closed."""
_STATEMENT_SECONDS = 5.0
"""So long it waits for each statement that it ends."""
_NO_STREAM = "Streaming query is not supported"
_TOTALS = re.compile(r"\bTOTALS\b", re.IGNORECASE)
"""chDB fails when it streams the answer of a statement with totals."""
_FATAL_SIGNALS = (
    signal.SIGABRT,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGSEGV,
    signal.SIGSYS,
    signal.SIGTRAP,
)
_LOOK_MILLISECONDS = 200
"""How often it tries again to end the statements of closed connections."""
_SYSTEM_PATHS = (
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/usr/share/zoneinfo",
    "/etc/ld.so.cache",
    "/etc/hosts",  # where `localhost` is, the source of the dictionary
    "/etc/host.conf",
    "/etc/localtime",
    "/etc/nsswitch.conf",
    "/etc/timezone",
    "/dev/null",
    "/dev/urandom",
    "/sys/devices/system",
)


@frozen
class Options:
    """How to run.

    Attributes:
        folder: The data directory of chDB.
        memory_bytes: The most memory that chDB may use.
    """

    folder: str
    memory_bytes: int


@frozen
class Request:
    """A statement.

    Attributes:
        sql: The statement; for an insert up to the name of the columns.
        id: Identifies it: the text begins with `marker(id)`.
        settings: Settings of ClickHouse.
        parameters: The values of the statement's parameters.
        database: The database of tables that are named without one; "" for none.
        format: The format of the answer, or of an insert's rows.
        streams: Whether to send the answer while the statement runs; for formats whose pieces are
            complete by themselves.
    """

    sql: str
    id: str
    settings: dict[str, Any] = field(factory=dict)
    parameters: dict[str, str] = field(factory=dict)
    database: str = ""
    format: str = "ArrowStream"
    streams: bool = False


def marker(statement_id: str) -> str:
    """Returns the comment with which the text of a statement begins."""
    return f"/* {statement_id} */ "


@mutable(eq=False)
class _Connection:
    """A connection and its thread; `running` is the id of its statement, "" for none."""

    sock: socket.socket
    thread: Thread | None = None
    running: str = ""


class _Process:
    """Serves connections until the control socket is closed."""

    def __init__(self, control: socket.socket, options: Options) -> None:
        self._control = control
        self._options = options
        self._connections: dict[int, _Connection] = {}

    def open(self) -> None:
        """Loads chDB and opens the data directory."""
        with _silent_stderr():  # its import opens a store in memory, and logs what it cannot read
            from chdb.state import connect

        self._connect = connect
        self._path = (
            f"{self._options.folder}?max_server_memory_usage={self._options.memory_bytes}"
            "&memory_worker_use_cgroup=0"
        )
        self._engine = connect(self._path)  # keeps the engine open between statements

    def serve(self) -> None:
        """Accepts connections and ends the statements of closed ones."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        closed: dict[int, _Connection] = {}
        while True:
            for number, event in poll.poll(_LOOK_MILLISECONDS if closed else None):
                if number != self._control.fileno():
                    poll.unregister(number)
                    closed[number] = self._connections[number]
                    continue
                if event & ~select.POLLIN:
                    return
                message, descriptors, _, _ = socket.recv_fds(self._control, 1, 1)
                if not message:
                    return
                for descriptor in descriptors:
                    self._start(descriptor)
                    poll.register(descriptor, select.POLLRDHUP)
            for number, connection in list(closed.items()):
                if connection.thread is not None and connection.thread.is_alive():
                    if connection.running:
                        self._kill(connection.running)
                    continue
                connection.sock.close()
                del closed[number], self._connections[number]

    def _start(self, descriptor: int) -> None:
        connection = _Connection(socket.socket(fileno=descriptor))
        self._connections[descriptor] = connection
        connection.thread = Thread(target=self._run, args=(connection,), daemon=True)
        connection.thread.start()

    def _run(self, connection: _Connection) -> None:
        """Answers the requests of one connection."""
        sock = connection.sock
        # A closed connection ends the thread: the answer is not needed any more.
        with suppress(OSError, frames.BrokenFramesError):
            for values, descriptor in frames.requests(sock):
                request = Request(**values)
                connection.running = request.id
                try:
                    self._answer(sock, request, descriptor)
                except (RuntimeError, ValueError) as error:
                    frames.send_error(sock, str(error))
                else:
                    frames.send_end(sock)
                finally:
                    connection.running = ""
                    if descriptor is not None:
                        os.close(descriptor)
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)

    def _answer(self, sock: socket.socket, request: Request, descriptor: int | None) -> None:
        sql = marker(request.id) + request.sql
        with self._engine_connection(request) as engine:
            if descriptor is not None:
                engine.query(
                    f"{sql} FROM INFILE '/proc/self/fd/{descriptor}' FORMAT {request.format}"
                )
            elif request.streams and not _TOTALS.search(request.sql):
                self._stream(sock, engine, sql, request)
            else:
                frames.send_data(
                    sock, _view(engine.query(sql, request.format, params=request.parameters))
                )

    def _stream(self, sock: socket.socket, engine: Any, sql: str, request: Request) -> None:
        """Sends an answer block by block."""
        try:
            result = engine.send_query(sql, request.format, params=request.parameters)
        except RuntimeError as error:
            if _NO_STREAM not in str(error):  # SHOW, DESCRIBE, EXPLAIN and EXISTS
                raise
            result = engine.query(sql, request.format, params=request.parameters)
            frames.send_data(sock, _view(result))
            return
        is_empty = True
        try:
            for block in result:
                is_empty = False
                frames.send_data(sock, _view(block))
        finally:
            result.close()
        if is_empty:
            # chDB gives no block for an answer without rows, and the client needs its columns.
            columns = f"{marker(request.id)}SELECT * FROM ({request.sql}\n) LIMIT 0"
            block = engine.query(columns, request.format, params=request.parameters)
            frames.send_data(sock, _view(block))

    @contextmanager
    def _engine_connection(self, request: Request) -> Iterator[Any]:
        """Yields chDB's connection for one statement.

        Each statement gets its own: after a failed one, chDB's connection still has output.
        """
        engine = self._connect(self._path)
        try:
            if request.database:
                engine.query(f"USE {quoted(request.database)}")
            if request.settings:
                changes = ", ".join(
                    f"{name} = {literal(value)}" for name, value in request.settings.items()
                )
                engine.query(f"SET {changes}")
            yield engine
        finally:
            engine.close()

    def _kill(self, statement_id: str) -> None:
        start = literal(marker(statement_id))
        engine = self._connect(self._path)
        try:
            engine.query(f"KILL QUERY WHERE startsWith(query, {start}) ASYNC")
        except RuntimeError as error:  # the next look tries again
            print(f"cannot end a statement: {error}", file=sys.stderr)
        finally:
            engine.close()

    def close(self) -> None:
        """Ends running statements and closes chDB."""
        for connection in self._connections.values():
            if connection.running:
                self._kill(connection.running)
        for connection in self._connections.values():
            if connection.thread is not None:
                connection.thread.join(_STATEMENT_SECONDS)
        self._engine.close()


def _view(result: Any) -> memoryview:
    return memoryview(result.bytes())


@contextmanager
def _silent_stderr() -> Iterator[None]:
    saved = os.dup(2)
    os.dup2(1, 2)  # which is /dev/null
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def _python_paths() -> list[Path]:
    """Returns the folders from which Python imports, and the folder of the library of Python."""
    library = sysconfig.get_config_var("LIBDIR")
    return [Path(path) for path in (*sys.path, library) if path]


def _open(process: _Process, missing: list[str]) -> dict[str, Any]:
    """Opens the store; returns the first message to the server."""
    try:
        process.open()
    except (ImportError, OSError, RuntimeError) as error:
        return {"error": str(error)}
    return {"missing": missing}


def main() -> None:
    """Runs until the server closes the control socket, or ends."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the server decides when the store closes
    server = os.getppid()
    control = socket.socket(fileno=int(sys.argv[1]))
    options = Options(**json.load(sys.stdin))
    folder = Path(options.folder)
    os.umask(0o077)
    lock_folder(folder)
    temporary = folder / "scratch"
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
    temporary.mkdir()
    os.environ["TMPDIR"] = str(temporary)
    paths = [*_python_paths(), *(Path(path) for path in _SYSTEM_PATHS)]
    missing = confine(folder, paths)
    if os.getppid() != server:  # it ended before the kernel was asked to report that
        return
    process = _Process(control, options)
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(_open, process, missing).result()
        for number in _FATAL_SIGNALS:
            # ClickHouse's own handler leaves the process alive, but answers nothing any more.
            signal.signal(number, signal.SIG_DFL)
        control.send(json.dumps(answer).encode()[:MESSAGE_BYTES])
        if "error" in answer:
            os._exit(1)
        thread.submit(process.serve).result()
        signal.alarm(STOP_SECONDS)
        thread.submit(process.close).result()
    os._exit(0)  # chDB's threads have nothing left to do


if __name__ == "__main__":
    main()
