"""A second start: every probe loads without the compiler and records as after the first one."""

import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from infrasight_core.agent.recorder import Recorder
from infrasight_core.agent.reload import attach_all
from infrasight_core.agent.settings import ProbeSettings
from infrasight_core.kernel.loader import LoadSettings
from infrasight_core.kernel.program_cache import ProgramCache
from infrasight_core.plugin.manager import PluginManager
from infrasight_recording import Recording
from infrasight_testbed.compiler import BreakableCompiler
from infrasight_testbed.ports import free_port
from infrasight_testbed.system import BIN, Process, running_system, until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="recording needs root")


def open_files(folder: Path) -> None:
    """Opens a file that exists and one that does not."""
    (folder / "opened").write_text("")
    (folder / "absent").exists()
    for name in ("opened", "absent"):
        subprocess.run(["/bin/cat", folder / name], check=False, capture_output=True)


def change_modes(folder: Path) -> None:
    """Changes the mode of a file that exists and of one that does not."""
    (folder / "changed").touch()
    for name in ("changed", "absent"):
        subprocess.run(["/bin/chmod", "640", folder / name], check=False, capture_output=True)


def execute(folder: Path) -> None:
    """Runs a program."""
    subprocess.run(["/bin/true", folder], check=True)


def connect(folder: Path) -> None:
    """Connects to a Unix socket that accepts."""
    path = str(folder / "socket")
    Path(path).unlink(missing_ok=True)
    with (
        socket.socket(socket.AF_UNIX) as listener,
        socket.socket(socket.AF_UNIX) as client,
    ):
        listener.bind(path)
        listener.listen()
        client.connect(path)
        listener.accept()[0].close()


# By probe: what is done, the column that names the test's folder, and the columns to compare.
WORK: dict[str, tuple[Callable[[Path], None], str, tuple[str, ...]]] = {
    "open": (open_files, "path", ("path", "resolved_path", "flags", "error", "comm", "quality")),
    "chmod": (change_modes, "path", ("path", "resolved_path", "mode", "error", "comm")),
    "execve": (execute, "argv", ("filename", "argv", "cwd", "exe", "parent_comm", "error")),
    "connect": (connect, "unix_path", ("unix_path", "family", "socket_type", "error", "comm")),
    "accept": (connect, "unix_path", ("unix_path", "family", "socket_type", "error", "comm")),
}


def record(probe: str, settings: LoadSettings, folder: Path) -> list[dict[str, Any]]:
    """Records a probe's work in a folder; returns its rows with the columns to compare."""
    act, place, columns = WORK[probe]
    recorded = Recording()
    recorder = Recorder(PluginManager.discover([probe]), settings, "here", recorded)
    assert attach_all(recorder, {probe: ProbeSettings()}) == {}
    recorder.start()
    try:
        act(folder)
    finally:
        recorded.counts = recorder.stop()[probe]
    recorded.assert_accounted()
    rows = sorted(recorded.table.to_pylist(), key=lambda row: row["time"])
    return [
        {column: row[column] for column in columns}
        for row in rows
        if os.fsencode(folder) in _joined(row[place])
    ]


def _joined(value: bytes | list[bytes]) -> bytes:
    return value if isinstance(value, bytes) else b" ".join(value)


@pytest.mark.parametrize("probe", sorted(WORK))
def test_second_load_runs_no_compiler_and_records_the_same(probe: str, tmp_path: Path) -> None:
    """The compiler fails at the second load, which still records the same known work."""
    compiler = BreakableCompiler(tmp_path)
    cache = ProgramCache(tmp_path / "cache")
    settings = LoadSettings(python=compiler.python, cache=cache)
    folder = tmp_path / "work"
    folder.mkdir()
    first = record(probe, settings, folder)
    compiler.break_down()
    second = record(probe, settings, folder)
    assert len(first) > 0
    assert second == first


def test_agent_starts_a_second_time_without_its_compiler(tmp_path: Path) -> None:
    """The probe, the tracker and the dispatcher come from the folder that the settings name."""
    compiler = BreakableCompiler(tmp_path)
    file = tmp_path / "agent.toml"
    file.write_text(
        f'probes = ["execve"]\nloader_python = "{compiler.python}"\n'
        f'program_cache = "{tmp_path / "cache"}"\n'
    )
    with running_system(tmp_path) as system:
        system.start_server()
        agent = system.start_agent("--config", str(file))
        assert agent.stop() == 0
        compiler.break_down()
        agent = system.start_agent("--config", str(file))
        execute(tmp_path)
        assert agent.stop() == 0
        assert len(system.rows(str(tmp_path))) == 1


def test_attached_probe_is_read_while_another_is_compiled(tmp_path: Path) -> None:
    """The compiler waits with `open`: executions are already read from the other probe's blocks."""
    compiler = BreakableCompiler(tmp_path)
    status = f"127.0.0.1:{free_port()}"
    command: list[str | Path] = [BIN / "infrasight", "agent", "--server", "unix:/nowhere"]
    command += [
        "--status-listen",
        status,
        "--program-cache",
        tmp_path / "cache",
        "--probe",
        "execve",
    ]
    environment = {"INFRASIGHT_AGENT_LOADER_PYTHON": str(compiler.python)}
    first = Process(command, tmp_path / "first.log", status, environment)
    until(lambda: '"recording"' in first.log(), "execve is compiled")
    assert first.stop() == 0
    compiler.hold()
    agent = Process([*command, "--probe", "open"], tmp_path / "agent.log", status, environment)
    try:
        until(lambda: '"probe attached"' in agent.log(), "execve is attached")
        execute(tmp_path)
        read = 'infrasight_events_read_total{probe="execve"}'
        until(lambda: agent.metric(read) > 0, "the execution is read")
        assert '"recording"' not in agent.log()
        compiler.release()
        until(lambda: '"recording"' in agent.log(), "open is compiled")
    finally:
        compiler.release()
        agent.kill()


def test_trace_starts_a_second_time_without_its_compiler(tmp_path: Path) -> None:
    """`infrasight trace` takes the probe from the folder of its option."""
    compiler = BreakableCompiler(tmp_path)
    command: list[str | Path] = [BIN / "infrasight", "trace", "execve", "--format=json"]
    command += ["--loader-python", compiler.python, "--program-cache", tmp_path / "cache"]
    for _ in range(2):
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as trace:
            assert trace.stderr is not None
            lines = iter(trace.stderr.readline, "")
            assert any("recording execve" in line for line in lines)
            trace.terminate()
        compiler.break_down()
