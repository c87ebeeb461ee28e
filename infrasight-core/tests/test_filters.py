"""Filters in the running kernel: which events are recorded, and that each is counted once."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import infrasight_probe_sample.plugin as sample
import pytest
from attrs import evolve
from infrasight_core import BpfProgram, ConfigError
from infrasight_core.errors import PluginError
from infrasight_core.kernel.filters import PREFIXES, VALUES, Filters
from infrasight_core.kernel.loader import LoadSettings, load, running_kernel
from infrasight_recording import Recording, recording
from infrasight_testbed.cgroups import cgroup_id_of

NOBODY_ID = 65534
MARK = f"/mark-{os.getpid()}-"  # other tests open files beside these
OPEN = """import os, sys
for path in sys.argv[1:]:
    try:
        os.close(os.open(path, os.O_RDONLY))
    except OSError:
        pass
"""


def open_all(*paths: str, user: int = 0) -> int:
    """Opens the paths in another process; returns its pid."""
    process = subprocess.Popen(["/usr/bin/python3", "-S", "-E", "-c", OPEN, *paths], user=user)
    assert process.wait() == 0
    return process.pid


def marks(kept: Recording) -> list[str]:
    """The recorded paths that begin with the mark, in order of time."""
    rows = kept.table.select(["time", "path"]).to_pylist() if kept.deliveries else []
    return [
        row["path"].decode()
        for row in sorted(rows, key=lambda row: row["time"])
        if row["path"].startswith(MARK.encode())
    ]


def assert_accounted(kept: Recording) -> None:
    """Each event is filtered, written or dropped; all that was written was delivered."""
    counts = kept.counts
    assert counts.seen == counts.filtered + counts.submitted + counts.block_full + counts.heap_full
    delivered = sum(delivery.batch.num_rows for delivery in kept.deliveries)
    assert counts.read == counts.submitted == delivered


def own_cgroup() -> int:
    """The id of this process's cgroup, v2 or else v1."""
    return cgroup_id_of("self")


@pytest.mark.parametrize(
    ("filters", "wanted"),
    [
        (lambda: Filters(include_uid=(NOBODY_ID,)), [f"{MARK}nobody"]),
        (lambda: Filters(exclude_uid=(NOBODY_ID,)), [f"{MARK}root"]),
        (lambda: Filters(include_uid=(0, NOBODY_ID)), [f"{MARK}root", f"{MARK}nobody"]),
        (lambda: Filters(include_uid=(0, NOBODY_ID), exclude_uid=(0,)), [f"{MARK}nobody"]),
        (lambda: Filters(include_comm=("python3",)), [f"{MARK}root", f"{MARK}nobody"]),
        (lambda: Filters(include_comm=("python",)), []),
        (lambda: Filters(exclude_comm=("python3",)), []),
        (lambda: Filters(include_cgroup=(own_cgroup(),)), [f"{MARK}root", f"{MARK}nobody"]),
        (lambda: Filters(exclude_cgroup=(own_cgroup(),)), []),
        (lambda: Filters(exclude_cgroup=(1 << 40,)), [f"{MARK}root", f"{MARK}nobody"]),
        (lambda: Filters(include_path=(f"{MARK}n",)), [f"{MARK}nobody"]),
        (lambda: Filters(exclude_path=(f"{MARK}n",)), [f"{MARK}root"]),
        (
            lambda: Filters(include_comm=("python3",), include_uid=(0,), exclude_path=("/usr/",)),
            [f"{MARK}root"],
        ),
    ],
)
def test_filter_records_exactly_the_events_that_match(
    filters: Callable[[], Filters], wanted: list[str]
) -> None:
    """Each kind of filter, including and excluding, alone and combined, on a known workload."""
    with recording("sample", sample, filters=filters()) as kept:
        open_all(f"{MARK}root")
        open_all(f"{MARK}nobody", user=NOBODY_ID)
    assert marks(kept) == wanted
    assert_accounted(kept)


