"""Work that benchmarks trace: loops of one kind of call, and real programs.

A piece of work does the same every time, so that the CPU times that it takes can be compared.
"""

import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from attrs import frozen

from infrasight_testbed.ports import free_port
from infrasight_testbed.process_cpu import cpu_seconds_of_children
from infrasight_testbed.system import until

WORKLOADS: Final = Path(__file__).parents[1] / "workloads"
_DEEP: Final = "a/b/c/d/e/file"
_POSTGRES: Final = ("setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups")
_START_SECONDS: Final = 30.0


@frozen
class Work:
    """A piece of work.

    Attributes:
        name: What it is called in the results.
        command: What is run.
        operations: How many operations it makes.
        server: What runs beside it and counts as part of it; empty for none.
        port: The TCP port on which that server listens.
    """

    name: str
    command: tuple[str, ...]
    operations: int = 1
    server: tuple[str, ...] = ()
    port: int = 0

    @property
    def missing(self) -> str:
        """The first program that is not installed; "" if all are."""
        programs = (self.command[0], self.server[0] if self.server else "")
        return next((each for each in programs if each and not shutil.which(each)), "")

    def cpu_ns(self) -> float:
        """Does the work. Returns the CPU time of one operation, all its processes together."""
        before = cpu_seconds_of_children()
        with _running(self.server, self.port):
            subprocess.run(
                self.command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        return (cpu_seconds_of_children() - before) * 1e9 / self.operations


def loops(folder: Path) -> Iterator[Work]:
    """Returns loops of one kind of call, each on the first CPU.

    Args:
        folder: An empty folder below which every user may read.
    """
    program = folder / "calls"
    subprocess.run(["cc", "-O2", "-o", program, WORKLOADS / "calls.c"], check=True)
    deep = folder / _DEEP
    deep.parent.mkdir(parents=True)
    deep.touch()
    for name, kind, operations, path in (
        ("getppid", "getppid", 300_000, ""),
        ("pread", "pread", 200_000, ""),
        ("open, 2 components", "open", 50_000, "/etc/passwd"),
        (f"open, {len(deep.parts) - 1} components", "open", 50_000, str(deep)),
        ("exec", "exec", 300, ""),
        ("connect and accept", "connect", 5_000, ""),
    ):
        command = ("taskset", "-c", "0", str(program), kind, str(operations), path)
        yield Work(name, command, operations)


def programs(folder: Path) -> Iterator[Work]:
    """Returns real programs, also those that are not installed.

    Args:
        folder: A folder in which `loops` has been called.
    """
    yield Work("find /usr", ("find", "/usr", "-xdev", "-name", "*.h"))
    source = str(WORKLOADS / "uring_calls.c")
    compile_ten = f"for i in 1 2 3 4 5 6 7 8 9 10; do cc -O2 -c -o {folder}/out.o {source}; done"
    yield Work("compile 10 files", ("sh", "-c", compile_ten))
    yield Work(
        "shell loop", ("sh", "-c", "i=0; while [ $i -lt 300 ]; do /bin/true; i=$((i+1)); done")
    )
    yield _redis(free_port())
    yield _nginx(folder / "nginx", free_port())
    yield _postgres(folder / "postgres", free_port())


def _redis(port: int) -> Work:
    options = ("-p", str(port), "-n", "20000", "-c", "20", "-t", "set,get", "-q")
    server = ("redis-server", "--port", str(port), "--save", "", "--appendonly", "no")
    return Work("redis-benchmark", ("redis-benchmark", *options), server=server, port=port)


def _nginx(folder: Path, port: int) -> Work:
    folder.mkdir()
    (folder / "page").write_bytes(bytes(4096))
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; error_log {folder}/error.log; worker_processes 1;\n"
        f"events {{}}\nhttp {{ access_log off; server {{ listen 127.0.0.1:{port};"
        f" root {folder}; }} }}\n"
    )
    client = ("ab", "-q", "-n", "5000", "-c", "10", f"http://127.0.0.1:{port}/page")
    server = ("nginx", "-e", f"{folder}/error.log", "-c", f"{folder}/nginx.conf")
    return Work("nginx with ab", client, server=server, port=port)


def _postgres(folder: Path, port: int) -> Work:
    """The database is made here, because that takes longer than the queries."""
    bin_folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if not bin_folders or not shutil.which("pgbench"):
        return Work("pgbench", ("pgbench",))
    folder.mkdir()
    shutil.chown(folder, "postgres", "postgres")
    data = folder / "data"
    connection = ("-h", "127.0.0.1", "-p", str(port), "-U", "postgres")
    server = (
        *(*_POSTGRES, str(bin_folders[0] / "postgres"), "-D", str(data), "-p", str(port)),
        *("-k", str(folder), "-c", "fsync=off", "-c", "listen_addresses=127.0.0.1"),
    )
    initialize = (*_POSTGRES, str(bin_folders[0] / "initdb"), "-D", str(data), "-A", "trust")
    subprocess.run(initialize, check=True, cwd=folder, stdout=subprocess.DEVNULL)
    with _running(server, port):
        fill = ("pgbench", "-i", "-q", *connection, "postgres")
        subprocess.run(fill, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    client = ("pgbench", "-S", "-C", "-n", "-t", "300", "-c", "2", *connection, "postgres")
    return Work("pgbench, a connection each", client, server=server, port=port)


@contextmanager
def _running(server: Sequence[str], port: int) -> Iterator[None]:
    if not server:
        yield
        return
    quiet = subprocess.DEVNULL
    with subprocess.Popen(server, cwd="/", stdout=quiet, stderr=quiet) as process:
        try:
            until(lambda: _is_listening(port), f"{server[0]} listens", _START_SECONDS)
            yield
        finally:
            process.terminate()


def _is_listening(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
