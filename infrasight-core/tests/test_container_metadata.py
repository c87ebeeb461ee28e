"""Lookups beside the data, with real runtimes, and with ones that die, hang and come back."""

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP

import pytest
from infrasight.v1.stream_pb2 import Container
from infrasight_core.containers import runtime_link
from infrasight_core.containers.metadata import ContainerMetadata
from infrasight_core.containers.options import ContainerOptions
from infrasight_testbed.container_service import short_folder
from infrasight_testbed.containerd import running_containerd
from infrasight_testbed.podman import Podman, running_podman
from infrasight_testbed.system import until
from prometheus_client import REGISTRY

LONG = 5.0  # seconds that no test waits in full: what is asserted comes because of an answer


class Told:
    """What the store would have been told."""

    def __init__(self) -> None:
        self.all: list[Container] = []

    def __call__(self, containers: Sequence[Container]) -> None:
        """As `EnrichContext.publish`."""
        self.all.extend(containers)

    def of(self, container_id: str) -> list[Container]:
        """What was told of a container, in order."""
        return [c for c in list(self.all) if c.container_id == container_id]


@pytest.fixture
def podman() -> Iterator[Podman]:
    """A podman that answers."""
    with running_podman() as running:
        yield running


@pytest.fixture
def told() -> Told:
    """Nothing yet."""
    return Told()


def made(told: Told, *sockets: Path) -> ContainerMetadata:
    """Lookups at these sockets."""
    return ContainerMetadata(ContainerOptions(sockets=tuple(map(str, sockets)), wait=LONG), told)


def sample(name: str, **labels: str) -> float:
    """A metric's value now."""
    return REGISTRY.get_sample_value(name, labels) or 0.0


def connected(path: Path) -> bool:
    """Whether a socket's runtime answers."""
    return sample("infrasight_container_runtime_connected", socket=str(path)) == 1


def unknown(path: Path) -> float:
    """How often a runtime knew nothing."""
    return sample("infrasight_container_lookups_total", socket=str(path), outcome="unknown")


def waited() -> float:
    """The seconds that batches have waited, in all."""
    return sample("infrasight_container_wait_seconds_total")


def names(found: Sequence[Container | None]) -> list[bytes | None]:
    """The names, where anything is known."""
    return [container.name if container else None for container in found]


@contextmanager
def silent_socket() -> Iterator[Path]:
    """A socket that takes connections and never says a word."""
    with short_folder() as folder, socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "docker.sock"))
        listening.listen(64)
        yield folder / "docker.sock"


def test_without_any_runtime(told: Told) -> None:
    """Where there is no runtime nothing is known, nobody waits, and nothing that only runtimes need is loaded."""
    before = waited()
    with closing(made(told, Path("/nowhere/docker.sock"))) as lookups:
        assert lookups.known(["a" * 64, "b" * 64]) == [None, None]
    assert waited() == before
    source = (
        "import sys; from infrasight_core.containers.columns import ContainerColumns; "
        "n = ContainerColumns({'sockets': ['/nowhere/docker.sock']}, print); n.close(); "
        "print([m for m in sys.modules if m.startswith('infrasight_core.containers.') or m == 'grpc'])"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=True
    ).stdout
    assert "containers.runtime_link" in loaded
    assert not [m for m in ("containers.cri", "containers.docker_api", "'grpc'") if m in loaded]


def test_known_and_told_once(podman: Podman, told: Told) -> None:
    """The first batch with a container gets its name; the store is told once, with labels, and again when it is renamed."""
    container_id = podman.run("--name", "web", "--label", "team=shop")
    bystander = podman.run("--name", "bystander")
    with closing(made(told, podman.socket)) as lookups:
        assert names(lookups.known([container_id])) == [b"web"]
        for _ in range(100):
            assert names(lookups.known([container_id])) == [b"web"]
        until(lambda: len(told.of(container_id)) == 1, "it is told")
        podman("rename", "web", "shop")
        until(lambda: len(told.of(container_id)) == 2, "it is told again")
        assert names(lookups.known([container_id])) == [b"shop"]
    assert names(told.of(container_id)) == [b"web", b"shop"]
    assert [dict(c.labels) for c in told.of(container_id)] == [{"team": "shop"}] * 2
    assert told.of(bystander) == []  # it had no events


def test_a_container_that_is_gone_before_it_is_asked_for(podman: Podman, told: Told) -> None:
    """One that lived for a moment and was removed is known by its creation, for this batch or later."""
    with closing(made(told, podman.socket)) as lookups:
        until(lambda: connected(podman.socket), "it is connected")
        lookups.known(["e" * 64])  # the first answer has come: from here on its events are followed
        container_id = podman.run(
            "--rm", "--name", "short", "--label", "team=shop", command=("true",)
        )
        until(lambda: podman("ps", "--all", "--quiet") == "", "it is removed")
        lookups.known([container_id])
        until(lambda: len(told.of(container_id)) == 1, "it is told")
        assert names(lookups.known([container_id])) == [b"short"]
    assert dict(told.of(container_id)[0].labels) == {"team": "shop"}


