"""Lookups of container metadata with real runtimes, and with runtimes that die, hang and return."""

import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP

import pytest
from infrasight.v1.stream_pb2 import Container
from infrasight_core.containers import metadata_lookup, runtime_link
from infrasight_core.containers.metadata_lookup import MAX_CONTAINERS, MetadataLookup
from infrasight_core.containers.options import ContainerOptions
from infrasight_testbed.container_service import short_folder
from infrasight_testbed.containerd import Containerd, running_containerd
from infrasight_testbed.podman import Podman, running_podman
from infrasight_testbed.system import until
from prometheus_client import REGISTRY

# The wait of a lookup that is answered; it ends with the answer, however slow the machine is.
PATIENCE = 60.0
NO_SOCKET = Path("/nowhere/docker.sock")


class Store:
    """Collects the updates that the store would receive."""

    def __init__(self) -> None:
        self.updates: list[Container] = []

    def __call__(self, containers: Sequence[Container]) -> None:
        """Receives updates, as `EnrichContext.publish` does."""
        self.updates.extend(containers)

    def updates_of(self, container_id: str) -> list[Container]:
        """Returns the updates of a container, in order."""
        return [update for update in list(self.updates) if update.container_id == container_id]


@pytest.fixture
def podman() -> Iterator[Podman]:
    """A podman that answers."""
    with running_podman() as running:
        yield running


@pytest.fixture
def containerd() -> Iterator[Containerd]:
    """A containerd that answers."""
    with running_containerd() as running:
        yield running


@pytest.fixture
def store() -> Store:
    """A store without updates."""
    return Store()


def start_lookup(store: Store, *sockets: Path) -> MetadataLookup:
    """Starts the lookup with the runtimes at these sockets."""
    return MetadataLookup(ContainerOptions(sockets=tuple(map(str, sockets))), store)


def look_up(lookup: MetadataLookup, *container_ids: str) -> list[bytes | None]:
    """Returns the names of containers; None for those that are not known."""
    containers = lookup.look_up(container_ids, wait=PATIENCE)
    return [container.name if container else None for container in containers]


def names(containers: Sequence[Container]) -> list[bytes]:
    """Returns the names of containers."""
    return [container.name for container in containers]


def metric(name: str, **labels: str) -> float:
    """Returns the current value of a metric."""
    return REGISTRY.get_sample_value(name, labels) or 0.0


def is_connected(path: Path) -> bool:
    """Returns whether a socket's runtime answers, by the metric."""
    return metric("infrasight_container_runtime_connected", socket=str(path)) == 1


def unknown_lookups(path: Path) -> float:
    """Returns how often a runtime did not know a container, by the metric."""
    return metric("infrasight_container_lookups_total", socket=str(path), outcome="unknown")


def waited_seconds() -> float:
    """Returns the time that batches have waited, by the metric."""
    return metric("infrasight_container_wait_seconds_total")


@contextmanager
def silent_socket() -> Iterator[Path]:
    """Listens on a socket that accepts connections and never answers."""
    with short_folder() as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "docker.sock"))
        listener.listen(64)
        yield folder / "docker.sock"


def test_lookup_without_runtimes_does_not_wait(store: Store) -> None:
    """Without a runtime nothing is known, and no batch waits."""
    before = waited_seconds()
    with closing(start_lookup(store, NO_SOCKET)) as lookup:
        assert look_up(lookup, "a" * 64, "b" * 64) == [None, None]
    assert waited_seconds() == before


def test_lookup_counts_each_container_once(store: Store) -> None:
    """Each container that a batch needs is counted once, as a hit if its metadata is cached."""
    name = "infrasight_container_cache_requests_total"
    hits, misses = (metric(name, outcome=outcome) for outcome in ("hit", "miss"))
    known = "c" * 64
    with closing(start_lookup(store, NO_SOCKET)) as lookup:
        lookup.on_container(NO_SOCKET, Container(container_id=known, name=b"web"))
        assert look_up(lookup, known, "d" * 64, "e" * 64) == [b"web", None, None]
    assert metric(name, outcome="hit") == hits + 1
    assert metric(name, outcome="miss") == misses + 2


def test_lookup_without_runtimes_imports_no_client() -> None:
    """The clients of the runtimes, and gRPC with them, are not imported."""
    source = (
        "import sys; from infrasight_core.containers.metadata_lookup import MetadataLookup; "
        "from infrasight_core.containers.options import ContainerOptions; "
        "options = ContainerOptions(sockets=('/nowhere/docker.sock',)); "
        "MetadataLookup(options, print).close(); "
        "print(*sys.modules)"
    )
    command = [sys.executable, "-c", source]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    modules = set(done.stdout.split())
    assert "infrasight_core.containers.runtime_link" in modules
    clients = {"infrasight_core.containers.cri", "infrasight_core.containers.docker_api", "grpc"}
    assert clients & modules == set()