@pytest.mark.parametrize("which", ["include", "exclude"])
def test_filter_by_pid_selects_one_process(which: str) -> None:
    """include_pid and exclude_pid, with another process that does the same."""
    command = ["/usr/bin/python3", "-S", "-E", "-c", "input()\n" + OPEN]
    this = subprocess.Popen([*command, f"{MARK}this"], stdin=subprocess.PIPE)
    that = subprocess.Popen([*command, f"{MARK}that"], stdin=subprocess.PIPE)
    pids = (this.pid,)
    filters = Filters(include_pid=pids) if which == "include" else Filters(exclude_pid=pids)
    with recording("sample", sample, filters=filters) as kept:
        for process in (this, that):
            process.communicate(b"\n")
    assert marks(kept) == [f"{MARK}this" if which == "include" else f"{MARK}that"]
    assert (this.pid in kept.table["pid"].to_pylist()) == (which == "include")
    assert_accounted(kept)


def test_nested_prefixes_apply_include_and_exclude() -> None:
    """Prefixes of each other, one of 255 bytes: an include never overrules an exclude."""
    longest = MARK.ljust(255, "x")
    paths = [
        f"{MARK}a/1",
        f"{MARK}a/b/2",
        f"{MARK}a/b/c/3",
        f"{MARK}ab",
        f"{MARK}z",
        longest,
        longest + "y",
        longest[:-1],
    ]
    filters = Filters(
        include_path=(f"{MARK}a/", f"{MARK}a/b/c/", longest), exclude_path=(f"{MARK}a/b/", "/proc/")
    )
    with recording("sample", sample, filters=filters) as kept:
        open_all(*paths)
    assert marks(kept) == [f"{MARK}a/1", longest, longest + "y"]
    assert_accounted(kept)


def test_event_without_a_path_passes_a_filter_by_path() -> None:
    """A path that cannot be read might match an include, so the event is recorded and flagged."""
    code = "import ctypes\nctypes.CDLL(None).openat(-100, ctypes.c_void_p(8), 0)"
    with recording("sample", sample, filters=Filters(include_path=(MARK,))) as kept:
        process = subprocess.Popen(["/usr/bin/python3", "-S", "-E", "-c", code])
        assert process.wait() == 0
    (row,) = kept.rows_of(process.pid)
    assert row["path"] == b""
    assert "path_missing" in row["quality"]
    assert_accounted(kept)


@pytest.mark.alone
def test_filter_changes_under_a_storm_account_for_every_event(tmp_path: Path) -> None:
    """Filters change under a storm: each event that all of them admit is a row or dropped."""
    storm = tmp_path / "open_storm"
    source = Path(__file__).parents[2] / "tests/support/workloads/open_storm.c"
    subprocess.run(["cc", "-O2", "-Wno-unused-result", "-o", storm, source], check=True)
    other = tmp_path / "other_storm"
    shutil.copy(storm, other)
    count = 300_000
    with recording("sample", sample, filters=Filters(exclude_comm=("other_storm",))) as kept:
        kept_storm, half_storm = (
            subprocess.Popen([s, str(count)], stdout=subprocess.DEVNULL) for s in (storm, other)
        )
        changes = 0
        while kept_storm.poll() is None or half_storm.poll() is None:
            names = tuple(f"n{number}" for number in range(changes % 7))
            out = ("other_storm", *names) if changes % 2 else names
            kept.recorder.filter(
                "sample",
                Filters(exclude_comm=out, include_uid=(0,), exclude_path=("/proc/", "/storm/x")),
            )
            changes += 1
    assert changes >= 10
    assert_accounted(kept)
    pids = kept.table["pid"].to_pylist()
    prefix = f"/storm/{kept_storm.pid}-".encode()
    admitted = [path for path in kept.table["path"].to_pylist() if path.startswith(prefix)]
    assert len(set(admitted)) == len(admitted) <= count
    assert len(admitted) + kept.counts.dropped >= count
    assert 0 < pids.count(half_storm.pid) < count