def test_an_id_that_nobody_knows(podman: Podman, told: Told) -> None:
    """It is waited for once and then asked of again beside the data, a few times; no other batch waits for it."""
    nobody = "d" * 64
    with closing(made(told, podman.socket)) as lookups:
        assert lookups.known([nobody]) == [None]
        before = waited()
        for _ in range(1000):
            assert lookups.known([nobody]) == [None]
        assert waited() == before
        until(lambda: unknown(podman.socket) >= 3, "it is asked of again")
        assert unknown(podman.socket) <= 5


def test_a_silent_runtime_delays_no_other(podman: Podman, told: Told) -> None:
    """Beside a socket that never answers, podman's containers are known at once; the silent one is waited for once."""
    container_id = podman.run("--name", "web")
    with silent_socket() as silent, closing(made(told, silent, podman.socket)) as lookups:
        assert names(lookups.known([container_id])) == [b"web"]
        assert lookups.known(["d" * 64], wait=0.3) == [None]
        before = waited()
        assert lookups.known(["e" * 64], wait=0.3) == [None]
        assert names(lookups.known([podman.run("--name", "web2")])) == [b"web2"]
        assert waited() - before < LONG
        until(lambda: connected(podman.socket), "podman is connected")
        assert not connected(silent)


def test_killed_and_started_again(podman: Podman, told: Told) -> None:
    """What was known stays known while the runtime is dead; what was made meanwhile is told when it is back."""
    first = podman.run("--name", "first")
    with closing(made(told, podman.socket)) as lookups:
        assert names(lookups.known([first])) == [b"first"]
        podman.service.stop(SIGKILL)
        until(lambda: not connected(podman.socket), "its death is noticed")
        second = podman.run("--name", "second")
        short = podman.run("--name", "short", "--rm", command=("true",))
        assert names(lookups.known([first, second, short])) == [b"first", None, None]
        podman.start()
        until(lambda: bool(told.of(second) and told.of(short)), "both are told")
        assert names(lookups.known([first, second, short])) == [b"first", b"second", b"short"]


def test_frozen_and_thawed(podman: Podman, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runtime that stops answering in the middle is given up, and taken up again when it answers."""
    monkeypatch.setattr(runtime_link, "_PING", 0.2)
    first = podman.run("--name", "first")
    with closing(made(told, podman.socket)) as lookups:
        assert names(lookups.known([first])) == [b"first"]
        podman.service.send(SIGSTOP)
        assert names(lookups.known([first, "d" * 64], wait=0.1)) == [b"first", None]
        until(lambda: not connected(podman.socket), "its silence is noticed")
        podman.service.send(SIGCONT)
        until(lambda: connected(podman.socket), "it is connected again")
        second = podman.run("--name", "second")
        until(lambda: names(lookups.known([second])) == [b"second"], "it answers again")


def test_a_runtime_that_comes_later(podman: Podman, told: Told) -> None:
    """A runtime that is started after the agent is found, and what had events before is told."""
    podman.service.stop()
    podman.socket.unlink(missing_ok=True)
    with closing(made(told, podman.socket)) as lookups:
        container_id = podman.run("--name", "web")
        assert lookups.known([container_id]) == [None]
        podman.start()
        until(lambda: bool(told.of(container_id)), "it is told")


def test_containerd_dies_and_comes_back(told: Told) -> None:
    """By the CRI: pods known by their first event, also those made after containerd was killed and started again."""
    with running_containerd() as containerd, closing(made(told, containerd.socket)) as lookups:
        pod = containerd.run_pod("shop-1", "prod", {"app": "shop"})
        web = containerd.run(pod, "web")
        found = lookups.known([web, pod])
        assert names(found) == [b"web", b"shop-1"]
        assert [c.pod_namespace for c in found if c] == [b"prod"] * 2
        containerd.service.stop(SIGKILL)
        until(lambda: not connected(containerd.socket), "its death is noticed")
        assert names(lookups.known([web])) == [b"web"]
        containerd.start()
        later = containerd.run(pod, "later", "true")
        lookups.known([later])
        until(lambda: bool(told.of(later)), "it is told")
        assert told.of(web)[0].labels["app"] == "shop"


def test_what_is_expected_is_known_before_its_first_event(podman: Podman, told: Told) -> None:
    """A container that was announced is known without waiting, and the store hears of it with its first event, not before."""
    container_id = podman.run("--name", "web")
    with closing(made(told, podman.socket)) as lookups:
        lookups.expect([container_id])
        until(lambda: lookups.known([container_id], wait=0)[0] is not None, "it is known")
        until(lambda: len(told.of(container_id)) == 1, "it is told")


def test_closing_ends_every_thread(podman: Podman, told: Told) -> None:
    """Nothing of it runs on, neither for a runtime that answers nor for one that does not."""
    before = set(threading.enumerate())
    with silent_socket() as silent:
        lookups = made(told, silent, podman.socket)
        lookups.known([podman.run()], wait=0.1)
        lookups.close()
        until(lambda: not set(threading.enumerate()) - before, "all threads end")
