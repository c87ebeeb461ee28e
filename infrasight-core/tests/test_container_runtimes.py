"""The metadata that real runtimes report: podman by Docker's API, containerd by the CRI."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from infrasight.v1.stream_pb2 import Container
from infrasight_core.containers.bounds import MAX_LABEL_BYTES
from infrasight_core.containers.runtime import Runtime
from infrasight_core.containers.runtimes import check_sockets, connect
from infrasight_core.errors import RuntimeUnavailableError
from infrasight_testbed import containerd as cri
from infrasight_testbed import podman as docker
from infrasight_testbed.containerd import Containerd, running_containerd
from infrasight_testbed.podman import Podman, running_podman
from infrasight_testbed.system import until

UNKNOWN_ID = "f" * 64


@pytest.fixture(scope="module")
def podman() -> Iterator[Podman]:
    """A podman that answers."""
    with running_podman() as running:
        yield running


@pytest.fixture(scope="module")
def containerd() -> Iterator[Containerd]:
    """A containerd that answers."""
    with running_containerd() as running:
        yield running


def row_fields(container: Container | None) -> tuple[bytes, ...]:
    """Returns the fields of a container that rows have."""
    assert container is not None
    return (
        container.name,
        container.image,
        container.pod_name,
        container.pod_namespace,
        container.pod_container,
    )


def listed(runtime: Runtime, container_id: str) -> Container:
    """Returns a container from the runtime's list of all."""
    return {c.container_id: c for c in runtime.list_containers()}[container_id]


class Follower:
    """Collects a runtime's events in a thread."""

    def __init__(self, runtime: Runtime, since: float) -> None:
        self.events: list[Container | str] = []
        self.failures: list[str] = []
        self._runtime = runtime
        self._since = since
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.events.extend(self._runtime.follow_events(self._since))
        except RuntimeUnavailableError as error:
            self.failures.append(str(error))

    def containers(self, container_id: str) -> list[Container]:
        """Returns the metadata of a container that its events had."""
        return [
            event
            for event in list(self.events)
            if isinstance(event, Container) and event.container_id == container_id
        ]

    def close(self) -> None:
        """Disconnects the runtime, which must end the thread."""
        self._runtime.close()
        self._thread.join(60)
        assert not self._thread.is_alive()


def test_podman_reports_the_same_in_its_list_and_by_id(podman: Podman) -> None:
    """Name, image and labels agree; a prefix of an id, or a name, finds nothing."""
    container_id = podman.run("--name", "web", "--label", "team=shop", "--label", "empty=")
    with closing(connect(podman.socket)) as runtime:
        by_id = runtime.find_container(container_id)
        in_list = listed(runtime, container_id)
        not_ids = (UNKNOWN_ID, container_id[:12], "web", "../web?x")
        assert [runtime.find_container(text) for text in not_ids] == [None] * 4
        assert runtime.name == "podman"
        assert runtime.version.startswith("podman ")
    assert by_id is not None
    expected = (b"web", docker.IMAGE.encode(), b"", b"", b"")
    assert row_fields(by_id) == row_fields(in_list) == expected
    assert dict(by_id.labels) == dict(in_list.labels) == {"team": "shop", "empty": ""}
    assert by_id.runtime == "podman"


def test_podman_reports_a_container_that_is_removed_at_once(podman: Podman) -> None:
    """The event of its creation has name, image and labels; a new name is an event, too."""
    with closing(connect(podman.socket)) as runtime:
        follower = Follower(runtime, time.time() - 1)
        short = podman.run("--rm", "--name", "short", "--label", "team=shop", command=("true",))
        until(lambda: bool(follower.containers(short)), "the creation is reported")
        renamed = podman.run("--name", "before")
        podman("rename", "before", "after")
        until(lambda: renamed in follower.events, "the new name is reported")
        follower.close()
    container = follower.containers(short)[0]
    assert row_fields(container) == (b"short", docker.IMAGE.encode(), b"", b"", b"")
    assert dict(container.labels) == {"team": "shop"}
    assert follower.failures


def test_podman_reports_the_name_of_an_image_used_by_id(podman: Podman) -> None:
    """Events, list and query by id all name the image."""
    with closing(connect(podman.socket)) as runtime:
        follower = Follower(runtime, time.time() - 1)
        image_id = podman("images", "--quiet", "--no-trunc")
        container_id = podman(
            "run", "--detach", "--network=none", f"--cgroup-parent=/{podman.cgroup}", image_id
        )
        until(
            lambda: bool(follower.containers(container_id)) or container_id in follower.events,
            "the creation is reported",
        )
        reports = [runtime.find_container(container_id), listed(runtime, container_id)]
        follower.close()
    reports += follower.containers(container_id)
    assert {row_fields(container)[1] for container in reports} == {docker.IMAGE.encode()}


