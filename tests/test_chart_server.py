"""What the chart tells its server is what the server understands: it runs with the rendered settings and certificates."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from infrasight_testbed.chart import environment, named, render, secret_files
from infrasight_testbed.chart_values import EMBEDDED
from infrasight_testbed.clickhouse import free_port
from infrasight_testbed.system import BIN, Process, until


def query(address: str, certificates: Path | None) -> subprocess.CompletedProcess[str]:
    """The query of `helm test`, with a folder of tls.crt, tls.key and ca.crt."""
    environ = {**os.environ, "INFRASIGHT_SERVER": address}
    if certificates is not None:
        files = {"CERTIFICATE": "tls.crt", "KEY": "tls.key", "CA": "ca.crt"}
        environ |= {
            f"INFRASIGHT_TLS_{name}": str(certificates / file) for name, file in files.items()
        }
    command: list[str | Path] = [BIN / "infrasight", "query", "SELECT 1 AS ready"]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)


@pytest.fixture
def manifests(cluster_tools: Path) -> list[dict[str, Any]]:
    """The chart with the embedded store."""
    return render(cluster_tools, EMBEDDED)


@pytest.fixture
def server(manifests: list[dict[str, Any]], tmp_path: Path) -> Iterator[str]:
    """A server that runs as the Deployment says, but for ports and folders; its address."""
    container = named(manifests, "Deployment", "infrasight-server")["spec"]["template"]["spec"][
        "containers"
    ][0]
    tls = secret_files(named(manifests, "Secret", "infrasight-server-tls"), tmp_path / "server")
    told = {
        key: value.replace("/etc/infrasight/tls", str(tls))
        for key, value in environment(container).items()
    }
    address, status = (f"localhost:{free_port()}" for _ in range(2))
    told |= {"INFRASIGHT_SERVER_LISTEN": address, "INFRASIGHT_SERVER_STATUS_LISTEN": status}
    told["INFRASIGHT_SERVER_DATA"] = str(tmp_path / "data")
    process = Process([BIN / "infrasight-server"], tmp_path / "server.log", status, told)
    until(process.ready, f"the server is ready\n{process.log()}")
    yield address
    assert process.stop() == 0, process.log()


def test_queries_need_a_certificate_of_this_installation(
    cluster_tools: Path, manifests: list[dict[str, Any]], server: str, tmp_path: Path
) -> None:
    """Client, agent and server itself are answered with the certificates of the chart; another installation's are not."""
    for role in ("client", "agent", "server"):
        folder = secret_files(named(manifests, "Secret", f"infrasight-{role}-tls"), tmp_path / role)
        done = query(server, folder)
        assert (done.returncode, done.stdout) == (0, '{"ready":1}\n'), done.stderr
    stranger = secret_files(
        named(render(cluster_tools, EMBEDDED), "Secret", "infrasight-client-tls"),
        tmp_path / "stranger",
    )
    assert query(server, stranger).returncode != 0
    (stranger / "ca.crt").write_bytes(
        (tmp_path / "client" / "ca.crt").read_bytes()
    )  # it trusts the server, who does not trust it
    assert query(server, stranger).returncode != 0
