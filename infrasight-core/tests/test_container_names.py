"""The columns that container runtimes fill, and the bounds of what is kept."""

import json
import resource
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from infrasight.v1.stream_pb2 import Container
from infrasight_core.containers.bounds import LABEL_BYTES
from infrasight_core.containers.columns import ContainerColumns
from infrasight_core.containers.description import describe
from infrasight_core.containers.metadata import BYTES, ENTRIES, ContainerMetadata
from infrasight_core.containers.metadata_cache import MetadataCache
from infrasight_core.containers.options import PLACES, ContainerOptions
from infrasight_core.containers.runtimes import connect
from infrasight_core.containers.update_queue import UpdateQueue
from infrasight_core.errors import ConfigError, RuntimeAnswerError, RuntimeUnavailableError
from infrasight_core.plugin.arrays import map_distinct
from infrasight_core.plugin.options import options_of
from infrasight_testbed import podman as testbed
from infrasight_testbed.container_service import short_folder
from infrasight_testbed.podman import running_podman
from prometheus_client import REGISTRY

NOWHERE = {"sockets": ["/nowhere/docker.sock"]}


def no_one(containers: object) -> None:
    """Nobody wants to know."""


def ids(*values: str | None) -> pa.DictionaryArray:
    """The column `container_id`, as an enricher makes it."""
    return map_distinct(np.arange(len(values)), lambda some: [values[i] for i in some], pa.string())


def test_columns_of_a_batch() -> None:
    """Rows in no container are empty; rows of an unknown container or id are null; the rest have what is known."""
    labels = [
        f"--label=io.kubernetes.{k}={v}"
        for k, v in (("pod.name", "p"), ("pod.namespace", "n"), ("container.name", "c"))
    ]
    with running_podman() as podman:
        plain, in_pod = podman.run("--name", "plain"), podman.run("--name", "k8s", *labels)
        with closing(
            ContainerColumns({"sockets": [str(podman.socket)], "wait": 5}, no_one)
        ) as names:
            columns = names.columns(ids("", plain, in_pod, "f" * 64, None, plain, ""))
    image = testbed.IMAGE.encode()
    assert {name: column.to_pylist() for name, column in columns.items()} == {
        "container_name": [b"", b"plain", b"k8s", None, None, b"plain", b""],
        "container_image": [b"", image, image, None, None, image, b""],
        "pod_name": [b"", b"", b"p", None, None, b"", b""],
        "pod_namespace": [b"", b"", b"n", None, None, b"", b""],
        "pod_container": [b"", b"", b"c", None, None, b"", b""],
    }
    assert {column.type for column in columns.values()} == {pa.dictionary(pa.int32(), pa.binary())}
    for column in columns.values():  # ClickHouse refuses a dictionary that says something twice
        assert len(set(column.dictionary.to_pylist())) == len(column.dictionary)


def test_batches_without_containers() -> None:
    """A host without containers, and a batch of nulls only, need no runtime."""
    with closing(ContainerColumns(NOWHERE, no_one)) as names:
        assert {tuple(c.to_pylist()) for c in names.columns(ids("", "")).values()} == {(b"", b"")}
        assert {tuple(c.to_pylist()) for c in names.columns(ids(None)).values()} == {(None,)}
        assert {
            tuple(c.to_pylist()) for c in names.columns(ids("a" * 64, "").slice(1)).values()
        } == {(b"",)}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"socket": ["/x"]},
            "unknown key options.containers.socket (the agent's settings): did you mean sockets?",
        ),
        ({"colour": 1}, "allowed are sockets, wait, host"),
        (
            {"sockets": "/x"},
            "options.containers.sockets = '/x' (the agent's settings): expected a list, each item text",
        ),
        ({"sockets": ["x.sock"]}, "expected the absolute path of a Unix socket, not 'x.sock'"),
        (
            {"wait": "long"},
            "options.containers.wait = 'long' (the agent's settings): expected a number",
        ),
        ({"wait": 60}, "options.containers.wait = 60 (the agent's settings): must be <= 5"),
    ],
)
def test_options_that_are_wrong(options: dict[str, object], said: str) -> None:
    """Each names the key, its value and what is allowed."""
    with pytest.raises(ConfigError) as refused:
        ContainerColumns(options, no_one)
    assert said in str(refused.value)


def test_where_sockets_are_looked_for() -> None:
    """At the usual places, below the host's root where that is elsewhere; only at the named ones where some are named."""
    assert ContainerOptions().places() == tuple(Path("/") / place for place in PLACES)
    assert (
        Path("/host/run/containerd/containerd.sock")
        in ContainerOptions(host=Path("/host")).places()
    )
    assert ContainerOptions(host=Path("/host"), sockets=("/a.sock",)).places() == (Path("/a.sock"),)


