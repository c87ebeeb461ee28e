"""The oracle: third-party programs, recorded by every installed probe and strace at once.

Every call that strace saw is a row, and every row is a call, in each thread's order, with the same
arguments and result.
"""

import re
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from attrs import frozen
from infrasight_testbed.comparisons import COMPARISONS
from infrasight_testbed.oracle import Oracle, Row, Verdict, compare, oracle
from infrasight_testbed.ports import free_port
from infrasight_testbed.strace import Call, Text, Traced, strace

FAST = "--seccomp-bpf"  # stops only at these calls, but miscounts when threads execute programs
CALLS = sorted(frozenset[str]().union(*(comparison.calls for comparison in COMPARISONS.values())))
SLACK = 50  # lines: strace may write the end of a call after the end of a later one
ASKING = ["getsockopt"]  # SO_ERROR: how an attempt to connect ended
DELETING = ["unlink", "unlinkat", "rename", "renameat", "renameat2"]  # no probe's; witnesses
BUILD = """
mkdir -p package/DEBIAN package/usr/share/oracle
cp -r {stdlib}/json {stdlib}/email package/usr/share/oracle
printf 'Package: oracle\\nVersion: 1\\nArchitecture: all\\n' > package/DEBIAN/control
printf 'Maintainer: o <o@o>\\nDescription: o\\n' >> package/DEBIAN/control
printf '#!/bin/sh -e\\nexit 0\\n' > package/DEBIAN/postinst
chmod 755 package/DEBIAN/postinst
dpkg-deb --root-owner-group --build package oracle.deb
dpkg-deb --extract oracle.deb unpacked
mkdir -p root/var/lib/dpkg/info root/var/lib/dpkg/updates
touch root/var/lib/dpkg/status
dpkg --root=$PWD/root --force-script-chrootless --log=/dev/null --install oracle.deb
dpkg-query --admindir=root/var/lib/dpkg --list
dpkg --root=$PWD/root --verify oracle
"""
GIT = """
export HOME=$PWD GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_NAME=o GIT_AUTHOR_EMAIL=o@o
export GIT_COMMITTER_NAME=o GIT_COMMITTER_EMAIL=o@o
git init -q tree
cp -r {stdlib}/json {stdlib}/email {stdlib}/asyncio {stdlib}/importlib {stdlib}/encodings tree
printf '#!/bin/sh\\nexit 0\\n' > tree/.git/hooks/post-commit
chmod +x tree/.git/hooks/post-commit
git -C tree add .
git -C tree commit -q -m first
git clone -q tree other
git -C other gc -q
"""
SIGNALS = """
mkfifo fifo
timeout --signal=KILL 0.2 cat fifo || true
timeout --signal=INT 0.2 cat fifo || true
bash -c 'trap : USR1; (sleep 0.2; kill -USR1 $$; sleep 0.2; echo > fifo) & read line < fifo'
timeout --signal=KILL 0.5 {python} -m compileall -q -f -j 2 copy || true
"""
SERVING = """
export HOME=$PWD GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_NAME=o GIT_AUTHOR_EMAIL=o@o
export GIT_COMMITTER_NAME=o GIT_COMMITTER_EMAIL=o@o
export no_proxy=* RES_OPTIONS='timeout:1 attempts:1'
git init -q tree
git -C tree commit -q --allow-empty -m first
{python} -m http.server --bind 127.0.0.1 {port} &
git daemon --listen=127.0.0.1 --port={other_port} --export-all --base-path=$PWD --reuseaddr $PWD &
{python} -c "from socketserver import *
UnixStreamServer('\\0{name}', StreamRequestHandler).handle_request()" &
until curl -s -o got http://127.0.0.1:{port}/; do sleep 0.1; done
curl -s -o got -o got -o got http://localhost:{port}/tree/ http://127.0.0.1:{port}/ http://127.0.0.1:{port}/missing
{python} -c "from urllib.request import urlopen; urlopen('http://127.0.0.1:{port}/').read()"
until git clone -q git://127.0.0.1:{other_port}/tree cloned; do sleep 0.1; done
git -C cloned fetch -q
for name in {name} nobody_listens; do
  curl -s -m 10 --abstract-unix-socket $name http://localhost/ || true
  curl -s -m 10 --unix-socket $PWD/$name http://localhost/ || true
done
bash -c ': > /dev/udp/127.0.0.1/9; : > /dev/udp/::1/9' || true
bash -c ': > /dev/tcp/127.0.0.1/1; : > /dev/tcp/::1/1' || true
getent hosts localhost || true
getent ahosts 127.0.0.1
kill %1 %2
wait
"""
MEETING = """
{python} -m http.server --bind 127.0.0.1 {port} &
until curl -s -o got http://127.0.0.1:{port}/; do sleep 0.1; done
curl -s --abstract-unix-socket {name} http://localhost/ || true
kill %1
wait
"""