def test_podman_labels_of_kubernetes_name_no_pod(podman: Podman) -> None:
    """The user who starts a container chooses its labels, so only the CRI names pods."""
    names = {"pod.name": "shop-1", "pod.namespace": "prod", "container.name": "web"}
    labels = [f"--label=io.kubernetes.{key}={value}" for key, value in names.items()]
    container_id = podman.run("--name", "k8s_web", *labels)
    with closing(connect(podman.socket)) as runtime:
        container = runtime.find_container(container_id)
    image = docker.IMAGE.encode()
    assert row_fields(container) == (b"k8s_web", image, b"", b"", b"")


def test_podman_labels_are_cut_at_the_bound(podman: Podman) -> None:
    """Labels beyond the bound are left out whole and flagged, by event, list and id alike."""
    sizes = {"a": 40 << 10, "b": 20 << 10, "c": 40 << 10}
    with closing(connect(podman.socket)) as runtime:
        follower = Follower(runtime, time.time() - 1)
        container_id = podman.run(*(f"--label={key}={'x' * size}" for key, size in sizes.items()))
        until(lambda: bool(follower.containers(container_id)), "the creation is reported")
        by_id = runtime.find_container(container_id)
        in_list = listed(runtime, container_id)
        follower.close()
    for container in (by_id, in_list, follower.containers(container_id)[0]):
        assert container is not None
        assert container.labels_cut
        label_sizes = {key: len(value) for key, value in container.labels.items()}
        assert label_sizes == {"a": 40 << 10, "b": 20 << 10}
        assert sum(len(k) + len(v) for k, v in container.labels.items()) <= MAX_LABEL_BYTES


def test_containerd_reports_pods(containerd: Containerd) -> None:
    """Containers have name, image, pod and the labels of both; so has the pod's own container."""
    pod = containerd.run_pod("shop-1", "prod", {"app": "shop"})
    web = containerd.run(pod, "web", labels={"team": "x"})
    ended = containerd.run(pod, "init", "true")
    image = cri.IMAGE.encode()
    with closing(connect(containerd.socket)) as runtime:
        container = runtime.find_container(web)
        assert container is not None
        assert row_fields(container) == (b"web", image, b"shop-1", b"prod", b"web")
        labels = {"app": "shop", "team": "x", "io.kubernetes.container.name": "web"}
        assert labels.items() <= dict(container.labels).items()
        pause = row_fields(runtime.find_container(pod))
        assert pause == (b"shop-1", cri.PAUSE.encode(), b"shop-1", b"prod", b"")
        init = row_fields(runtime.find_container(ended))
        assert init == (b"init", image, b"shop-1", b"prod", b"init")
        assert row_fields(listed(runtime, web)) == row_fields(container)
        not_ids = (UNKNOWN_ID, web[:12], pod[:12])
        assert [runtime.find_container(text) for text in not_ids] == [None] * 3
        # containerd 1.6 has no such events, which is not a failure.
        assert list(runtime.follow_events(0.0)) == []
        assert "containerd" in runtime.version


def test_containerd_names_may_be_any_bytes(containerd: Containerd) -> None:
    """Names that are not UTF-8 arrive byte for byte; labels have a replacement character."""
    pod = containerd.run_pod("p\udcfe")
    odd = containerd.run(pod, "é\n\udcff", labels={"odd": "\udcff"})
    with closing(connect(containerd.socket)) as runtime:
        container = runtime.find_container(odd)
    assert container is not None
    name = "é\n".encode() + b"\xff"
    assert row_fields(container) == (name, cri.IMAGE.encode(), b"p\xfe", b"default", name)
    assert container.labels["odd"] == "\ufffd"


def test_containerd_reports_the_name_of_an_image_used_by_digest(containerd: Containerd) -> None:
    """A kubelet requests images by their ids; the metadata has the name."""
    pod = containerd.run_pod("digests")
    web = containerd.run(pod, "web", image=containerd.image_id())
    with closing(connect(containerd.socket)) as runtime:
        assert row_fields(runtime.find_container(web))[1] == cri.IMAGE.encode()


def test_check_sockets_identifies_runtimes_by_their_answer(
    podman: Podman, containerd: Containerd
) -> None:
    """The name of a socket does not matter; two names of one socket count once."""
    renamed = containerd.socket.with_name("other.sock")
    renamed.hardlink_to(containerd.socket)
    link = podman.socket.with_name("again.sock")
    link.symlink_to(podman.socket)
    absent = podman.socket.with_name("none")
    statuses = check_sockets([podman.socket, link, renamed, absent])
    versions = {status.path.name: status.version for status in statuses}
    assert len(versions) == 2
    assert versions["other.sock"].startswith("containerd ")
    assert {version.split()[0] for version in versions.values()} == {"containerd", "podman"}
