"""The command `infrasight`, run as people run it."""

import os
import pty
import re
import subprocess
import sys

from infrasight_testbed.event_server import EventServer

COMMAND = [
    sys.executable,
    "-c",
    "from infrasight_core.cli import main; main(prog_name='infrasight')",
]


def environment(server: EventServer | None = None, **more: str) -> dict[str, str]:
    """The test's own, with nothing of ours but the server."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("INFRASIGHT_")}
    return kept | ({"INFRASIGHT_SERVER": server.address} if server else {}) | more


def run(
    *arguments: str, server: EventServer | None = None, text: str = "", **more: str
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end, its output in a pipe."""
    return subprocess.run(
        [*COMMAND, *arguments],
        input=text,
        capture_output=True,
        text=True,
        env=environment(server, **more),
        timeout=120,
        check=False,
    )


def on_terminal(*arguments: str, server: EventServer, width: int = 100) -> str:
    """What a command writes to a terminal, without the bold face of headers."""
    ours, theirs = pty.openpty()
    sized = environment(server, COLUMNS=str(width), LINES="30", TERM="xterm", NO_COLOR="1")
    with subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=theirs,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        env=sized,
    ) as process:
        os.close(theirs)
        output = b""
        try:
            while piece := os.read(ours, 65536):
                output += piece
        except OSError:  # EIO: the other end is closed
            process.wait()
    os.close(ours)
    return re.sub(r"\x1b\[[01]m", "", output.decode()).replace("\r\n", "\n")
