"""A real Kubernetes control plane on the loopback; kwok simulates nodes, so no container runs."""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from infrasight_testbed import kubeconfig
from infrasight_testbed.certificates import CertificateAuthority
from infrasight_testbed.control_plane_components import Component, Components
from infrasight_testbed.system import until


class ToolError(Exception):
    """kubectl or helm failed; the text is its error message."""


class ControlPlane:
    """etcd, API server with RBAC, controllers, scheduler and kwok.

    Attributes:
        url: The URL of the API server.
        admin: The administrator's kubeconfig.
        ca: The CA of the API server's certificate.

    Args:
        tools: The folder of the programs.
        folder: The folder for data, logs and credentials; the caller removes it.
    """

    def __init__(self, tools: Path, folder: Path) -> None:
        self._tools = tools
        self._folder = folder
        authority = CertificateAuthority(folder / "pki", "infrasight tests")
        self._components = Components(tools, folder, authority)
        self.url = self._components.url
        self.ca = folder / "pki" / "ca.pem"
        self.admin = self._components.admin

    def start(self, crds: Sequence[Path] = ()) -> None:
        """Starts all components; returns when the controllers work.

        Args:
            crds: Files or folders of definitions. They are applied before the controllers start,
                because the garbage collector looks for new kinds only every 30 s.
        """
        self._components.start(Component.ETCD)
        self.start_api_server()
        for definition in crds:
            self.kubectl("apply", "--server-side", "-f", str(definition))
        if crds:
            self.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        for component in (Component.CONTROLLERS, Component.SCHEDULER, Component.KWOK):
            self._components.start(component)
        until(
            lambda: self._succeeds("get", "serviceaccount", "default"),
            f"the controllers work\n{self.logs()}",
            60,
        )

    def start_api_server(self) -> None:
        """Starts the API server and waits until it is ready."""
        self._components.start(Component.API_SERVER)
        until(
            lambda: self._succeeds("get", "--raw", "/readyz"),
            f"the API server is ready\n{self.logs()}",
            60,
        )

    def kill_api_server(self) -> None:
        """Kills the API server with SIGKILL; stored objects survive."""
        self._components.kill(Component.API_SERVER)

    def stop(self) -> None:
        """Kills all components, clients first: an API server without etcd may hang."""
        self._components.stop()

    def logs(self) -> str:
        """The end of each component's log."""
        return self._components.logs()

    def _succeeds(self, *arguments: str) -> bool:
        self._components.fail_if_ended()
        command: list[str | Path] = [
            self._tools / "kubectl",
            f"--kubeconfig={self.admin}",
            *arguments,
        ]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def kubectl(self, *arguments: str, text: str | None = None, config: Path | None = None) -> str:
        """Runs kubectl; returns its output.

        Args:
            arguments: The command's arguments; each test names its namespace (`-n`).
            text: The standard input, for `-f -`.
            config: A kubeconfig; the administrator's by default.

        Raises:
            ToolError: kubectl failed.
        """
        return self._tool("kubectl", arguments, text, config or self.admin)

    def helm(self, *arguments: str, config: Path | None = None) -> str:
        """Runs helm as the administrator, or with another kubeconfig; returns its output.

        Raises:
            ToolError: helm failed.
        """
        return self._tool("helm", arguments, None, config or self.admin)

    def _tool(self, name: str, arguments: Sequence[str], text: str | None, config: Path) -> str:
        home = {
            f"HELM_{kind}_HOME": str(self._folder / "helm" / kind.lower())
            for kind in ("CACHE", "CONFIG", "DATA")
        }
        command: list[str | Path] = [self._tools / name, f"--kubeconfig={config}", *arguments]
        env = {**os.environ, **home}
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, env=env, timeout=120, check=False
        )
        if done.returncode != 0:
            raise ToolError(f"{name} {' '.join(arguments)}: {done.stderr}{done.stdout}")
        return done.stdout

    def get(self, kind: str, name: str, namespace: str = "default") -> dict[str, Any]:
        """Reads an object.

        Raises:
            ToolError: The object does not exist.
        """
        output = self.kubectl("get", kind, name, "-n", namespace, "-o", "json")
        body: dict[str, Any] = json.loads(output)
        return body

    def objects(self, kind: str, namespace: str = "default", *options: str) -> list[dict[str, Any]]:
        """The objects of a kind."""
        output = self.kubectl("get", kind, "-n", namespace, "-o", "json", *options)
        bodies: list[dict[str, Any]] = json.loads(output)["items"]
        return bodies

    def apply(self, *objects: dict[str, Any], namespace: str = "default") -> None:
        """Applies objects.

        Raises:
            ToolError: The API server rejected an object.
        """
        self.kubectl("apply", "-n", namespace, "-f", "-", text=yaml.safe_dump_all(objects))

    def add_node(self, name: str, **labels: str) -> None:
        """Adds a node and waits until it is Ready."""
        default_labels = {
            "kubernetes.io/hostname": name,
            "kubernetes.io/os": "linux",
            "type": "kwok",
        }
        metadata = {
            "name": name,
            "labels": default_labels | labels,
            "annotations": {"kwok.x-k8s.io/node": "fake"},
        }
        self.apply({"apiVersion": "v1", "kind": "Node", "metadata": metadata})
        self.kubectl("wait", "--for=condition=Ready", f"node/{name}", "--timeout=60s")

    def remove_node(self, name: str) -> None:
        """Removes a node, and with it the pods on it."""
        self.kubectl("delete", "node", name, "--ignore-not-found", "--wait=false")

    def account_kubeconfig(self, name: str, namespace: str) -> Path:
        """Writes a kubeconfig with a new token of a service account, as its pods have."""
        token = self.kubectl("create", "token", name, "-n", namespace, "--duration=24h").strip()
        return kubeconfig.with_token(
            self._folder / f"{namespace}-{name}.kubeconfig", self.url, self.ca, token, namespace
        )


@contextmanager
def running_control_plane(tools: Path, crds: Sequence[Path] = ()) -> Iterator[ControlPlane]:
    """A control plane whose processes and files are removed at the end."""
    with tempfile.TemporaryDirectory(prefix="infrasight-cluster-") as folder:
        control_plane = ControlPlane(tools, Path(folder))
        try:
            control_plane.start(crds)
            yield control_plane
        finally:
            control_plane.stop()
