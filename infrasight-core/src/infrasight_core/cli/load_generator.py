"""Makes events for `infrasight loadtest`: a process that calls a probe's canary at a rate.

    python -m infrasight_core.cli.load_generator PROBE NAME TOKEN

It writes `ready`, and then answers each line on standard input, `RATE SECONDS`, by making events
and writing a JSON object: how many, and their CPU time. The end of the input ends that early, and
the process. While it makes events, and only then, its thread has the given name, by which they are
recognized. TOKEN is a text that no other process gives its events.
"""

import ctypes
import json
import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from attrs import asdict, frozen

from infrasight_core.errors import ConfigError
from infrasight_core.kernel.loader import running_kernel
from infrasight_core.plugin.manager import PluginManager

_PR_SET_NAME = 15
_PR_GET_NAME = 16
_NAME_BYTES = 16
_MOST_PER_BURST = 1000  # between two looks at the clock
_LEAST_PER_BURST = 50  # so that reading the clock does not count
_BURSTS_PER_SECOND = 200
_LEAST_BURSTS_PER_SECOND = 10


@frozen
class Load:
    """The events of one order.

    Attributes:
        made: How many events were made.
        cpu_ns: The CPU time of the calls, in nanoseconds, with Python's part.
        seconds: How long it took.
    """

    made: int
    cpu_ns: int
    seconds: float


def canary_of(probe: str) -> Callable[[str], None]:
    """Returns what makes an event of a probe.

    Raises:
        ConfigError: There is no such probe, or it cannot make events.
        PluginError: The probe's plugin failed.
    """
    plugins = PluginManager.discover([probe])
    if probe in plugins.failures:
        raise plugins.failures[probe]
    if probe not in plugins.probes():
        raise ConfigError(f"--probe {probe}: it is an enricher; only probes have events")
    canary = plugins.load_bpf(probe, running_kernel(), {}).canary
    if canary is None:
        raise ConfigError(f"--probe {probe}: it has no canary, which would make its events")
    return canary


@contextmanager
def thread_name(name: str) -> Iterator[None]:
    """Gives this thread another name for as long as the context lasts.

    Args:
        name: The name, of at most 15 bytes.
    """
    libc = ctypes.CDLL(None)
    previous = ctypes.create_string_buffer(_NAME_BYTES)
    libc.prctl(_PR_GET_NAME, previous, 0, 0, 0)
    libc.prctl(_PR_SET_NAME, ctypes.create_string_buffer(name.encode()), 0, 0, 0)
    try:
        yield
    finally:
        libc.prctl(_PR_SET_NAME, previous, 0, 0, 0)


def main() -> None:
    """Answers orders until the end of the input."""
    probe, name, token = sys.argv[1:]
    canary = canary_of(probe)
    _make(canary, token, 1)  # what the first call imports must not count
    with suppress(BrokenPipeError), open(0, "rb", buffering=0, closefd=False) as orders:
        os.write(1, b"ready\n")
        for line in orders:
            _answer(canary, name, token, line)


def _answer(canary: Callable[[str], None], name: str, token: str, line: bytes) -> None:
    rate, seconds = map(float, line.split())
    with thread_name(name):
        load = _load(canary, token, rate, seconds)
    os.write(1, json.dumps(asdict(load)).encode() + b"\n")


def _load(canary: Callable[[str], None], token: str, rate: float, seconds: float) -> Load:
    """Makes events, at a rate per second or, with 0, as fast as possible."""
    burst = max(_LEAST_PER_BURST, rate / _BURSTS_PER_SECOND)
    pause = min(burst / rate, 1 / _LEAST_BURSTS_PER_SECOND) if rate else 0
    made = 0
    cpu_ns = 0
    began = time.monotonic()
    while True:
        elapsed = min(time.monotonic() - began, seconds)
        due = round(elapsed * rate) - made if rate else _MOST_PER_BURST
        calls = min(due, _MOST_PER_BURST)
        if calls > 0:
            before = time.thread_time_ns()
            _make(canary, token, calls)
            cpu_ns += time.thread_time_ns() - before
            made += calls
        if elapsed >= seconds or _must_stop():
            return Load(made, cpu_ns, time.monotonic() - began)
        if due < _MOST_PER_BURST and pause:
            time.sleep(pause)


def _make(canary: Callable[[str], None], token: str, calls: int) -> None:
    failure = suppress(OSError)  # a canary is best an operation that fails
    for _ in range(calls):
        with failure:
            canary(token)


def _must_stop() -> bool:
    return bool(select.select([0], [], [], 0)[0])


if __name__ == "__main__":
    main()
