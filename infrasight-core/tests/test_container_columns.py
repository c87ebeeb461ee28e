"""The columns that container runtimes fill, the enricher's options, and odd answers of runtimes."""

import json
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from infrasight.v1.stream_pb2 import Container
from infrasight_core.containers.bounds import MAX_LABEL_BYTES, find_violation
from infrasight_core.containers.columns import ContainerColumnBuilder
from infrasight_core.containers.description import Pod, describe_container
from infrasight_core.containers.options import DEFAULT_SOCKETS, ContainerOptions
from infrasight_core.containers.runtimes import connect
from infrasight_core.errors import ConfigError, RuntimeAnswerError, RuntimeUnavailableError
from infrasight_core.plugin.arrays import map_distinct
from infrasight_core.plugin.options import options_of
from infrasight_testbed import podman as testbed
from infrasight_testbed.container_service import short_folder
from infrasight_testbed.podman import running_podman

NO_RUNTIME = ContainerOptions(sockets=("/nowhere/docker.sock",))


def ignore(containers: Sequence[Container]) -> None:
    """Ignores updates."""


def id_column(*values: str | None) -> pa.DictionaryArray:
    """Returns the column `container_id`, as the enricher makes it."""
    rows = np.arange(len(values))
    return map_distinct(rows, lambda distinct: [values[row] for row in distinct], pa.string())


def test_columns_have_the_names_of_containers_and_pods() -> None:
    """Rows outside of containers are empty, rows of unknown containers null, the rest filled."""
    pod = Pod(b"p", b"n", b"c")
    image = testbed.IMAGE.encode()
    in_pod = "9" * 64
    with running_podman() as podman:
        plain = podman.run("--name", "plain", "--label=io.kubernetes.pod.name=no-pod")
        options = ContainerOptions(sockets=(str(podman.socket),), wait=5)
        with closing(ContainerColumnBuilder(options, ignore)) as builder:
            reported = describe_container(in_pod, "cri", b"k8s", image, {}, pod)
            builder._lookup.on_container(Path("/run/cri.sock"), reported)
            columns = builder.build(id_column("", plain, in_pod, "f" * 64, None, plain, ""))
    assert {name: column.to_pylist() for name, column in columns.items()} == {
        "container_name": [b"", b"plain", b"k8s", None, None, b"plain", b""],
        "container_image": [b"", image, image, None, None, image, b""],
        "pod_name": [b"", b"", b"p", None, None, b"", b""],
        "pod_namespace": [b"", b"", b"n", None, None, b"", b""],
        "pod_container": [b"", b"", b"c", None, None, b"", b""],
    }
    assert {column.type for column in columns.values()} == {pa.dictionary(pa.int32(), pa.binary())}
    for column in columns.values():  # ClickHouse rejects a dictionary with equal values
        assert len(set(column.dictionary.to_pylist())) == len(column.dictionary)


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (id_column("", ""), (b"", b"")),
        (id_column(None), (None,)),
        (id_column("a" * 64, "").slice(1), (b"",)),
    ],
    ids=["outside", "unknown", "slice"],
)
def test_columns_without_containers_need_no_runtime(
    ids: pa.DictionaryArray, expected: tuple[bytes | None, ...]
) -> None:
    """A batch outside of containers is empty, a batch of unknown cgroups null."""
    with closing(ContainerColumnBuilder(NO_RUNTIME, ignore)) as builder:
        columns = builder.build(ids)
    assert {tuple(column.to_pylist()) for column in columns.values()} == {expected}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"socket": ["/x"]},
            "unknown key options.containers.socket (the agent's settings): did you mean sockets?",
        ),
        ({"colour": 1}, "allowed are sockets, wait, host"),
        (
            {"sockets": "/x"},
            "options.containers.sockets = '/x' (the agent's settings): "
            "expected a list, each item text",
        ),
        ({"sockets": ["x.sock"]}, "expected the absolute path of a Unix socket, not 'x.sock'"),
        (
            {"wait": "long"},
            "options.containers.wait = 'long' (the agent's settings): expected a number",
        ),
        ({"wait": 60}, "options.containers.wait = 60 (the agent's settings): must be <= 5"),
    ],
)
def test_invalid_options_are_rejected(options: dict[str, object], message: str) -> None:
    """Each error names the key, its value and what is allowed."""
    with pytest.raises(ConfigError) as error:
        options_of("containers", options, ContainerOptions)
    assert message in str(error.value)


def test_socket_paths_are_the_usual_ones_or_those_of_the_options() -> None:
    """The usual paths are relative to the host's root; named sockets replace them."""
    usual = tuple(Path("/") / socket for socket in DEFAULT_SOCKETS)
    assert ContainerOptions().socket_paths() == usual
    in_host = ContainerOptions(host=Path("/host")).socket_paths()
    assert Path("/host/run/containerd/containerd.sock") in in_host
    named = ContainerOptions(host=Path("/host"), sockets=("/a.sock",))
    assert named.socket_paths() == (Path("/a.sock"),)


def test_labels_are_bounded() -> None:
    """Labels are included in order and whole until one exceeds the bound."""
    labels = {f"k{i:03}": "v" * 1020 for i in range(100)}
    container = describe_container("a" * 64, "docker", b"n", b"i", labels)
    assert (len(container.labels), container.labels_cut) == (64, True)
    assert sorted(container.labels) == sorted(labels)[:64]
    largest = {"k": "v" * (MAX_LABEL_BYTES - 1)}
    container = describe_container("a" * 64, "docker", b"n", b"i", largest)
    assert (len(container.labels), container.labels_cut) == (1, False)
    assert find_violation(container) == ""


def test_implausible_names_are_rejected() -> None:
    """A name that no runtime allows is an error of the runtime's answer."""
    with pytest.raises(RuntimeAnswerError, match="implausible name of 5000 bytes"):
        describe_container("a" * 64, "docker", b"n" * 5000, b"i", {})


@contextmanager
def answering_socket(body: bytes) -> Iterator[Path]:
    """Listens on a socket that answers every query with this body."""
    with short_folder() as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "docker.sock"))
        listener.listen(8)
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"

        def serve() -> None:
            while True:
                connection, _ = listener.accept()
                with connection:
                    if not connection.recv(1 << 16):
                        return
                    connection.sendall(head.encode() + body)

        thread = threading.Thread(target=serve)
        thread.start()
        yield folder / "docker.sock"
        with socket.socket(socket.AF_UNIX) as last:  # sends nothing, which ends the thread
            last.connect(str(folder / "docker.sock"))
        thread.join()


def test_odd_texts_arrive_as_far_as_utf8_allows() -> None:
    """Lone surrogates become question marks; control characters and other scripts are unchanged."""
    entry = {
        "Id": "a",
        "Name": "/\ud800é\n",
        "Config": {"Image": "ünï", "Labels": {"\udfff": "\x00\udc80", "n": 7}},
    }
    with answering_socket(json.dumps(entry).encode()) as path, closing(connect(path)) as runtime:
        container = runtime.find_container("a")
    assert isinstance(container, Container)
    assert (container.name, container.image) == ("?é\n".encode(), "ünï".encode())
    assert dict(container.labels) == {"?": "\x00?", "n": "7"}


def test_socket_without_a_runtime_is_unavailable() -> None:
    """The error names the socket and the reason."""
    with (
        answering_socket(b"<html>") as path,
        pytest.raises(RuntimeUnavailableError, match=str(path)),
    ):
        connect(path)
    with pytest.raises(RuntimeUnavailableError, match="No such file"):
        connect(Path("/nowhere/docker.sock"))
