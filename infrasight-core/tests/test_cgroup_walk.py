"""The walk of cgroups on hosts with v1, v2 or both, through the mounts that a process sees."""

import json
import os
import subprocess
import sys

import pytest
from infrasight_core.containers.cgroup_walk import (
    UNKNOWN_USER,
    CgroupMount,
    parse_mounts,
    visible_mounts,
    walk_cgroups,
)
from infrasight_core.kernel.cgroups import ROOT, V1, V1Hierarchy, running_v1_hierarchy
from infrasight_testbed.cgroups import cgroup_id_of, mount_of, temporary_cgroup

MEMORY = V1Hierarchy(4, "memory")
V2_ONLY = (
    "30 24 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 "
    "- cgroup2 cgroup2 rw,nsdelegate\n"
)
V1_ONLY = (
    "31 24 0:27 / /sys/fs/cgroup ro,nosuid,nodev,noexec shared:9 - tmpfs tmpfs ro,mode=755\n"
    "32 31 0:28 / /sys/fs/cgroup/systemd rw,relatime shared:10 "
    "- cgroup cgroup rw,xattr,name=systemd\n"
    "36 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:15 - cgroup cgroup rw,memory\n"
    "37 31 0:33 / /sys/fs/cgroup/pids rw,relatime shared:16 - cgroup cgroup rw,pids\n"
)
CONTAINER = "c0ffee" + 58 * "1"
PARENT = f"/infrasight-walk-{os.getpid()}/docker"
# Runs in its own mount namespace and prints the cgroups that it finds.
WALK_SCRIPT = """
import json, sys
from infrasight_core.containers.cgroup_walk import visible_mounts, walk_cgroups
from infrasight_core.kernel.cgroups import running_v1_hierarchy
mounts = visible_mounts(running_v1_hierarchy())
print(json.dumps([(mount.mount_point, list(walk_cgroups(mount))) for mount in mounts]))
"""


