"""What a local user tries so that its processes are taken for the agent's own work, and hidden.

The recorder is process 1 of a pid namespace, as an agent is in its container: every orphan of the
namespace becomes its child.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from infrasight_testbed.system import BIN, until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="recording needs root")
USER = 65534
# Continues as an orphan of this user.
ORPHAN = """
import ctypes, os, sys
if os.fork():
    os._exit(0)
while os.getppid() != 1:
    os.sched_yield()
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
marker = sys.argv[1]
"""


class Namespace:
    """A pid namespace in which a recorder of executions is process 1.

    Args:
        folder: For its output.
    """

    def __init__(self, folder: Path) -> None:
        self._output = folder / "rows"
        # The namespace's process 1 records; it ends together with `unshare`.
        command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
        command += [str(BIN / "infrasight"), "trace", "execve", "--format", "json"]
        with self._output.open("wb") as output:
            self._unshare = subprocess.Popen(command, stdout=output, stderr=subprocess.PIPE)
        assert self._unshare.stderr is not None
        log = b""
        while b"recording execve" not in log:
            line = self._unshare.stderr.readline()
            log += line
            assert line, log.decode()
        children = Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children")
        self._init = children.read_text().split()[0]

    def run(self, script: str, *arguments: str) -> None:
        """Runs a script of Python in the namespace until its first process ends."""
        enter = ["nsenter", "--target", self._init, "--pid", "--mount"]
        python = ["/usr/bin/python3", "-S", "-E", "-c", script]
        subprocess.run([*enter, *python, *arguments], check=True)

    def rows(self, marker: str) -> list[dict[str, Any]]:
        """Returns the user's recorded executions with this last argument."""
        rows = []
        for line in self._output.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n") and marker.encode() in line:
                rows.append(json.loads(line))
        return [row for row in rows if row["argv"][-1:] == [marker] and row["uid"] == USER]

    def wait(self, marker: str, count: int = 1) -> list[dict[str, Any]]:
        """Waits until so many of these executions are recorded."""
        until(lambda: len(self.rows(marker)) >= count, f"{count} of {marker} are recorded", 30)
        return self.rows(marker)

    def close(self) -> None:
        """Ends the namespace."""
        self._unshare.kill()
        self._unshare.communicate()


@pytest.fixture(scope="module")
def namespace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Namespace]:
    """A namespace with a recorder as process 1."""
    running = Namespace(tmp_path_factory.mktemp("namespace"))
    yield running
    running.close()


def test_orphan_of_process_1_is_recorded(namespace: Namespace) -> None:
    """A user's process orphans itself to the agent, which is process 1: it is recorded."""
    namespace.run(ORPHAN + "os.execv('/bin/true', ['/bin/true', marker])", "mark-orphan")
    assert len(namespace.wait("mark-orphan")) == 1


@pytest.mark.parametrize("name", ["infrasight", "infra-canary", "recorder"])
def test_orphan_with_the_agents_name_is_recorded(namespace: Namespace, name: str) -> None:
    """A user's orphan takes the name of a thread of the agent's: it is recorded."""
    marker = f"mark-{name}"
    script = ORPHAN + (
        f"ctypes.CDLL(None).prctl(15, b'{name}', 0, 0, 0)\n"
        "try:\n    os.execv('/dev/null/x', ['x', marker])\n"
        "except OSError:\n    pass\n"
    )
    namespace.run(script, marker)
    (row,) = namespace.wait(marker)
    assert row["comm"] == name
    assert row["return_code"] < 0


def test_orphan_from_a_deleted_binary_is_recorded(namespace: Namespace, tmp_path: Path) -> None:
    """A user's orphan executes a deleted file named infrasight: it is recorded."""
    file = tmp_path / "infrasight"
    script = (
        f"import shutil\nshutil.copy('/bin/true', {str(file)!r})\n"
        f"binary = __import__('os').open({str(file)!r}, 0)\n"
        f"__import__('os').unlink({str(file)!r})\n"
    )
    execute = "os.execve(binary, ['infrasight', 'agent', marker], {})"
    namespace.run(script + ORPHAN + execute, "mark-deleted")
    (row,) = namespace.wait("mark-deleted")
    assert row["exe"].endswith("/infrasight")


def test_orphan_that_starts_a_chain_is_recorded(namespace: Namespace) -> None:
    """A user's orphan leaves further orphans behind, twice: each of them is recorded."""
    again = "if os.fork():\n    os._exit(0)\nwhile os.getppid() != 1:\n    os.sched_yield()\n"
    spawn = "os.spawnv(os.P_WAIT, '/bin/true', ['/bin/true', marker])\n"
    execute = "os.execv('/bin/true', ['/bin/true', marker])"
    namespace.run(ORPHAN + spawn + again + spawn + again + execute, "mark-chain")
    rows = namespace.wait("mark-chain", 3)
    assert len(rows) == 3


def test_orphans_that_reuse_the_pids_of_loaders_are_recorded(namespace: Namespace) -> None:
    """A user's orphans get the pids that the agent's own children had: all are recorded."""
    count = 30
    reuse = "open('/proc/sys/kernel/ns_last_pid', 'w').write('1')\n"
    start = (
        f"import os\n{reuse}for _ in range({count - 1}):\n    if not os.fork():\n        break\n"
    )
    namespace.run(start + ORPHAN + "os.execv('/bin/true', ['/bin/true', marker])", "mark-pid")
    rows = namespace.wait("mark-pid", count)
    assert len({row["pid"] for row in rows}) == len(rows) == count


def test_process_outside_with_the_canarys_name_is_recorded(namespace: Namespace) -> None:
    """A user's process takes the name of the agent's canary: its events are not taken out."""
    script = (
        "import ctypes, os\nctypes.CDLL(None).prctl(15, b'infra-canary', 0, 0, 0)\n"
        "try:\n    os.execv('/dev/null/x', ['x', 'mark-canary'])\nexcept OSError:\n    pass\n"
    )
    subprocess.run(["/usr/bin/python3", "-S", "-E", "-c", script], check=True, user=USER)
    (row,) = namespace.wait("mark-canary")
    assert row["comm"] == "infra-canary"
