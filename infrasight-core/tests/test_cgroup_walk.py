"""The walk of the cgroups that are there: hybrid, v1 only and v2 only, in the mounts that a process sees."""

import json
import os
import subprocess
import sys

import pytest
from infrasight_core.containers.cgroup_walk import Mount, mounts, running_mounts, walk
from infrasight_core.kernel.cgroups import ROOT, V1, V1Hierarchy, running_v1_hierarchy
from infrasight_testbed.cgroups import made, mount_of

MEMORY = V1Hierarchy(4, "memory")
V2_ONLY = "30 24 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1_ONLY = (
    "31 24 0:27 / /sys/fs/cgroup ro,nosuid,nodev,noexec shared:9 - tmpfs tmpfs ro,mode=755\n"
    "32 31 0:28 / /sys/fs/cgroup/systemd rw,relatime shared:10 - cgroup cgroup rw,xattr,name=systemd\n"
    "36 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:15 - cgroup cgroup rw,memory\n"
    "37 31 0:33 / /sys/fs/cgroup/pids rw,relatime shared:16 - cgroup cgroup rw,pids\n"
)
CONTAINER = "c0ffee" + 58 * "1"
PARENT = f"/infrasight-walk-{os.getpid()}/docker"
# In a mount namespace of its own: covers what is mounted with an empty file system, mounts what it is told, walks.
SEEN_THERE = """
import json, sys
from infrasight_core.containers.cgroup_walk import running_mounts, walk
from infrasight_core.kernel.cgroups import running_v1_hierarchy
print(json.dumps([(m.folder, list(walk(m))) for m in running_mounts(running_v1_hierarchy())]))
"""


@pytest.mark.parametrize(
    ("mountinfo", "v1", "found"),
    [
        (V2_ONLY, None, [Mount("/sys/fs/cgroup", "/", 0)]),
        (V2_ONLY, MEMORY, [Mount("/sys/fs/cgroup", "/", 0)]),
        (V1_ONLY, MEMORY, [Mount("/sys/fs/cgroup/memory", "/", V1)]),
        (V1_ONLY, V1Hierarchy(9, "pids"), [Mount("/sys/fs/cgroup/pids", "/", V1)]),
        (
            V1_ONLY + "40 31 0:40 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
            MEMORY,
            [Mount("/sys/fs/cgroup/memory", "/", V1), Mount("/sys/fs/cgroup/unified", "/", 0)],
        ),
        (
            r"40 31 0:40 /a\040b /mnt/x\134y rw - cgroup2 none rw" + "\n",
            None,
            [Mount("/mnt/x\\y", "/a b", 0)],
        ),
        (V2_ONLY + "41 30 0:41 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n", None, []),
    ],
    ids=[
        "v2",
        "v2 beside a v1 that is not mounted",
        "v1",
        "v1 by pids",
        "hybrid",
        "escapes",
        "covered",
    ],
)
def test_mounts_are_found_in_each_layout(
    mountinfo: str, v1: V1Hierarchy | None, found: list[Mount]
) -> None:
    """From the text of a mountinfo; a mount that lies under another one is not seen."""
    assert mounts(mountinfo, v1) == found


@pytest.mark.parametrize("mark", [0, V1], ids=["v2", "v1"])
def test_every_cgroup_is_found_with_the_number_that_events_have(mark: int) -> None:
    """Three levels of a hierarchy: number and path of each, the root not among them."""
    with made(mark, f"{PARENT}/{CONTAINER}/below") as folder:
        found = {path: key for key, path in walk(mount_of(mark))}
        inodes = [each.stat().st_ino for each in (folder.parent.parent, folder.parent, folder)]
    paths = [PARENT, f"{PARENT}/{CONTAINER}", f"{PARENT}/{CONTAINER}/below"]
    assert [found[path] for path in paths] == [mark | inode for inode in inodes]
    assert ROOT not in found.values()
    assert mark | ROOT not in found.values()


def test_a_part_of_a_hierarchy_has_its_whole_paths() -> None:
    """A mount that shows one cgroup and those below, as in a container: the paths are those from the hierarchy's root."""
    with made(0, f"{PARENT}/{CONTAINER}/below") as folder:
        part = Mount(str(folder.parent), f"{PARENT}/{CONTAINER}", 0)
        found = sorted(path for _, path in walk(part))
    assert found == [f"{PARENT}/{CONTAINER}", f"{PARENT}/{CONTAINER}/below"]


def seen_with(*mount: str) -> dict[str, list[tuple[int, str]]]:
    """What a process finds that sees no other cgroup file system than the one that is mounted so."""
    covered = "mount -t tmpfs none /sys/fs/cgroup"
    script = f'{covered} && mkdir -p "$1" && mount "${{@:2}}" "$1" && exec "$0" -c "$SCRIPT"'
    command = [
        "unshare",
        "-m",
        "--propagation",
        "private",
        "bash",
        "-c",
        script,
        sys.executable,
        mount[-1],
        *mount[:-1],
    ]
    done = subprocess.run(
        command,
        env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "SCRIPT": SEEN_THERE},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return {
        folder: [(key, path) for key, path in found] for folder, found in json.loads(done.stdout)
    }


def test_a_host_with_v2_only() -> None:
    """Only the v2 hierarchy is mounted, at /sys/fs/cgroup."""
    with made(0, f"{PARENT}/{CONTAINER}") as folder:
        seen = seen_with("-t", "cgroup2", "none", "/sys/fs/cgroup")
        assert (folder.stat().st_ino, f"{PARENT}/{CONTAINER}") in seen["/sys/fs/cgroup"]
    assert len(seen) == 1


def test_a_host_with_v1_only() -> None:
    """Only v1's memory is mounted."""
    v1 = running_v1_hierarchy()
    if v1 is None:
        pytest.skip("no v1 hierarchy has a controller here")
    with made(V1, f"{PARENT}/{CONTAINER}") as folder:
        seen = seen_with(
            "-t", "cgroup", "-o", v1.controller, "none", f"/sys/fs/cgroup/{v1.controller}"
        )
        assert (V1 | folder.stat().st_ino, f"{PARENT}/{CONTAINER}") in seen[
            f"/sys/fs/cgroup/{v1.controller}"
        ]
    assert len(seen) == 1


def test_a_host_without_any() -> None:
    """No cgroup file system: nothing is found, and nothing fails."""
    assert seen_with("-t", "tmpfs", "none", "/sys/fs/cgroup/nothing") == {}


def test_this_machine() -> None:
    """Every cgroup of a process that runs here is found."""
    assert {mount.mark for mount in running_mounts(running_v1_hierarchy())} <= {0, V1}
    assert running_mounts(running_v1_hierarchy())
