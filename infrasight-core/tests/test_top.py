"""`infrasight top`: the run statistics of BPF programs."""

import json
import os
import pty
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import infrasight_probe_open.plugin
import infrasight_probe_sample.plugin
import pytest
from infrasight_core.cli.program_owners import SHARED, ProgramOwners
from infrasight_core.kernel.program_list import counting_runs, list_programs
from infrasight_recording import recording
from infrasight_testbed.command import COMMAND, environment, on_terminal, restore_interrupt, run

CALLS = 1000


def open_nothing(calls: int = CALLS) -> None:
    """Makes calls of open that fail."""
    for _ in range(calls):
        with suppress(OSError):
            os.open("/dev/null/top", os.O_RDONLY)


@contextmanager
def opening() -> Iterator[None]:
    """Makes such calls for as long as the context lasts."""
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            open_nothing(100)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.fixture
def recorded() -> Iterator[None]:
    """This process records opened files."""
    with recording("open", infrasight_probe_open.plugin):
        yield


def own_runs() -> int:
    """The runs so far of the programs that this process holds."""
    programs = list_programs()
    owners = ProgramOwners().of(programs)
    return sum(
        program.runs
        for program in programs
        if owners[program.number].plugin in ("open", SHARED)
        and owners[program.number].pid == os.getpid()
    )


@pytest.mark.usefixtures("recorded")
def test_runs_are_counted_while_they_are_asked_for() -> None:
    """A thousand opens are at least a thousand runs of the programs of `open`."""
    with counting_runs():
        before = own_runs()
        open_nothing()
        assert own_runs() - before >= CALLS


@pytest.mark.usefixtures("recorded")
def test_programs_belong_to_their_probe() -> None:
    """Each program of `open` is attributed to it by its full name; one of another probe is not.

    Their names in the kernel are cut, and two probes have functions of the same name.
    """
    with recording("sample", infrasight_probe_sample.plugin):
        owners = ProgramOwners().of(list_programs()).values()
    own = [owner for owner in owners if owner.pid == os.getpid()]
    functions = {owner.function for owner in own if owner.plugin == "open"}
    assert {"enter_openat", "enter_openat2", "enter_creat", "exit_open"} <= functions
    assert "exit_openat" not in functions


@pytest.mark.usefixtures("recorded")
def test_top_prints_what_ran() -> None:
    """In a pipe: one JSON object for each program, with runs, ns per run and this process."""
    with opening():
        done = run("top", "--programs", "--interval", "0.5")
    rows = [row for row in map(json.loads, done.stdout.splitlines()) if row["pid"] == os.getpid()]
    assert (done.returncode, done.stderr) == (0, "")
    assert {row["probe"] for row in rows} >= {"open"}
    busy = [row for row in rows if row["runs"]]
    assert busy
    assert all(row["ns_per_run"] > 0 and row["cpu_percent"] > 0 for row in busy)


@pytest.mark.usefixtures("recorded")
def test_top_once_prints_a_table_on_a_terminal() -> None:
    """With `--once`, a terminal gets one table; `--all` adds the programs of other tools."""
    table = on_terminal("top", "--once", "--all", "--interval", "0.1", width=120)
    assert table.splitlines()[0].split() == ["PROBE", "PROGRAM", "RUNS/S", "NS/RUN", "CPU", "PID"]
    assert any(line.startswith("open ") for line in table.splitlines())


@pytest.mark.usefixtures("recorded")
def test_top_renews_its_table_until_ctrl_c() -> None:
    """On a terminal, tables follow one another; Ctrl-C ends with status 0."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, "top", "--interval", "0.1"],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        env=environment(None, TERM="xterm"),
        start_new_session=True,
        preexec_fn=restore_interrupt,
    ) as process:
        os.close(theirs)
        read_until(ours, lambda shown: shown.count(b"RUNS/S") >= 2)
        process.send_signal(signal.SIGINT)
        with suppress(OSError):  # EIO: the other end is closed
            read_until(ours, lambda shown: False)
        assert process.wait(60) == 0
    os.close(ours)


def read_until(terminal: int, is_enough: Callable[[bytes], bool]) -> None:
    """Reads from a terminal until the output is enough, or ends."""
    shown = b""
    while not is_enough(shown) and (piece := os.read(terminal, 65536)):
        shown += piece


def test_only_root_may_read_programs() -> None:
    """Another user gets one line with the reason, and status 1."""
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *COMMAND, "top"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("infrasight: only root (CAP_SYS_ADMIN) may")
    assert len(done.stderr.splitlines()) == 1
