"""An ordinary user of this machine, who attacks: a real process with the ids of another user.

The system's Python runs the attacks, because other users may not be able to read this clone.
"""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PYTHON = "/usr/bin/python3"
USER = 65534
SECONDS = 60

_CONNECT = """
import json, socket, sys

def connect(address):
    if address.startswith("unix:"):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(address[5:])
        connection.settimeout(20)
        return connection
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), 20)

def listen(address):
    if address.startswith("unix:"):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(address[5:])
    else:
        host, _, port = address.rpartition(":")
        listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, int(port)))
    listener.listen(64)
    return listener

def report(value):
    print(json.dumps(value), flush=True)

arguments = json.loads(sys.argv[1])
"""
_SQUAT = """
import threading
listener = listen(arguments)
received = []
def serve(connection):
    try:
        connection.settimeout(5)  # then it closes, so that a deceived client does not wait long
        # The settings with which a server of HTTP/2 begins, so that clients go on.
        connection.sendall(bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
        while piece := connection.recv(65536):
            received.append(piece)
    except OSError:
        return
def accept():
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
threading.Thread(target=accept, daemon=True).start()
report("listening")
sys.stdin.read()
report(b"".join(received).hex())
"""
_TUNNEL = """
import threading
server, own = arguments
listener = listen(own)
import os
os.chmod(own[5:], 0o777)
report("listening")
def pump(source, target):
    try:
        while piece := source.recv(65536):
            target.sendall(piece)
    except OSError:
        pass
    for each in (source, target):
        try:
            each.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
def accept():
    while True:
        near = listener.accept()[0]
        try:
            far = connect(server)
        except OSError:
            near.close()
            continue
        far.settimeout(None)
        for ends in ((near, far), (far, near)):
            threading.Thread(target=pump, args=ends, daemon=True).start()
threading.Thread(target=accept, daemon=True).start()
sys.stdin.read()
"""


class LocalUser:
    """An ordinary user.

    Args:
        uid: The user's id.
        groups: The ids of further groups that it is a member of.
    """

    def __init__(self, uid: int = USER, groups: tuple[int, ...] = ()) -> None:
        self.uid = uid
        self._groups = ",".join(map(str, groups))

    def start(self, script: str, arguments: object = None) -> subprocess.Popen[str]:
        """Starts a Python script, which finds `connect`, `listen`, `report` and `arguments`."""
        # Not by `user=`: subprocess would then fork while threads of gRPC run in this process.
        groups = f"--groups={self._groups}" if self._groups else "--clear-groups"
        become = ["setpriv", f"--reuid={self.uid}", f"--regid={self.uid}", groups]
        return subprocess.Popen(
            [*become, PYTHON, "-I", "-c", _CONNECT + script, json.dumps(arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
        )

    def run(self, script: str, arguments: object = None) -> Any:
        """Runs a script to its end; returns what it reports last."""
        output, _ = self.start(script, arguments).communicate(timeout=SECONDS)
        return json.loads(output.splitlines()[-1])

    def attempt(self, action: str, arguments: object = None) -> str:
        """Runs statements; returns "done", or the name of the error that stopped them."""
        indented = "".join(f"    {line}\n" for line in action.splitlines())
        return str(
            self.run(
                "import errno, os\ntry:\n" + indented + "    report('done')\n"
                "except OSError as error:\n    report(errno.errorcode.get(error.errno, 'error'))\n",
                arguments,
            )
        )

    def _start_listening(self, script: str, arguments: object) -> subprocess.Popen[str]:
        process = self.start(script, arguments)
        assert process.stdout is not None
        if process.stdout.readline() != '"listening"\n':
            process.communicate(timeout=SECONDS)
            raise AssertionError("the user cannot listen there")
        return process

    @contextmanager
    def squatting(self, address: str) -> Iterator["Squatter"]:
        """Listens at an address, and collects what arrives."""
        process = self._start_listening(_SQUAT, address)
        squatter = Squatter(process)
        try:
            yield squatter
        finally:
            squatter.stop()

    @contextmanager
    def tunnel(self, server: str) -> Iterator[str]:
        """Yields an address whose connections this user's process forwards to the server."""
        with open_folder() as folder:
            os.chown(folder, self.uid, self.uid)
            own = f"unix:{folder}/tunnel"
            process = self._start_listening(_TUNNEL, [server, own])
            try:
                yield own
            finally:
                process.communicate(timeout=SECONDS)


class Squatter:
    """A process that listens where a server should."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._received = ""

    def stop(self) -> bytes:
        """Listens no more; returns everything that it has received."""
        if self._process.poll() is None:
            output, _ = self._process.communicate(timeout=SECONDS)
            self._received = json.loads(output.splitlines()[-1])
        return bytes.fromhex(self._received)


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that other users can reach, unlike those of pytest."""
    folder = Path(tempfile.mkdtemp(prefix="infrasight-test-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