@frozen
class Workload:
    """Third-party programs.

    Attributes:
        command: `{stdlib}` stands for a folder of many files, `{python}` for this Python, `{port}`
            and `{other_port}` for unused ports, `{name}` for an unused name.
        least: The least number of calls it makes, by probe.
        options: Further options of strace.
        flags: The flags that its rows may have in `quality`; each is compared with strace.
    """

    command: tuple[str, ...]
    least: dict[str, int]
    options: tuple[str, ...] = (FAST,)
    flags: frozenset[tuple[str, str]] = frozenset({("chmod", "old_mode_missing")})


def stressor(name: str, *options: str) -> tuple[str, ...]:
    """The command of one of stress-ng's stressors."""
    return ("stress-ng", f"--{name}", "1", *options, "--temp-path", ".")


NOBODY = (
    "setpriv",
    "--reuid",
    "65534",
    "--regid",
    "65534",
    "--clear-groups",
)  # stress-ng executes nothing as root
CUT = {("chmod", "path_cut"), ("chmod", "resolved_path_cut"), ("chmod", "old_mode_missing")}
NO_PATH = {("chmod", "resolved_path_missing")}  # fchmod of sockets
WORKLOADS = {
    "dpkg": Workload(("sh", "-exc", BUILD), {"execve": 80, "open": 1000, "chmod": 200}),
    "git": Workload(("sh", "-exc", GIT), {"execve": 15, "open": 5000, "chmod": 10}),
    "compileall": Workload(
        (sys.executable, "-m", "compileall", "-q", "-j", "2", "copy"), {"execve": 1, "open": 250}
    ),
    "signals": Workload(("sh", "-exc", SIGNALS), {"execve": 10, "open": 100}),
    "exec": Workload(
        NOBODY + stressor("exec", "--exec-ops", "20", "--exec-max", "10"), {"execve": 20}, ()
    ),
    "open": Workload(stressor("open", "--open-ops", "2000"), {"execve": 1, "open": 2000}),
    "chmod": Workload(
        stressor("chmod", "--chmod-ops", "20"), {"execve": 1, "chmod": 4000}, flags=frozenset(CUT)
    ),
    "sock": Workload(
        stressor("sock", "--sock-port", "{port}", "--sock-ops", "20"), {"connect": 20, "accept": 20}
    ),
    "sock6": Workload(
        stressor("sock", "--sock-port", "{port}", "--sock-ops", "20", "--sock-domain", "ipv6"),
        {"connect": 20, "accept": 20},
    ),
    "sockabuse": Workload(
        stressor("sockabuse", "--sockabuse-port", "{port}", "--sockabuse-ops", "20"),
        {"connect": 50, "accept": 20, "chmod": 20},
        flags=frozenset(NO_PATH),
    ),
    "sockmany": Workload(
        stressor("sockmany", "--sockmany-port", "{port}", "--sockmany-ops", "20"),
        {"connect": 20, "accept": 15},
    ),
    "epoll": Workload(
        stressor("epoll", "--epoll-port", "{port}", "--epoll-ops", "50"),
        {"connect": 20, "accept": 20},
    ),
    "epoll4": Workload(
        stressor("epoll", "--epoll-port", "{port}", "--epoll-ops", "50", "--epoll-domain", "ipv4"),
        {"connect": 20, "accept": 20},
    ),
    "serving": Workload(("bash", "-exc", SERVING), {"connect": 20, "accept": 8}),
}


