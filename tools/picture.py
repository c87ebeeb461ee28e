"""Draws docs/images/trace.svg: what `infrasight trace` shows of a short script on this machine.

    sudo .venv/bin/python tools/picture.py

It runs the command on a pseudo-terminal, runs a few programs as an unprivileged user, and draws the
last screen. It needs root, as the command does, and busybox.
"""

import fcntl
import io
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

ROOT: Final = Path(__file__).resolve().parents[1]
PICTURE: Final = ROOT / "docs" / "images" / "trace.svg"
INFRASIGHT: Final = ROOT / ".venv" / "bin" / "infrasight"
COLUMNS: Final = 140
LINES: Final = 24
SECONDS: Final = 60.0
USER: Final = 1  # daemon, which runs nothing else
# Libraries would fill the screen. Busybox is linked statically and opens none.
WITHOUT_LIBRARIES: Final = ("--exclude", "path=/usr/lib/", "--exclude", "path=/etc/ld.so.cache")
PROGRAMS: Final = ("id", "cat", "cp", "chmod", "nc")
SCRIPT: Final = """
PATH=.
id -un
cat /etc/shadow
cp /etc/hostname notes
chmod 4755 notes
/no/such/tool --now
nc 127.0.0.1 "$1"
nc 127.0.0.1 9
"""


def main() -> int:
    """Record the script, keep the last screen and draw it."""
    command = [str(INFRASIGHT), "trace", "--include", f"uid={USER}", *WITHOUT_LIBRARIES]
    screen = bytearray()
    process, terminal = pty.fork()
    if process == 0:
        os.environ.update(TERM="xterm-256color", COLUMNS=str(COLUMNS), LINES=str(LINES))
        os.execv(command[0], command)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    reader = threading.Thread(target=read, args=(terminal, screen), daemon=True)
    reader.start()
    wait_for(screen, b"recording ")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        for program in PROGRAMS:
            (Path(folder) / program).symlink_to("/bin/busybox")
        run_script(folder)
    wait_for(screen, b"nc 127.0.0.1 9 ")
    os.kill(process, signal.SIGINT)
    reader.join(SECONDS)
    os.waitpid(process, 0)
    draw(last_screen(screen.decode("utf-8", "replace")))
    print(f"written: {PICTURE.relative_to(ROOT)}")
    return 0


def run_script(folder: str) -> None:
    """Run the script as an unprivileged user, beside a server that accepts its connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        child = os.fork()
        if child == 0:
            os.setgid(USER)
            os.setuid(USER)
            server.accept()
            os._exit(0)
        port = str(server.getsockname()[1])
    user = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
    subprocess.run(
        [*user, "/bin/sh", "-c", SCRIPT, "sh", port],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
        timeout=SECONDS,
    )
    os.waitpid(child, 0)


def read(terminal: int, screen: bytearray) -> None:
    """Collect what the command writes until it ends."""
    while True:
        try:
            screen += os.read(terminal, 65536)
        except OSError:  # the command has ended
            return


def wait_for(screen: bytearray, text: bytes) -> None:
    """Wait until the command has written this text."""
    deadline = time.monotonic() + SECONDS
    while text not in screen:
        if time.monotonic() > deadline:
            sys.exit(f"no {text!r} within {SECONDS:.0f} s; the command wrote: {bytes(screen)!r}")
        time.sleep(0.05)


def last_screen(output: str) -> str:
    """The last table that was drawn; each one begins by clearing the one before."""
    frame = re.split(r"(?:\x1b\[1A\x1b\[2K)+", output)[-1]
    return frame[: frame.index("Ctrl-C ends") + len("Ctrl-C ends")].replace("\r\n", "\n")


def draw(text: str) -> None:
    """Write the picture."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    console.print(Text.from_ansi(text), soft_wrap=True)
    PICTURE.parent.mkdir(exist_ok=True)
    svg = console.export_svg(title="sudo infrasight trace", theme=MONOKAI, unique_id="trace")
    svg = re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL)  # no fonts from elsewhere
    PICTURE.write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
