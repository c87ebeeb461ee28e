"""What is known of cgroups: kept after they have gone, bounded, looked for again when one is not known."""

import pytest
from infrasight_core.containers.cgroup_index import EVICTED, CgroupIndex
from infrasight_core.kernel.cgroups import ROOT, V1, V1Hierarchy, v1_hierarchy

HYBRID = "9:name=systemd:/\n8:pids:/\n4:memory:/a:b\n2:cpuacct:/\n0::/x\n"


def container(number: int) -> str:
    """An id."""
    return f"{number:064x}"


def path(number: int) -> str:
    """The path of a container's cgroup."""
    return f"/docker/{container(number)}"


def forgotten(was: str) -> float:
    """How many were forgotten so far, by the metric."""
    return float(EVICTED.labels(was)._value.get())


def test_one_that_has_gone_is_still_known() -> None:
    """The container of a cgroup that is removed; of one that nobody saw being made, by what its removal says."""
    known = CgroupIndex(list)
    known.made(2, path(2))
    known.gone(2, path(2))
    known.gone(3, path(3))
    known.made(4, "/system.slice/cron.service")
    assert known.containers([2, 3, 4, ROOT]) == [container(2), container(3), "", ""]


def test_another_name_is_another_container() -> None:
    """A cgroup that is renamed."""
    known = CgroupIndex(list)
    known.made(2, path(2))
    known.made(2, path(3))
    assert known.containers([2]) == [container(3)]


def test_room_is_made_of_those_that_have_gone() -> None:
    """Ten places: what is there stays while others come and go, of these the ones longest not asked for go; all is counted."""
    known, before, before_there = CgroupIndex(list, 10), forgotten("gone"), forgotten("there")
    for number in range(2, 7):
        known.made(number, path(number))
    for number in range(100, 200):
        known.made(number, path(number))
        known.gone(number, path(number))
        assert known.containers([100]) == [container(100)]
        assert len(known) <= 10
    assert known.containers([*range(2, 7), 195, 196, 199, 100]) == [
        *(container(number) for number in range(2, 7)),
        None,
        *(container(number) for number in (196, 199, 100)),
    ]
    assert forgotten("gone") - before == 95
    for number in range(300, 320):
        known.made(number, path(number))
    assert len(known) == 10
    assert known.containers([2, 309, 310, 319]) == [None, None, container(310), container(319)]
    assert forgotten("gone") - before == 100
    assert forgotten("there") - before_there == 15


def test_an_unknown_one_is_looked_for_and_then_not_again() -> None:
    """The first that is not known has all walked; the next, soon after, is unknown without one."""
    walks = []

    def walk() -> list[tuple[int, str]]:
        walks.append(1)
        return [(7, path(7))]

    known = CgroupIndex(walk)
    assert known.containers([7]) == [container(7)]
    assert known.containers([8]) == [None]
    assert len(walks) == 1
    known.begin()
    assert known.look_around()
    assert not known.look_around()
    assert len(walks) == 2


def test_the_same_number_in_v1_is_another_one() -> None:
    """The mark keeps them apart."""
    known = CgroupIndex(list)
    known.made(7, path(7))
    known.made(V1 | 7, path(8))
    assert known.containers([7, V1 | 7]) == [container(7), container(8)]


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
def test_the_v1_hierarchy_that_counts(listed: str, chosen: V1Hierarchy | None) -> None:
    """Chosen by its controller, from what /proc/PID/cgroup lists; none where v1 has no controller."""
    assert v1_hierarchy(listed) == chosen