def test_lookup_names_a_container_at_once_and_publishes_it_once(
    podman: Podman, store: Store
) -> None:
    """The first batch has the name; one update has the labels, another one the new name."""
    container_id = podman.run("--name", "web", "--label", "team=shop")
    bystander = podman.run("--name", "bystander")
    with closing(start_lookup(store, podman.socket)) as lookup:
        for _ in range(100):
            assert look_up(lookup, container_id) == [b"web"]
        until(lambda: len(store.updates_of(container_id)) == 1, "the container is published")
        podman("rename", "web", "shop")
        until(lambda: len(store.updates_of(container_id)) == 2, "the new name is published")
        assert look_up(lookup, container_id) == [b"shop"]
    # All updates are published when the lookup is closed.
    assert names(store.updates_of(container_id)) == [b"web", b"shop"]
    assert [dict(c.labels) for c in store.updates_of(container_id)] == [{"team": "shop"}] * 2
    assert store.updates_of(bystander) == [], "a container without events was published"


def test_lookup_knows_a_container_that_was_removed_at_once(podman: Podman, store: Store) -> None:
    """The event of its creation names a container that no query can find any more."""
    with closing(start_lookup(store, podman.socket)) as lookup:
        until(lambda: is_connected(podman.socket), "podman is connected")
        look_up(lookup, "e" * 64)  # after this answer the events are followed
        container_id = podman.run(
            "--rm", "--name", "short", "--label", "team=shop", command=("true",)
        )
        until(lambda: podman("ps", "--all", "--quiet") == "", "the container is removed")
        look_up(lookup, container_id)
        until(lambda: len(store.updates_of(container_id)) == 1, "the container is published")
        assert look_up(lookup, container_id) == [b"short"]
    assert dict(store.updates_of(container_id)[0].labels) == {"team": "shop"}


def test_lookup_waits_once_for_an_unknown_container(podman: Podman, store: Store) -> None:
    """Only the first batch waits; a few retries follow beside the events."""
    unknown = "d" * 64
    with closing(start_lookup(store, podman.socket)) as lookup:
        assert look_up(lookup, unknown) == [None]
        before = waited_seconds()
        for _ in range(1000):
            assert look_up(lookup, unknown) == [None]
        assert waited_seconds() == before
        until(lambda: unknown_lookups(podman.socket) >= 3, "the lookup is retried")
        assert unknown_lookups(podman.socket) <= 5


