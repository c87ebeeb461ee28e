"""Tests of the probe mkdir. They load it into the kernel, so they need root."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from infrasight_core.testing import ProbeContract


class TestMkdir(ProbeContract):
    """The tests that every probe must pass."""

    probe = "mkdir"

    def make_event(self) -> None:
        """Makes a directory."""
        with tempfile.TemporaryDirectory():
            pass


def test_every_call_becomes_a_row(tmp_path: Path) -> None:
    """Two calls that succeed and one that fails become three rows, with arguments and results."""
    infrasight = str(Path(sys.executable).with_name("infrasight"))
    command = [infrasight, "trace", "mkdir", "--include", f"pid={os.getpid()}"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as trace:
        assert trace.stdout is not None
        assert trace.stderr is not None
        for line in trace.stderr:
            if line.startswith("recording"):
                break

        (tmp_path / "new").mkdir(mode=0o750)
        directory = os.open(tmp_path, os.O_RDONLY)
        os.mkdir("below", mode=0o700, dir_fd=directory)
        (tmp_path / "new").mkdir(mode=0o755, exist_ok=True)

        rows = [json.loads(trace.stdout.readline()) for _ in range(3)]
        trace.terminate()
    os.close(directory)

    calls = [(row["path"], row["dirfd"], row["mode"], row["error"]) for row in rows]
    at_fdcwd = -100
    assert calls == [
        (str(tmp_path / "new"), at_fdcwd, 0o750, ""),
        ("below", directory, 0o700, ""),
        (str(tmp_path / "new"), at_fdcwd, 0o755, "EEXIST"),
    ]
    assert {row["exe"] for row in rows} == {str(Path("/proc/self/exe").readlink())}
    assert {tuple(row["quality"]) for row in rows} == {("path_user_memory",)}