@pytest.mark.parametrize(
    ("mountinfo", "v1", "expected"),
    [
        (V2_ONLY, None, [CgroupMount("/sys/fs/cgroup", "/", 0)]),
        (V2_ONLY, MEMORY, [CgroupMount("/sys/fs/cgroup", "/", 0)]),
        (V1_ONLY, MEMORY, [CgroupMount("/sys/fs/cgroup/memory", "/", V1)]),
        (V1_ONLY, V1Hierarchy(9, "pids"), [CgroupMount("/sys/fs/cgroup/pids", "/", V1)]),
        (
            V1_ONLY + "40 31 0:40 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
            MEMORY,
            [
                CgroupMount("/sys/fs/cgroup/memory", "/", V1),
                CgroupMount("/sys/fs/cgroup/unified", "/", 0),
            ],
        ),
        (
            r"40 31 0:40 /a\040b /mnt/x\134y rw - cgroup2 none rw" + "\n",
            None,
            [CgroupMount("/mnt/x\\y", "/a b", 0)],
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
def test_mounts_are_parsed_in_each_layout(
    mountinfo: str, v1: V1Hierarchy | None, expected: list[CgroupMount]
) -> None:
    """The text of a mountinfo gives the mounts; a mount that another one covers is left out."""
    assert parse_mounts(mountinfo, v1) == expected


@pytest.mark.parametrize("id_flag", [0, V1], ids=["v2", "v1"])
def test_walk_yields_the_ids_that_events_carry(id_flag: int) -> None:
    """Three levels of a hierarchy come with id and path; the root is left out."""
    with temporary_cgroup(id_flag, f"{PARENT}/{CONTAINER}/below") as folder:
        ids = {path: cgroup_id for cgroup_id, path, _ in walk_cgroups(mount_of(id_flag))}
        inodes = [each.stat().st_ino for each in (folder.parent.parent, folder.parent, folder)]
    paths = [PARENT, f"{PARENT}/{CONTAINER}", f"{PARENT}/{CONTAINER}/below"]
    assert [ids[path] for path in paths] == [id_flag | inode for inode in inodes]
    assert ROOT not in ids.values()
    assert id_flag | ROOT not in ids.values()


def test_walk_of_a_part_of_a_hierarchy_yields_full_paths() -> None:
    """A mount of one cgroup, as in a container, gives paths from the root of the hierarchy."""
    with temporary_cgroup(0, f"{PARENT}/{CONTAINER}/below") as folder:
        part = CgroupMount(str(folder.parent), f"{PARENT}/{CONTAINER}", 0)
        paths = sorted(cgroup.path for cgroup in walk_cgroups(part))
    assert paths == [f"{PARENT}/{CONTAINER}", f"{PARENT}/{CONTAINER}/below"]


def walk_with(*mount: str) -> dict[str, list[tuple[int, str]]]:
    """Walks in a process that sees no cgroup file system except one, mounted with these arguments.

    Returns:
        Cgroup ids and paths by mount point.
    """
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
        env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "SCRIPT": WALK_SCRIPT},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return {
        folder: [(cgroup_id, path) for cgroup_id, path, _ in cgroups]
        for folder, cgroups in json.loads(done.stdout)
    }


def test_walk_on_a_host_with_v2_only() -> None:
    """With v2 at /sys/fs/cgroup as the only mount, the walk finds its cgroups."""
    with temporary_cgroup(0, f"{PARENT}/{CONTAINER}") as folder:
        seen = walk_with("-t", "cgroup2", "none", "/sys/fs/cgroup")
        assert (folder.stat().st_ino, f"{PARENT}/{CONTAINER}") in seen["/sys/fs/cgroup"]
    assert len(seen) == 1


def test_walk_on_a_host_with_v1_only() -> None:
    """With one v1 hierarchy as the only mount, the walk finds its cgroups."""
    v1 = running_v1_hierarchy()
    if v1 is None:
        pytest.skip("no v1 hierarchy has a controller here")
    with temporary_cgroup(V1, f"{PARENT}/{CONTAINER}") as folder:
        seen = walk_with(
            "-t", "cgroup", "-o", v1.controller, "none", f"/sys/fs/cgroup/{v1.controller}"
        )
        assert (V1 | folder.stat().st_ino, f"{PARENT}/{CONTAINER}") in seen[
            f"/sys/fs/cgroup/{v1.controller}"
        ]
    assert len(seen) == 1


def test_walk_on_a_host_without_cgroups() -> None:
    """Without a cgroup file system the walk finds nothing and does not fail."""
    assert walk_with("-t", "tmpfs", "none", "/sys/fs/cgroup/nothing") == {}


def test_walk_on_this_machine_finds_the_cgroup_of_this_process() -> None:
    """The mounts of this machine give the cgroup id that events of this process carry."""
    ids = {
        cgroup_id
        for mount in visible_mounts(running_v1_hierarchy())
        for cgroup_id, _, _ in walk_cgroups(mount)
    }
    assert cgroup_id_of("self") in ids | {ROOT}


@pytest.mark.parametrize("id_flag", [0, V1], ids=["v2", "v1"])
def test_walk_tells_who_may_have_created_a_cgroup(id_flag: int) -> None:
    """Below a cgroup that a user owns, or that others may write to, root is not the maker."""
    with (
        temporary_cgroup(id_flag, f"{PARENT}/one/two") as two,
        temporary_cgroup(id_flag, f"{PARENT}/shared/three") as three,
    ):
        os.chown(two.parent, 65534, 65534)
        three.parent.chmod(0o777)
        makers = {cgroup.path: cgroup.maker for cgroup in walk_cgroups(mount_of(id_flag))}
    assert makers[PARENT] == makers[f"{PARENT}/one"] == makers[f"{PARENT}/shared"] == 0
    assert makers[f"{PARENT}/one/two"] == 65534
    assert makers[f"{PARENT}/shared/three"] == UNKNOWN_USER