def test_agent_does_not_record_itself(tmp_path: Path) -> None:
    """`infrasight trace` of every open shows those of others, and not its own or its compiler's."""
    command = [str(Path(sys.executable).with_name("infrasight")), "trace", "sample", "execve"]
    command += ["--program-cache", ""]  # so that it starts a compiler for each
    entry = tmp_path / "sample-0.dist-info"
    entry.mkdir()
    (entry / "METADATA").write_text("Metadata-Version: 2.1\nName: sample\nVersion: 0\n")
    (entry / "entry_points.txt").write_text(
        "[infrasight]\nsample = infrasight_probe_sample.plugin\n"
    )
    support = Path(sample.__file__).parents[1]
    environment = {
        **os.environ,
        "PYTHONPATH": f"{tmp_path}:{support}:{os.environ.get('PYTHONPATH', '')}",
    }
    with recording("sample", sample) as seen, (tmp_path / "out").open("w") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.PIPE, text=True, env=environment
        )
        assert process.stderr is not None
        while not (line := process.stderr.readline()).startswith("recording execve, sample"):
            assert line, "it ended before it recorded"
        marked = open_all(f"{MARK}other")
        process.terminate()
        process.communicate(timeout=30)
    rows = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    agents = {process.pid}
    parents = dict(zip(seen.table["pid"].to_pylist(), seen.table["ppid"].to_pylist(), strict=True))
    while children := {pid for pid, parent in parents.items() if parent in agents} - agents:
        agents |= children
    assert len(agents) >= 3  # its own and two compilers
    assert process.pid in parents
    assert {row["pid"] for row in rows if row.get("path") == f"{MARK}other"} == {marked}
    assert not agents & {row["pid"] for row in rows}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"include_pid": (0,)}, "'include_pid' 0 is not a number from 1 to"),
        ({"exclude_uid": (1 << 32,)}, "'exclude_uid' 4294967296 is not"),
        (
            {"include_comm": ("a-name-of-16-byt",)},
            "'include_comm' .* is not a name of 1 to 15 bytes",
        ),
        (
            {"include_path": ("etc",)},
            "'include_path' 'etc' is not the beginning of an absolute path",
        ),
        ({"exclude_path": ("/" + "x" * 255,)}, "1 to 255 bytes"),
        ({"include_pid": tuple(range(1, VALUES + 2))}, f"at most {PREFIXES} and {VALUES}"),
    ],
)
def test_invalid_filter_is_rejected_by_name(
    settings: dict[str, tuple[int, ...]], message: str
) -> None:
    """Values out of range, too long or too many: the error names the setting."""
    with pytest.raises(ValueError, match=message):
        Filters(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    ["", "uid", "uid=", "gid=1", "uid=x", "uid=-1", "cgroup=abc", "path=etc/", "comm=" + "x" * 16],
)
def test_invalid_filter_option_names_the_allowed_ones(text: str) -> None:
    """--include with a mistake: the error has the text and what is allowed."""
    with pytest.raises(ConfigError, match=r"--include .*path=/PREFIX") as caught:
        Filters.parse([text], [])
    assert "int()" not in str(caught.value)


def test_probe_without_a_path_rejects_a_filter_by_path(tmp_path: Path) -> None:
    """Without FILTER_PATH in the C, a filter by path is an error; other filters work."""
    source = tmp_path / "pathless.bpf.c"
    program: BpfProgram = sample.load_bpf(running_kernel(), {})
    source.write_text(program.source.read_text().replace("#define FILTER_PATH path\n", ""))
    pathless = evolve(program, source=source)
    with pytest.raises(PluginError, match="include_path, exclude_path: its events have no path"):
        load(
            "sample", pathless, running_kernel(), LoadSettings(), Filters(exclude_path=("/proc/",))
        )
    by_user = Filters(exclude_uid=(1,))
    load("sample", pathless, running_kernel(), LoadSettings(), by_user).close()