@pytest.fixture(scope="module")
def recording() -> Iterator[Oracle]:
    """A recording of every installed probe, for all tests of this file."""
    with oracle() as running:
        yield running


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user may reach and use."""
    path = Path(tempfile.mkdtemp(prefix="oracle", dir="/var/tmp"))
    path.chmod(0o777)
    yield path
    shutil.rmtree(path)


def run(
    recording: Oracle, folder: Path, workload: Workload
) -> tuple[Traced, dict[str, list[Row]], Verdict]:
    """Runs a workload under the recording and under strace, and compares them."""
    stdlib = sysconfig.get_path("stdlib")
    shutil.copytree(f"{stdlib}/encodings", folder / "copy")
    recording.begin()
    ports = {"{port}": str(free_port()), "{other_port}": str(free_port())}
    replaced = {"{stdlib}": stdlib, "{python}": sys.executable, "{name}": folder.name, **ports}
    command = [re.sub(r"{\w+}", lambda word: replaced[word[0]], part) for part in workload.command]
    traced = strace(
        command, CALLS + DELETING + ASKING, folder / "strace.log", *workload.options, cwd=folder
    )
    rows = recording.rows(traced)
    return traced, rows, compare(traced, rows, COMPARISONS)


def unmatched_accepts(rows: Mapping[str, list[Row]]) -> set[tuple[bytes, int, bytes, int]]:
    """The ends of accepted connections that no recorded connect made."""
    ends = ("remote_address", "remote_port", "local_address", "local_port")
    made = {tuple(row[name] for name in ends) for row in rows["connect"]}
    came = {
        tuple(row[name] for name in ends[2:] + ends[:2])
        for row in rows["accept"]
        if row["fd"] >= 0 and row["protocol"]
    }
    return came - made


def deleted_meanwhile(traced: Traced, opened: Call) -> bool:
    """Whether another thread removed a file of that name before strace saw the call's end."""
    return any(
        other.name in DELETING
        and other.tid != opened.tid
        and other.end > opened.place
        and other.place < opened.end + SLACK
        for other in traced.calls
        if any(
            isinstance(path, Text) and path.value.endswith(opened.link.rpartition(b"/")[2])
            for path in other.arguments
        )
    )


@pytest.mark.parametrize("name", WORKLOADS)
def test_rows_are_exactly_the_calls_that_strace_saw(
    recording: Oracle, folder: Path, name: str
) -> None:
    """No row is missing, surplus, or differs from strace's path, arguments, flags or result."""
    workload = WORKLOADS[name]
    traced, rows, verdict = run(recording, folder, workload)
    print(verdict.text(), dict(verdict.flags))
    assert not verdict.faults(), f"{verdict.text()}\n{recording.recorded.drops}"
    assert not unmatched_accepts(rows)
    assert all(deleted_meanwhile(traced, call) for call in verdict.later)
    assert {call.tid for call in verdict.unended} <= traced.killed
    assert not {
        probe: least for probe, least in workload.least.items() if verdict.compared[probe] < least
    }
    assert set(verdict.flags) <= workload.flags


