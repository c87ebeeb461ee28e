"""`infrasight loadtest`: exact accounts of a known load, alone and with an agent."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from infrasight_testbed.command import COMMAND, environment, on_terminal, restore_interrupt, run
from infrasight_testbed.system import running_system, until

# A probe whose canary does nothing, so that its events are missing.
SILENT = """
from attrs import evolve
from infrasight_core import hookimpl
import infrasight_probe_sample.plugin as sample
infrasight_api = 1
schema = sample.schema
@hookimpl
def load_bpf(kernel, options):
    return evolve(sample.load_bpf(kernel, options), canary=lambda token: None)
"""


def loadtest(*arguments: str, status: int = 0, path: str = "") -> dict[str, Any]:
    """The JSON object that the command prints; `path` is its PYTHONPATH."""
    done = run("loadtest", "--format", "json", *arguments, PYTHONPATH=path)
    assert done.returncode == status, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def silent(tmp_path: Path) -> str:
    """A folder for PYTHONPATH with the installed probe `silent`."""
    (tmp_path / "silent_plugin.py").write_text(SILENT)
    info = tmp_path / "third_party-2.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 2.5\n")
    (info / "entry_points.txt").write_text("[infrasight]\nsilent = silent_plugin\n")
    return f"{tmp_path}:{os.pathsep.join(sys.path)}"


def assert_accounted(found: dict[str, Any]) -> None:
    """Asserts that events were made, and that each was recorded or dropped."""
    assert found["made"] > 0
    assert found["recorded"] > 0
    assert found["recorded"] + sum(found["dropped"].values()) == found["made"]
    assert found["missing"] == 0


@pytest.mark.parametrize("probe", ["open", "execve", "chmod", "connect", "accept"])
def test_every_event_of_each_probe_is_accounted_for(probe: str) -> None:
    """Alone, at a rate: made = recorded + dropped, no more than the rate, and what a call pays."""
    options = ("--rate", "2000", "--seconds", "0.4", "--rounds", "1")
    found = loadtest("--alone", "--probe", probe, *options)
    assert_accounted(found)
    assert found["made"] <= 800
    assert found["call"]["unrecorded_ns"] > 0
    assert found["call"]["recorded_ns"] > 0
    assert found["cpu_us"]["reader"] > 0
    assert found["latency"]["median_ms"] > 0


def test_every_event_of_an_overload_is_accounted_for() -> None:
    """As fast as two processes can, with little memory: what is not recorded is dropped."""
    found = loadtest(
        *("--alone", "--rate", "0", "--seconds", "0.5", "--rounds", "1"),
        *("--processes", "2", "--memory", "1"),
    )
    assert_accounted(found)


def test_missing_events_are_a_failure(silent: str) -> None:
    """A probe whose canary makes no events: all are missing, and the status is 1."""
    options = ("--rate", "1000", "--seconds", "0.2", "--rounds", "1")
    found = loadtest(
        *("--alone", "--probe", "silent", *options, "--memory", "4"), status=1, path=silent
    )
    assert (found["recorded"], found["missing"]) == (0, found["made"])
    assert found["made"] > 0


def test_a_probe_without_a_canary_is_an_error(silent: str) -> None:
    """Its name and the reason are in one line."""
    (Path(silent.split(":")[0]) / "silent_plugin.py").write_text(
        "from infrasight_probe_sample.plugin import *\ninfrasight_api = 1\n"
    )
    done = run("loadtest", "--alone", "--probe", "silent", PYTHONPATH=silent)
    assert done.returncode == 1
    assert "--probe silent: it has no canary" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_table_names_every_figure() -> None:
    """On a terminal: a line for each figure."""
    options = ("--rate", "1000", "--seconds", "0.2", "--rounds", "1")
    table = on_terminal("loadtest", "--alone", *options, width=120)
    for figure in ("made", "recorded", "dropped", "missing", "latency", "recording adds"):
        assert any(line.startswith(figure) for line in table.splitlines()), table


def test_ctrl_c_leaves_no_processes_and_no_files(tmp_path: Path) -> None:
    """Ctrl-C during a round: the processes that make events end, and no temporary file remains."""
    with subprocess.Popen(
        [*COMMAND, "loadtest", "--alone", "--seconds", "600"],
        env=environment(None, TMPDIR=str(tmp_path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=restore_interrupt,
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("round 1 of 5")
        generators = [int(pid) for pid in children(process.pid)]
        assert generators
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == -signal.SIGINT
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in generators), "the processes end")
    assert list(tmp_path.iterdir()) == []


def children(pid: int) -> list[str]:
    """The processes that the first thread of a process has started."""
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_events_are_accounted_for_in_the_store(tmp_path: Path) -> None:
    """With an agent: made = rows in the store + dropped, CPU of each part, and a latency."""
    with running_system(tmp_path) as system:
        system.start_server()
        agent = system.start_agent("--probe", "open")
        options = ("--rate", "2000", "--seconds", "2", "--agent-pid", str(agent.pid))
        found = loadtest("--server", system.address, *options)
    assert_accounted(found)
    assert found["made"] <= 4000
    assert all(found["cpu_us"][part] > 0 for part in ("agent", "server", "store"))
    assert found["latency"]["events"] >= 1
    assert found["latency"]["median_ms"] > 0
    assert found["call"] is None
