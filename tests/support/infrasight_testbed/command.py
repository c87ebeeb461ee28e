"""The command `infrasight`, run as people run it."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios

from infrasight_testbed.event_server import EventServer

COMMAND = [sys.executable, "-m", "infrasight_core.cli"]


def environment(server: EventServer | None = None, **variables: str) -> dict[str, str]:
    """The environment of this process; of InfraSight's own variables only the server's address."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith("INFRASIGHT_")
    }
    address = {"INFRASIGHT_SERVER": server.address} if server else {}
    return inherited | address | variables


def restore_interrupt() -> None:
    """A `preexec_fn`: lets SIGINT end the child, even if the parent of this process ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run(
    *arguments: str, server: EventServer | None = None, text: str = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end, with its output in a pipe."""
    return subprocess.run(
        [*COMMAND, *arguments],
        input=text,
        capture_output=True,
        text=True,
        env=environment(server, **variables),
        timeout=120,
        check=False,
    )


def on_terminal(
    *arguments: str,
    server: EventServer | None = None,
    width: int = 100,
    command: list[str] = COMMAND,
    encoding: str = "utf-8",
    **variables: str,
) -> str:
    """What a command writes to a terminal, without the bold face of headers."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, width, 0, 0))
    env = environment(server, TERM="xterm", NO_COLOR="1", **variables)
    for name in ("COLUMNS", "LINES"):
        env.pop(name, None)
    with subprocess.Popen(
        [*command, *arguments],
        stdout=theirs,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        env=env,
    ) as process:
        os.close(theirs)
        output = b""
        try:
            while piece := os.read(ours, 65536):
                output += piece
        except OSError:  # EIO: the other end is closed
            process.wait()
    os.close(ours)
    return re.sub(r"\x1b\[[01]m", "", output.decode(encoding)).replace("\r\n", "\n")
