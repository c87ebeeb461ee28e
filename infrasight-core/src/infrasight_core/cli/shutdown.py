"""The good end of a command that would go on for ever."""

import os
import select
import signal
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from infrasight_core.cli import close_stdout


@contextmanager
def until_stopped() -> Iterator[None]:
    """Runs the body until Ctrl-C, SIGTERM, or nobody reads stdout any more; none of these is an error. Main thread only."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    done = threading.Event()
    watcher = threading.Thread(
        target=_watch_reader, args=(done,), name="stdout's reader", daemon=True
    )
    watcher.start()
    try:
        try:
            yield
            sys.stdout.flush()
        except BrokenPipeError:
            close_stdout()
    except KeyboardInterrupt:
        return
    finally:
        signal.signal(
            signal.SIGTERM, signal.SIG_IGN
        )  # the watcher may be about to tell what we know already
        done.set()
        watcher.join()
        signal.signal(signal.SIGTERM, before)


@contextmanager
def stop_event() -> Iterator[threading.Event]:
    """The same ends as an event to look at, for a body that has something to finish. Main thread only."""
    stop = threading.Event()
    before = [
        signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)
    ]
    threading.Thread(
        target=_watch_reader, args=(stop,), name="stdout's reader", daemon=True
    ).start()
    try:
        yield stop
    finally:
        stop.set()
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)


def _watch_reader(done: threading.Event) -> None:
    """Ends the command as soon as the reader of its pipe is gone, not only when there is something to write."""
    if not stat.S_ISFIFO(os.fstat(1).st_mode):
        return
    poll = select.poll()
    poll.register(1, 0)  # what is asked for in no mask: the other end was closed
    while not done.is_set():
        if poll.poll(100) and not done.is_set():
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
            return
