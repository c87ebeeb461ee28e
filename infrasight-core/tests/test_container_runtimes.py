"""What real runtimes say of their containers: podman by Docker's API, containerd by the CRI."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from infrasight.v1.stream_pb2 import Container
from infrasight_core.containers.bounds import LABEL_BYTES
from infrasight_core.containers.runtimes import Runtime, answers, connect
from infrasight_core.errors import RuntimeUnavailableError
from infrasight_testbed import containerd as cri
from infrasight_testbed import podman as docker
from infrasight_testbed.containerd import Containerd, running_containerd
from infrasight_testbed.podman import Podman, running_podman
from infrasight_testbed.system import until

NOBODY = "f" * 64


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


def said(container: Container | None) -> tuple[bytes, ...]:
    """What rows get of a container."""
    assert container is not None
    return (
        container.name,
        container.image,
        container.pod_name,
        container.pod_namespace,
        container.pod_container,
    )


class Following:
    """What a runtime tells by itself, collected by a thread."""

    def __init__(self, runtime: Runtime, since: float) -> None:
        self.news: list[Container | str] = []
        self.ended: list[str] = []
        self._runtime, self._since = runtime, since
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.news.extend(self._runtime.follow(self._since))
        except RuntimeUnavailableError as error:
            self.ended.append(str(error))

    def told(self, container_id: str) -> list[Container]:
        """What was told of a container."""
        return [
            n
            for n in list(self.news)
            if isinstance(n, Container) and n.container_id == container_id
        ]

    def end(self) -> None:
        """Hangs up; the thread must end by that."""
        self._runtime.close()
        self._thread.join(30)
        assert not self._thread.is_alive()


def test_podman_by_its_list_and_by_id(podman: Podman) -> None:
    """A container's name, image and labels are the same in the list and by its id; half an id, or a name, is nobody's."""
    container_id = podman.run("--name", "web", "--label", "team=shop", "--label", "empty=")
    with closing(connect(podman.socket)) as runtime:
        found = runtime.one(container_id)
        listed = {c.container_id: c for c in runtime.all()}[container_id]
        assert said(found) == said(listed) == (b"web", docker.IMAGE.encode(), b"", b"", b"")
        assert found is not None
        assert dict(found.labels) == dict(listed.labels) == {"team": "shop", "empty": ""}
        assert (found.runtime, runtime.name, runtime.version.split()[0]) == (
            "podman",
            "podman",
            "podman",
        )
        assert [runtime.one(name) for name in (NOBODY, container_id[:12], "web", "../web?x")] == [
            None
        ] * 4


def test_podman_tells_of_what_is_gone(podman: Podman) -> None:
    """Of a container that ended and was removed at once, its creation tells name, image and labels; renaming is told, too."""
    with closing(connect(podman.socket)) as runtime:
        following = Following(runtime, time.time() - 1)
        short = podman.run("--rm", "--name", "short", "--label", "team=shop", command=("true",))
        until(lambda: bool(following.told(short)), "the creation is told")
        long = podman.run("--name", "before")
        podman("rename", "before", "after")
        until(lambda: long in following.news, "the new name is told")
        following.end()
    found = following.told(short)[0]
    assert said(found) == (b"short", docker.IMAGE.encode(), b"", b"", b"")
    assert dict(found.labels) == {"team": "shop"}
    assert following.ended


def test_podmans_image_by_its_id(podman: Podman) -> None:
    """A container that was made of an image by its id shows the image's name; by event, list and id alike."""
    with closing(connect(podman.socket)) as runtime:
        following = Following(runtime, time.time() - 1)
        image = podman("images", "--quiet", "--no-trunc")
        container_id = podman(
            "run", "--detach", "--network=none", f"--cgroup-parent=/{podman.cgroup}", image
        )
        until(
            lambda: bool(following.told(container_id)) or container_id in following.news,
            "the creation is told",
        )
        found = [
            runtime.one(container_id),
            *(c for c in runtime.all() if c.container_id == container_id),
        ]
        following.end()
    assert [said(c)[1] for c in (*found, *following.told(container_id))] == [
        docker.IMAGE.encode()
    ] * (2 + len(following.told(container_id)))


