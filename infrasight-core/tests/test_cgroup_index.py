"""The index of cgroups: it holds removed cgroups, is bounded, and walks for an unknown cgroup."""

import pytest
from infrasight_core.containers.cgroup_index import EVICTED, CgroupIndex
from infrasight_core.kernel.cgroups import ROOT, V1, V1Hierarchy, v1_hierarchy

HYBRID = "9:name=systemd:/\n8:pids:/\n4:memory:/a:b\n2:cpuacct:/\n0::/x\n"


def container(number: int) -> str:
    """Returns a container id."""
    return f"{number:064x}"


def path(number: int) -> str:
    """Returns the path of a container's cgroup."""
    return f"/docker/{container(number)}"


def evicted(state: str) -> float:
    """Returns how many cgroups were evicted, by the metric."""
    return float(EVICTED.labels(state)._value.get())


def test_index_knows_a_removed_cgroup() -> None:
    """A removed cgroup keeps its container; one that was never added gets it from its removal."""
    index = CgroupIndex(list)
    index.add(2, path(2))
    index.mark_removed(2, path(2))
    index.mark_removed(3, path(3))
    index.add(4, "/system.slice/cron.service")
    assert index.containers_of([2, 3, 4, ROOT]) == [container(2), container(3), "", ""]


def test_index_follows_a_renamed_cgroup() -> None:
    """After a rename the cgroup belongs to the container of its new path."""
    index = CgroupIndex(list)
    index.add(2, path(2))
    index.add(2, path(3))
    assert index.containers_of([2]) == [container(3)]


def test_full_index_evicts_removed_cgroups_first() -> None:
    """With ten places, removed cgroups go first, least recently used first; all are counted."""
    index = CgroupIndex(list, 10)
    removed_before = evicted("removed")
    present_before = evicted("present")
    for number in range(2, 7):
        index.add(number, path(number))
    for number in range(100, 200):
        index.add(number, path(number))
        index.mark_removed(number, path(number))
        assert index.containers_of([100]) == [container(100)]
        assert len(index) <= 10
    assert index.containers_of([*range(2, 7), 195, 196, 199, 100]) == [
        *(container(number) for number in range(2, 7)),
        None,
        *(container(number) for number in (196, 199, 100)),
    ]
    assert evicted("removed") - removed_before == 95
    for number in range(300, 320):
        index.add(number, path(number))
    assert len(index) == 10
    assert index.containers_of([2, 309, 310, 319]) == [None, None, container(310), container(319)]
    assert evicted("removed") - removed_before == 100
    assert evicted("present") - present_before == 15


def test_index_walks_once_for_unknown_cgroups() -> None:
    """The first unknown cgroup causes a walk; another one soon after it does not."""
    walks = []

    def walk() -> list[tuple[int, str]]:
        walks.append(1)
        return [(7, path(7))]

    index = CgroupIndex(walk)
    assert index.containers_of([7]) == [container(7)]
    assert index.containers_of([8]) == [None]
    assert len(walks) == 1
    index.require_walk()
    assert index.refresh()
    assert not index.refresh()
    assert len(walks) == 2


def test_index_distinguishes_equal_numbers_of_v1_and_v2() -> None:
    """The flag in the id of a v1 cgroup tells the two apart."""
    index = CgroupIndex(list)
    index.add(7, path(7))
    index.add(V1 | 7, path(8))
    assert index.containers_of([7, V1 | 7]) == [container(7), container(8)]


@pytest.mark.parametrize(
    ("listed", "chosen"),
    [
        (HYBRID, V1Hierarchy(4, "memory")),
        ("0::/user.slice\n", None),
        ("1:name=systemd:/\n0::/\n", None),
        ("3:cpu,cpuacct:/\n2:pids:/x\n1:name=systemd:/\n", V1Hierarchy(2, "pids")),
        ("3:cpu,cpuacct:/\n1:net_cls,net_prio:/\n", V1Hierarchy(3, "cpu")),
    ],
)
def test_v1_hierarchy_is_chosen_by_its_controller(listed: str, chosen: V1Hierarchy | None) -> None:
    """The text of /proc/PID/cgroup decides; without a v1 hierarchy with a controller it is None."""
    assert v1_hierarchy(listed) == chosen
