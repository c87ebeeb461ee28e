"""The index of cgroups: it holds removed cgroups, is bounded, and walks for an unknown cgroup."""

import pytest
from infrasight_core.containers.cgroup_index import EVICTED, CgroupIndex, Claim
from infrasight_core.containers.cgroup_walk import UNKNOWN_USER, Cgroup
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
    """A removed cgroup keeps its container.

    The maker of one that was never added is unknown, so that its name proves nothing.
    """
    index = CgroupIndex(list)
    index.add(2, path(2), 0)
    index.mark_removed(2, path(2))
    index.mark_removed(3, path(3))
    index.add(4, "/system.slice/cron.service", 0)
    unconfirmed = Claim(container(3), UNKNOWN_USER)
    assert index.containers_of([2, 3, 4, ROOT]) == [container(2), unconfirmed, "", ""]


def test_index_follows_a_renamed_cgroup() -> None:
    """After a rename the cgroup belongs to the container of its new path."""
    index = CgroupIndex(list)
    index.add(2, path(2), 0)
    index.add(2, path(3), 0)
    assert index.containers_of([2]) == [container(3)]


def test_full_index_evicts_removed_cgroups_first() -> None:
    """With ten places, removed cgroups go first, least recently used first; all are counted."""
    index = CgroupIndex(list, 10)
    removed_before = evicted("removed")
    present_before = evicted("present")
    for number in range(2, 7):
        index.add(number, path(number), 0)
    for number in range(100, 200):
        index.add(number, path(number), 0)
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
        index.add(number, path(number), 0)
    assert len(index) == 10
    assert index.containers_of([2, 309, 310, 319]) == [None, None, container(310), container(319)]
    assert evicted("removed") - removed_before == 100
    assert evicted("present") - present_before == 15


def test_index_walks_once_for_unknown_cgroups() -> None:
    """The first unknown cgroup causes a walk; another one soon after it does not."""
    walks = []

    def walk() -> list[Cgroup]:
        walks.append(1)
        return [Cgroup(7, path(7), 0)]

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
    index.add(7, path(7), 0)
    index.add(V1 | 7, path(8), 0)
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


USER = 1000
SCOPE = f"/user.slice/user@{USER}.service/libpod-{container(5)}.scope"


def test_cgroup_that_a_user_created_is_only_a_claim() -> None:
    """A user's cgroup with a container's name is a claim, and so is everything below it."""
    index = CgroupIndex(list)
    claim = Claim(container(5), USER)
    assert index.add(5, SCOPE, USER) == claim
    assert index.add(6, f"{SCOPE}/container", USER) == claim
    assert index.add(7, f"{SCOPE}/docker/{container(6)}", USER) == Claim(container(6), USER)
    assert index.containers_of([5, 6]) == [claim, claim]


def test_cgroup_below_a_container_belongs_to_it_whoever_creates_it() -> None:
    """In a container with a user namespace, a nested container's name does not count."""
    index = CgroupIndex(list)
    index.add(5, path(5), 0)
    assert index.add(6, f"{path(5)}/init", 100_000) == container(5)
    assert index.add(7, f"{path(5)}{path(6)}", 100_000) == container(5)
    assert index.add(8, f"{path(5)}{path(8)}", 0) == container(8)


def test_user_who_renames_a_cgroup_makes_a_claim() -> None:
    """A rename makes the new name the user's, even if root created the cgroup."""
    index = CgroupIndex(list)
    index.add(5, path(5), 0)
    assert index.add(5, path(6), USER) == Claim(container(6), USER)


def test_removal_ends_the_trust_in_a_path() -> None:
    """A user's cgroup does not inherit the trust in a removed one of the same path."""
    index = CgroupIndex(list)
    index.add(5, SCOPE, 0)
    index.mark_removed(5, SCOPE)
    assert index.add(6, SCOPE, USER) == Claim(container(5), USER)
    assert index.containers_of([5]) == [container(5)]


def test_walk_keeps_what_the_tracker_saw() -> None:
    """A walk sees only who could have created a cgroup, so it does not doubt root's own."""
    index = CgroupIndex(lambda: [Cgroup(5, SCOPE, USER), Cgroup(6, f"{SCOPE}/a", USER)])
    index.add(5, SCOPE, 0)
    index.refresh()
    assert index.containers_of([5, 6]) == [container(5), container(5)]