def test_kubernetes_labels_name_the_pod(podman: Podman) -> None:
    """Where a kubelet made a container through Docker's API, the pod comes from its labels."""
    names = {"pod.name": "shop-1", "pod.namespace": "prod", "container.name": "web"}
    labels = [f"--label=io.kubernetes.{key}={value}" for key, value in names.items()]
    container_id = podman.run("--name", "k8s_web", *labels)
    with closing(connect(podman.socket)) as runtime:
        assert said(runtime.one(container_id)) == (
            b"k8s_web",
            docker.IMAGE.encode(),
            b"shop-1",
            b"prod",
            b"web",
        )


def test_large_labels_are_cut(podman: Podman) -> None:
    """Of more labels than are kept, whole ones are left out from the end, and that is said; by event, list and id alike."""
    sizes = {"a": 40 << 10, "b": 20 << 10, "c": 40 << 10}
    with closing(connect(podman.socket)) as runtime:
        following = Following(runtime, time.time() - 1)
        container_id = podman.run(*(f"--label={key}={'x' * size}" for key, size in sizes.items()))
        until(lambda: bool(following.told(container_id)), "the creation is told")
        found, listed = (
            runtime.one(container_id),
            {c.container_id: c for c in runtime.all()}[container_id],
        )
        following.end()
    for container in (found, listed, following.told(container_id)[0]):
        assert container is not None
        assert container.labels_cut
        assert {key: len(value) for key, value in container.labels.items()} == {
            "a": 40 << 10,
            "b": 20 << 10,
        }
        assert sum(len(key) + len(value) for key, value in container.labels.items()) <= LABEL_BYTES


def test_containerd_tells_the_pod(containerd: Containerd) -> None:
    """By the CRI: a container's name, image, pod, and the labels of both; the pod's own container; what has ended."""
    pod = containerd.run_pod("shop-1", "prod", {"app": "shop"})
    web, ended = (
        containerd.run(pod, "web", labels={"team": "x"}),
        containerd.run(pod, "init", "true"),
    )
    image = cri.IMAGE.encode()
    with closing(connect(containerd.socket)) as runtime:
        found = runtime.one(web)
        assert said(found) == (b"web", image, b"shop-1", b"prod", b"web")
        assert found is not None
        assert {"app": "shop", "team": "x", "io.kubernetes.container.name": "web"}.items() <= dict(
            found.labels
        ).items()
        assert said(runtime.one(pod)) == (b"shop-1", cri.PAUSE.encode(), b"shop-1", b"prod", b"")
        assert said(runtime.one(ended)) == (b"init", image, b"shop-1", b"prod", b"init")
        assert [said(c) for c in runtime.all() if c.container_id == web] == [said(found)]
        assert [runtime.one(name) for name in (NOBODY, web[:12], pod[:12])] == [None] * 3
        assert (
            list(runtime.follow(0.0)) == []
        )  # containerd 1.6 has no such events, and that is no failure
        assert "containerd" in runtime.version


def test_odd_bytes(containerd: Containerd) -> None:
    """Names that are no UTF-8, which a runtime passes on, arrive byte by byte; in labels they are marked as unreadable."""
    pod = containerd.run_pod("p\udcfe")
    odd = containerd.run(pod, "é\n\udcff", labels={"odd": "\udcff"})
    with closing(connect(containerd.socket)) as runtime:
        found = runtime.one(odd)
    assert said(found) == (
        "é\n".encode() + b"\xff",
        cri.IMAGE.encode(),
        b"p\xfe",
        b"default",
        "é\n".encode() + b"\xff",
    )
    assert found is not None
    assert found.labels["odd"] == "\ufffd"


def test_an_image_by_its_digest(containerd: Containerd) -> None:
    """A kubelet asks for an image by its id; people see its name all the same."""
    pod = containerd.run_pod("digests")
    web = containerd.run(pod, "web", image=containerd.image_id())
    with closing(connect(containerd.socket)) as runtime:
        assert said(runtime.one(web))[1] == cri.IMAGE.encode()


def test_who_answers(podman: Podman, containerd: Containerd) -> None:
    """What stands behind a socket is found by its answer, whatever the socket is called; one under two names is one."""
    renamed = containerd.socket.with_name("other.sock")
    renamed.hardlink_to(containerd.socket)
    again = podman.socket.with_name("again.sock")
    again.symlink_to(podman.socket)
    found = {
        answer.path.name: answer
        for answer in answers([podman.socket, again, renamed, podman.socket.with_name("none")])
    }
    assert len(found) == 2
    assert found["other.sock"].version.startswith("containerd ")
    assert {answer.version.split()[0] for answer in found.values()} == {"containerd", "podman"}