def test_oracle_finds_a_wrong_row(recording: Oracle, folder: Path) -> None:
    """The oracle names exactly the row that is missing, doubled, or differs in one field."""
    recording.begin()
    command = ["sh", "-c", "touch a b; chmod 600 a; chmod 640 b; cat a missing || true"]
    traced = strace(command, CALLS, folder / "strace.log", FAST, cwd=folder)
    rows = recording.rows(traced)
    untouched = compare(traced, rows, COMPARISONS)
    assert not untouched.faults(), untouched.text()
    (first, second) = rows["chmod"]
    opened = rows["open"]
    changes = {
        "missing": rows | {"chmod": [first]},
        "surplus": rows | {"chmod": [first, second, second]},
        "wrong mode": rows | {"chmod": [first | {"mode": 0o777}, second]},
        "wrong return_code": rows | {"open": [*opened[:-1], opened[-1] | {"return_code": -13}]},
        "wrong path": rows | {"open": [*opened[:-1], opened[-1] | {"path": b"other"}]},
        "wrong resolved_path": rows
        | {"open": [opened[0] | {"resolved_path": b"/other"}, *opened[1:]]},
        "wrong argv": rows
        | {"execve": [rows["execve"][0] | {"argv": [b"sh"]}, *rows["execve"][1:]]},
        "wrong quality": rows | {"open": [opened[0] | {"quality": ["path_missing"]}, *opened[1:]]},
    }
    for change, tampered in changes.items():
        verdict = compare(traced, tampered, COMPARISONS)
        kind, _, field = change.partition(" ")
        assert verdict.faults() == {kind}, change
        assert {wrong[1] for wrong in verdict.wrong} == ({field} if field else set())


def test_oracle_finds_a_wrong_row_of_a_socket(recording: Oracle, folder: Path) -> None:
    """The oracle names exactly a wrong field of a socket's row, or a wrong outcome."""
    traced, rows, untouched = run(recording, folder, Workload(("bash", "-exc", MEETING), {}))
    assert not untouched.faults(), untouched.text()
    assert not unmatched_accepts(rows)
    connects = rows["connect"]
    accepts = rows["accept"]
    tcp = next(row for row in connects if row["protocol"] and row["stage"] == b"call")
    unix = next(row for row in connects if row["unix_path"].startswith(b"\0"))
    outcome = next(row for row in connects if row["stage"] == b"outcome")
    came = next(row for row in accepts if row["fd"] >= 0)
    changes: list[tuple[Row, Row]] = [
        (tcp, {"remote_port": 1}),
        (tcp, {"remote_address": bytes(16)}),
        (tcp, {"family": 10}),
        (tcp, {"return_code": 0}),
        (tcp, {"fd": 77}),
        (tcp, {"quality": ["outcome_missing"]}),
        (unix, {"unix_path": b"other"}),
        (unix, {"in_progress": True, "quality": ["outcome_missing"]}),
        (unix, {"connection_id": 7}),
        (outcome, {"return_code": -13}),
        (outcome, {"remote_port": 1}),
        (came, {"flags": 0o4000}),
        (came, {"remote_port": 1}),
        (came, {"local_address": bytes(16)}),
        (came, {"local_port": 1}),
        (came, {"listen_fd": 77}),
        (came, {"fd": 77}),
    ]
    for row, changed in changes:
        tampered = {
            probe: [had | changed if had is row else had for had in rows[probe]] for probe in rows
        }
        verdict = compare(traced, tampered, COMPARISONS)
        named = {wrong[1] for wrong in verdict.wrong}
        assert named == set(changed), changed
        assert verdict.faults() == (
            {"wrong", "surplus"} if changed.get("quality") and row is tcp else {"wrong"}
        ), changed
    left = [row for row in connects if row is not outcome]
    twice = [*connects, outcome]
    assert compare(traced, rows | {"connect": left}, COMPARISONS).faults() == {"awaited"}
    assert compare(traced, rows | {"connect": twice}, COMPARISONS).faults() == {"surplus"}
    assert unmatched_accepts(rows | {"connect": [row | {"local_port": 1} for row in connects]})


def test_every_probe_has_its_comparison(recording: Oracle) -> None:
    """Every installed probe has a Comparison."""
    assert set(recording.recorder.probes()) == set(COMPARISONS)
