"""The chart in a cluster of its own: installed with helm, its pods played by processes, and what its resources say."""

import base64
import json
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from infrasight_testbed.chart import CHART
from infrasight_testbed.clickhouse import free_port
from infrasight_testbed.control_plane import ControlPlane
from infrasight_testbed.kubelet import Kubelet
from infrasight_testbed.system import BIN, WAIT_SECONDS, until

NAMESPACE = "infrasight"


class InstalledChart:
    """An installation.

    Attributes:
        kubelet: Its pods.

    Args:
        control_plane: The cluster.
        folder: For its files.
    """

    def __init__(self, control_plane: ControlPlane, folder: Path) -> None:
        self._control_plane = control_plane
        self._folder = folder
        self._server, self._operator = (f"127.0.0.1:{free_port()}" for _ in range(2))
        self.kubelet = Kubelet(control_plane, NAMESPACE, folder / "pods", self._told)
        self._certificate = folder / "client"

    def _told(self, body: Mapping[str, Any]) -> dict[str, str]:
        """Addresses of this machine in place of those in the cluster."""
        status = f"127.0.0.1:{free_port()}"
        return {
            "INFRASIGHT_SERVER_LISTEN": self._server,
            "INFRASIGHT_SERVER_STATUS_LISTEN": status,
            "INFRASIGHT_OPERATOR_LISTEN": self._operator,
            "INFRASIGHT_OPERATOR_STATUS_LISTEN": status,
            "INFRASIGHT_AGENT_SERVER": self._server,
            "INFRASIGHT_AGENT_OPERATOR": self._operator,
            "INFRASIGHT_AGENT_STATUS_LISTEN": status,
            "INFRASIGHT_AGENT_OPTIONS__CONTAINERS__HOST": "/",
        }

    def install(self, values: Mapping[str, Any]) -> None:
        """`helm install`."""
        file = self._folder / "values.yaml"
        file.write_text(yaml.safe_dump(values), encoding="utf-8")
        self._control_plane.helm(
            "install",
            "infrasight",
            str(CHART),
            "-n",
            NAMESPACE,
            "--create-namespace",
            "-f",
            str(file),
        )
        self._certificate.mkdir()
        for name, text in self.get("secret", "infrasight-client-tls")["data"].items():
            (self._certificate / name).touch(mode=0o600)
            (self._certificate / name).write_bytes(base64.b64decode(text))

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """One of its objects."""
        return self._control_plane.get(kind, name, NAMESPACE)

    def until(self, done: Callable[[], bool], what: str, seconds: float = WAIT_SECONDS) -> None:
        """Waits, while pods come and go."""

        def synced() -> bool:
            self.kubelet.sync()
            return done()

        until(synced, what, seconds)

    def command(self, name: str, *arguments: str) -> list[dict[str, Any]]:
        """The JSON lines of `infrasight NAME`, asked with the certificate that the chart made for people."""
        tls = {"certificate": "tls.crt", "key": "tls.key", "ca": "ca.crt"}
        options = [f"--tls-{option}={self._certificate / file}" for option, file in tls.items()]
        command: list[str | Path] = [
            BIN / "infrasight",
            name,
            "--server",
            self._server,
            *options,
            *arguments,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr + done.stdout
        return [json.loads(line) for line in done.stdout.splitlines()]


@contextmanager
def installed_chart(control_plane: ControlPlane, folder: Path) -> Iterator[InstalledChart]:
    """Leaves no process."""
    chart = InstalledChart(control_plane, folder)
    try:
        yield chart
    finally:
        chart.kubelet.stop()
