"""The orderly end of commands that run until somebody stops them."""

import os
import select
import signal
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_POLL_MILLISECONDS = 100


@contextmanager
def stop_event() -> Iterator[threading.Event]:
    """Provides an event that is set on Ctrl-C, on SIGTERM, and when no one reads stdout any more.

    Stopping is no error: the body looks at the event and finishes its work. Main thread only.
    """
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()

    previous = {number: signal.signal(number, on_signal) for number in _SIGNALS}
    watcher = threading.Thread(target=_watch_stdout, args=(stop,), name="stdout", daemon=True)
    watcher.start()
    try:
        yield stop
    finally:
        stop.set()
        for number, handler in previous.items():
            signal.signal(number, handler)


def _watch_stdout(stop: threading.Event) -> None:
    """Stops the command as soon as its pipe has no reader, not only when it next writes."""
    if not stat.S_ISFIFO(os.fstat(1).st_mode):
        return
    poll = select.poll()
    poll.register(1, 0)  # POLLERR, which a pipe without a reader reports, needs no mask
    while not stop.is_set():
        if poll.poll(_POLL_MILLISECONDS):
            stop.set()