def test_lookup_is_retried_once_the_runtime_is_back(
    podman: Podman, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A retry that finds the runtime down is not lost: it is made when the runtime answers."""
    monkeypatch.setattr(metadata_lookup, "_RETRY_PAUSES", (2.0,) * 100)
    monkeypatch.setattr(metadata_lookup, "_RECONNECT_PAUSE", 0.5)
    with closing(start_lookup(store, podman.socket)) as lookup:
        assert look_up(lookup, "d" * 64) == [None]
        podman.service.stop(SIGKILL)
        until(lambda: not is_connected(podman.socket), "podman is disconnected")
        due, _ = lookup._retries[0]
        until(lambda: time.monotonic() > due + 0.2, "the retry has found no runtime")
        before = unknown_lookups(podman.socket)
        podman.start()
        until(lambda: unknown_lookups(podman.socket) > before, "the lookup is retried")


def test_silent_runtime_delays_no_other(podman: Podman, store: Store) -> None:
    """A socket that never answers is waited for once; podman's containers are known at once."""
    container_id = podman.run("--name", "web")
    with silent_socket() as silent, closing(start_lookup(store, silent, podman.socket)) as lookup:
        assert look_up(lookup, container_id) == [b"web"]
        assert lookup.look_up(["d" * 64], wait=0.3) == [None]
        before = waited_seconds()
        # If it waited for the silent socket, this would take all of the time.
        assert look_up(lookup, "e" * 64) == [None]
        second = podman.run("--name", "web2")
        until(lambda: look_up(lookup, second) == [b"web2"], "the other container is known")
        assert waited_seconds() - before < PATIENCE
        until(lambda: is_connected(podman.socket), "podman is connected")
        assert not is_connected(silent)


def test_lookup_survives_a_killed_runtime(podman: Podman, store: Store) -> None:
    """Known containers stay known; those created meanwhile are published once it is back."""
    first = podman.run("--name", "first")
    with closing(start_lookup(store, podman.socket)) as lookup:
        assert look_up(lookup, first) == [b"first"]
        podman.service.stop(SIGKILL)
        until(lambda: not is_connected(podman.socket), "podman is disconnected")
        second = podman.run("--name", "second")
        short = podman.run("--name", "short", "--rm", command=("true",))
        assert look_up(lookup, first, second, short) == [b"first", None, None]
        podman.start()
        until(
            lambda: bool(store.updates_of(second) and store.updates_of(short)),
            "both containers are published",
        )
        assert look_up(lookup, first, second, short) == [b"first", b"second", b"short"]


def test_lookup_disconnects_from_a_frozen_runtime(
    podman: Podman, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A runtime that stops answering is disconnected, and connected again once it answers."""
    monkeypatch.setattr(runtime_link, "_PING_INTERVAL", 0.2)
    first = podman.run("--name", "first")
    with closing(start_lookup(store, podman.socket)) as lookup:
        assert look_up(lookup, first) == [b"first"]
        podman.service.send(SIGSTOP)
        known, unknown = lookup.look_up([first, "d" * 64], wait=0.1)
        assert known is not None
        assert unknown is None
        until(lambda: not is_connected(podman.socket), "podman is disconnected")
        podman.service.send(SIGCONT)
        until(lambda: is_connected(podman.socket), "podman is connected again")
        second = podman.run("--name", "second")
        until(lambda: look_up(lookup, second) == [b"second"], "podman answers again")


def test_lookup_finds_a_runtime_that_starts_later(podman: Podman, store: Store) -> None:
    """A new socket is found, and containers with earlier events are published."""
    podman.service.stop()
    podman.socket.unlink(missing_ok=True)
    with closing(start_lookup(store, podman.socket)) as lookup:
        container_id = podman.run("--name", "web")
        assert look_up(lookup, container_id) == [None]
        podman.start()
        until(lambda: bool(store.updates_of(container_id)), "the container is published")


def test_lookup_by_the_cri_survives_a_killed_containerd(
    containerd: Containerd, store: Store
) -> None:
    """Pods are known by their first event, also those created after containerd was killed."""
    with closing(start_lookup(store, containerd.socket)) as lookup:
        pod = containerd.run_pod("shop-1", "prod", {"app": "shop"})
        web = containerd.run(pod, "web")
        containers = lookup.look_up([web, pod], wait=PATIENCE)
        places = [(c.name, c.pod_namespace) for c in containers if c]
        assert places == [(b"web", b"prod"), (b"shop-1", b"prod")]
        containerd.service.stop(SIGKILL)
        until(lambda: not is_connected(containerd.socket), "containerd is disconnected")
        assert look_up(lookup, web) == [b"web"]
        containerd.start()
        later = containerd.run(pod, "later", "true")
        look_up(lookup, later)
        until(lambda: bool(store.updates_of(later)), "the new container is published")
        assert store.updates_of(web)[0].labels["app"] == "shop"


def test_prefetched_container_is_known_without_waiting(podman: Podman, store: Store) -> None:
    """Its metadata is cached before its first event, and published with that event."""
    container_id = podman.run("--name", "web")
    with closing(start_lookup(store, podman.socket)) as lookup:
        lookup.prefetch([container_id])
        until(lambda: lookup.look_up([container_id], wait=0)[0] is not None, "it is known")
        until(lambda: len(store.updates_of(container_id)) == 1, "the container is published")


def test_failure_to_publish_is_counted_and_ends_nothing(podman: Podman) -> None:
    """An update that cannot be published is dropped and counted; the next one is published."""
    published: list[bytes] = []

    def publish(containers: Sequence[Container]) -> None:
        if any(container.name == b"first" for container in containers):
            raise OSError("no space left")
        published.extend(container.name for container in containers)

    dropped = "infrasight_container_lookup_updates_dropped_total"
    before = metric(dropped)
    options = ContainerOptions(sockets=(str(podman.socket),))
    with closing(MetadataLookup(options, publish)) as lookup:
        look_up(lookup, podman.run("--name", "first"))
        until(lambda: metric(dropped) == before + 1, "the failure is counted")
        look_up(lookup, podman.run("--name", "second"))
        until(lambda: published == [b"second"], "the next update is published")
    assert metric(dropped) == before + 1


def test_cache_of_lookups_is_bounded(store: Store) -> None:
    """However many containers come, the cache holds up to its limit, and memory does not grow."""

    def look_up_new(first: int, end: int) -> None:
        for start in range(first, end, 100):
            batch = [f"{number:064x}" for number in range(start, start + 100)]
            assert lookup.look_up(batch) == [None] * len(batch)
            assert lookup.cached() == min(start + 100, MAX_CONTAINERS)

    with closing(start_lookup(store, NO_SOCKET)) as lookup:
        look_up_new(0, 3 * MAX_CONTAINERS)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        look_up_new(3 * MAX_CONTAINERS, 6 * MAX_CONTAINERS)
        growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert growth < 16 << 10, "KiB"


def test_closed_lookup_leaves_no_thread(podman: Podman, store: Store) -> None:
    """All threads end, whether a runtime answers or not."""
    before = set(threading.enumerate())
    with silent_socket() as silent:
        lookup = start_lookup(store, silent, podman.socket)
        lookup.look_up([podman.run()], wait=0.1)
        lookup.close()
        until(lambda: not set(threading.enumerate()) - before, "all threads end")
