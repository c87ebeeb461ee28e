"""The processes that make the events of `infrasight loadtest`."""

import json
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from infrasight_core.cli.load_generator import Load
from infrasight_core.errors import InfraSightError

_COMMAND = (sys.executable, "-P", "-m", "infrasight_core.cli.load_generator")


class LoadProcesses:
    """Processes that make events together.

    Attributes:
        name: The name of their threads while they make events: the `comm` of these events.

    Args:
        name: That name.
        processes: The processes, which are ready.
    """

    def __init__(self, name: str, processes: "list[subprocess.Popen[str]]") -> None:
        self.name = name
        self._processes = processes

    def begin(self, rate: float, seconds: float) -> None:
        """Lets every process make events.

        Args:
            rate: Events per second of all processes together; 0 for as many as possible.
            seconds: For how long.
        """
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(f"{rate / len(self._processes)} {seconds}\n")
            process.stdin.flush()

    def finish(self) -> Load:
        """Waits until all have made their events.

        Returns:
            The sum of events and CPU time, and the longest time.

        Raises:
            InfraSightError: A process failed.
        """
        loads = []
        for process in self._processes:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise InfraSightError("a process that makes events has ended unexpectedly")
            loads.append(Load(**json.loads(line)))
        return Load(
            made=sum(load.made for load in loads),
            cpu_ns=sum(load.cpu_ns for load in loads),
            seconds=max(load.seconds for load in loads),
        )

    def stop(self) -> None:
        """Lets all processes finish early and end."""
        for process in self._processes:
            if process.stdin is not None and not process.stdin.closed:
                process.stdin.close()


@contextmanager
def load_processes(probe: str, count: int) -> Iterator[LoadProcesses]:
    """Runs processes that can make events of a probe; they end with the context.

    Main thread only: the kernel takes what another thread of an agent starts for its own work.

    Raises:
        InfraSightError: A process cannot start.
    """
    name = f"iload-{secrets.token_hex(4)}"
    processes: list[subprocess.Popen[str]] = []
    load = LoadProcesses(name, processes)
    pipe = subprocess.PIPE
    try:
        for number in range(count):
            command = [*_COMMAND, probe, name, f"{name}-{number}"]
            # In a separate group, Ctrl-C ends it only by the end of its input.
            process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, process_group=0)
            processes.append(process)
        for process in processes:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise InfraSightError("a process that makes events cannot start")
        yield load
    finally:
        load.stop()
        for process in processes:
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