def test_labels_are_bounded() -> None:
    """Labels are kept in order and whole, up to the bound; the first that does not fit ends them."""
    labels = {f"k{i:03}": "v" * 1020 for i in range(100)}
    container = describe("a" * 64, "docker", b"n", b"i", labels)
    assert (len(container.labels), container.labels_cut) == (64, True)
    assert sorted(container.labels) == sorted(labels)[:64]
    exactly = describe("a" * 64, "docker", b"n", b"i", {"k": "v" * (LABEL_BYTES - 1)})
    assert (len(exactly.labels), exactly.labels_cut) == (1, False)
    with pytest.raises(RuntimeAnswerError, match="a name of 5000 bytes is not believed"):
        describe("a" * 64, "docker", b"n" * 5000, b"i", {})


def test_ten_thousand_containers_and_more() -> None:
    """However many containers come and go, what is remembered of them is bounded in number; the newest are remembered."""
    with closing(
        ContainerMetadata(options_of("containers", NOWHERE, ContainerOptions), no_one)
    ) as lookups:
        for first in range(0, 30_000, 100):
            assert (
                lookups.known([f"{number:064x}" for number in range(first, first + 100)])
                == [None] * 100
            )
        assert lookups.remembered() == ENTRIES
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for first in range(30_000, 60_000, 100):
            lookups.known([f"{number:064x}" for number in range(first, first + 100)])
        assert lookups.remembered() == ENTRIES
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 << 10  # KiB


def test_memory_is_bounded_in_bytes() -> None:
    """Large labels push out what was used longest ago; told, they are let go, and their names stay."""
    memory = MetadataCache(ENTRIES, BYTES)
    labels = {"k": "v" * 60_000}
    for number in range(1000):
        memory.learn(str(number), describe(str(number), "docker", b"n", b"i", labels))
        assert memory.bytes <= BYTES
    assert 200 < len(memory) < 300
    assert memory.get("999") is not None
    assert memory.get("0") is None
    for container_id in list(memory):
        entry = memory.get(container_id)
        assert entry is not None
        entry.had_events = True
        whole = memory.tell(entry)
        assert whole is not None
        assert len(whole.labels["k"]) == 60_000
        assert memory.tell(entry) is None
    assert memory.bytes < 1 << 20
    assert len(memory) > 200


def test_news_wait_in_bounds_and_go_in_portions() -> None:
    """What is to be told goes in messages of bounded size, in order; what no longer fits, or is not taken, is counted."""
    told: list[list[str]] = []
    news = UpdateQueue(lambda some: told.append([c.container_id for c in some]))
    for number in range(300):
        news.add(describe(str(number), "docker", b"n", b"i", {"k": "v" * 60_000}))
    while news:
        news.hand_over(news.take())
    arrived = [container_id for some in told for container_id in some]
    assert max(map(len, told)) <= 18
    assert arrived == [str(number) for number in range(300 - len(arrived), 300)]
    before = REGISTRY.get_sample_value("infrasight_container_lookup_updates_dropped_total") or 0
    assert before >= 300 - len(arrived) > 0

    def broken(some: Sequence[Container]) -> None:
        raise OSError("no room")

    refused = UpdateQueue(broken)
    refused.add(describe("a", "docker", b"n", b"i", {}))
    refused.hand_over(refused.take())
    assert (
        REGISTRY.get_sample_value("infrasight_container_lookup_updates_dropped_total") == before + 1
    )


def test_two_runtimes_with_the_same_container() -> None:
    """What the CRI says of a container holds against Docker's word, in whichever order they come, and nothing flickers."""
    docker, cri = (
        describe("a", runtime, runtime.encode(), b"i", {}) for runtime in ("docker", "cri")
    )
    for order in ((docker, cri, docker), (cri, docker)):
        memory = MetadataCache(10, BYTES)
        news = [memory.learn("a", said) for said in order]
        entry = memory.get("a")
        assert entry is not None
        assert entry.container == cri
        assert news[-1] is False


@contextmanager
def answering(body: bytes) -> Iterator[Path]:
    """A socket that answers every question with this body."""
    with short_folder() as folder, socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "docker.sock"))
        listening.listen(8)

        def serve() -> None:
            while True:
                asking, _ = listening.accept()
                with asking:
                    if not asking.recv(1 << 16):
                        return
                    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
                    asking.sendall(head.encode() + body)

        thread = threading.Thread(target=serve)
        thread.start()
        yield folder / "docker.sock"
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(str(folder / "docker.sock"))
        thread.join()


def test_odd_texts() -> None:
    """Halves of characters in JSON, control characters and other scripts arrive as far as bytes can hold them."""
    entry = {
        "Id": "a",
        "Name": "/\ud800é\n",
        "Config": {"Image": "ünï", "Labels": {"\udfff": "\x00\udc80", "n": 7}},
    }
    with answering(json.dumps(entry).encode()) as path, closing(connect(path)) as runtime:
        found = runtime.one("a")
    assert isinstance(found, Container)
    assert (found.name, found.image) == ("?é\n".encode(), "ünï".encode())
    assert dict(found.labels) == {"?": "\x00?", "n": "7"}


def test_what_is_no_runtime() -> None:
    """A socket of something else is refused with its path and why."""
    with answering(b"<html>") as path, pytest.raises(RuntimeUnavailableError, match=str(path)):
        connect(path)
    with pytest.raises(RuntimeUnavailableError, match="No such file"):
        connect(Path("/nowhere/docker.sock"))
