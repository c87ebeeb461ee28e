"""Runs the pods of an installation as local processes, in place of a kubelet.

kwok reports pods as running but starts nothing. Here each container is a local process of the same
command, with exactly the pod's environment variables, its Secrets as files, its directories, and
for the operator the token of its service account. Only addresses are overridden, because there is
no pod network and no DNS.
"""

import base64
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from infrasight_testbed.control_plane import ControlPlane, ToolError
from infrasight_testbed.system import BIN, Process

_PROGRAMS = {
    "operator": "infrasight-operator",
    "server": "infrasight-server",
    "agent": "infrasight",
    "packages": "infrasight",
}


class Pod:
    """The containers of one pod.

    Attributes:
        component: `operator`, `server` or `agent`.
        node: The pod's node.
        process: The main container.

    Args:
        control_plane: The cluster with the pod's Secrets.
        body: The pod.
        folder: The folder for volumes and logs.
        host: The folder with the directories of the node that pods create, and that outlive them.
        overrides: Variables that replace the pod's.
    """

    def __init__(
        self,
        control_plane: ControlPlane,
        body: Mapping[str, Any],
        folder: Path,
        host: Path,
        overrides: Mapping[str, str],
    ) -> None:
        self._control_plane = control_plane
        self._body = body
        self._folder = folder
        self._host = host
        self._overrides = overrides
        self._spec: Mapping[str, Any] = body["spec"]
        self.component: str = self._spec["containers"][0]["name"]
        self.node: str = self._spec["nodeName"]
        folder.mkdir(parents=True)
        self._volumes = {
            volume["name"]: self._create_volume(volume) for volume in self._spec.get("volumes", [])
        }
        self._initialized = False
        # The token outlives a restart of the container.
        self._kubeconfig: Path | None = None
        self.process = self.start()

    def _create_volume(self, volume: Mapping[str, Any]) -> str:
        if "hostPath" in volume and volume["hostPath"]["type"] == "DirectoryOrCreate":
            created = self._host / volume["hostPath"]["path"].lstrip("/")
            created.mkdir(parents=True, exist_ok=True)
            return str(created)
        if "hostPath" in volume:
            return str(volume["hostPath"]["path"])
        folder = self._folder / str(volume["name"])
        folder.mkdir()
        if "secret" in volume:
            namespace = self._body["metadata"]["namespace"]
            secret = self._control_plane.get("secret", volume["secret"]["secretName"], namespace)
            for name, text in secret["data"].items():
                (folder / name).touch(mode=0o600)
                (folder / name).write_bytes(base64.b64decode(text))
        return str(folder)

    def start(self) -> Process:
        """Starts the main container, the first time after the init containers."""
        if not self._initialized:
            for container in self._spec.get("initContainers", []):
                self._run_init_container(container)
            self._initialized = True
        main = self._spec["containers"][0]
        environment = self._environment(main)
        status = next(
            value for name, value in environment.items() if name.endswith("_STATUS_LISTEN")
        )
        command: list[str | Path] = ["setpriv", "--pdeathsig", "KILL", *self._command(main)]
        self.process = Process(command, self._folder / "log", status, environment)
        return self.process

    def _run_init_container(self, container: Mapping[str, Any]) -> None:
        with (self._folder / f"{container['name']}.log").open("ab") as log:
            subprocess.run(
                self._command(container),
                env={**os.environ, **self._environment(container)},
                stdout=log,
                stderr=log,
                timeout=120,
                check=True,
            )

    def _command(self, container: Mapping[str, Any]) -> list[str | Path]:
        arguments = [
            self._local_path(container, argument) for argument in container.get("args", [])
        ]
        return [BIN / _PROGRAMS[container["name"]], *arguments]

    def _environment(self, container: Mapping[str, Any]) -> dict[str, str]:
        """The container's variables, with local paths and the overrides."""
        environment = {}
        for variable in container.get("env", []):
            if "valueFrom" in variable:
                value: Any = self._body
                for field in variable["valueFrom"]["fieldRef"]["fieldPath"].split("."):
                    value = value[field]
                environment[variable["name"]] = str(value)
            else:
                value = variable.get("value", "")
                environment[variable["name"]] = self._local_path(container, value)
        if self._spec.get("automountServiceAccountToken", True):
            environment["KUBECONFIG"] = str(self._account_kubeconfig())
        overrides = {name: value for name, value in self._overrides.items() if name in environment}
        return environment | overrides

    def _account_kubeconfig(self) -> Path:
        if self._kubeconfig is None:
            name = self._spec["serviceAccountName"]
            namespace = self._body["metadata"]["namespace"]
            self._kubeconfig = self._control_plane.account_kubeconfig(name, namespace)
        return self._kubeconfig

    def _local_path(self, container: Mapping[str, Any], text: str) -> str:
        """Converts a path in a mount to the local path; returns other text unchanged."""
        for mount in container.get("volumeMounts", []):
            if text == mount["mountPath"] or text.startswith(f"{mount['mountPath']}/"):
                return self._volumes[mount["name"]] + text.removeprefix(mount["mountPath"])
        return text

    def log(self) -> str:
        """The logs of all containers."""
        files = sorted(self._folder.glob("*log"))
        return "\n".join(file.read_text(errors="replace") for file in files)


class Kubelet:
    """Runs the pods of one namespace, of all nodes.

    Attributes:
        pods: The running pods, by name.

    Args:
        control_plane: The cluster.
        namespace: The namespace.
        folder: The folder for the pods' files.
        overrides: Returns the variables that replace a pod's, for the pod's body.
    """

    def __init__(
        self,
        control_plane: ControlPlane,
        namespace: str,
        folder: Path,
        overrides: Callable[[Mapping[str, Any]], Mapping[str, str]],
    ) -> None:
        self._control_plane = control_plane
        self._namespace = namespace
        self._folder = folder
        self._overrides = overrides
        self.pods: dict[str, Pod] = {}

    def sync(self) -> None:
        """Starts new pods and stops deleted ones, unless the API server is unavailable."""
        try:
            bodies = self._control_plane.objects(
                "pods", self._namespace, "--field-selector=status.phase=Running"
            )
        except ToolError as error:
            if "refused" not in str(error):
                raise
            return
        current = {
            body["metadata"]["name"]: body
            for body in bodies
            if "deletionTimestamp" not in body["metadata"]
        }
        self._remove(self.pods.keys() - current.keys())

        def is_agent(name: str) -> bool:
            return bool(current[name]["spec"]["containers"][0]["name"] == "agent")

        for name in sorted(current.keys() - self.pods.keys(), key=is_agent):
            body = current[name]
            overrides = self._overrides(body)
            host = self._folder / f"host-{body['spec']['nodeName']}"
            folder = self._folder / name
            self.pods[name] = Pod(self._control_plane, body, folder, host, overrides)

    def pod(self, component: str, node: str = "") -> Pod:
        """The only pod of a component, or its only pod on a node."""
        (pod,) = (
            pod
            for pod in self.pods.values()
            if pod.component == component and node in ("", pod.node)
        )
        return pod

    def stop(self) -> None:
        """Stops all pods."""
        self._remove(set(self.pods))

    def _remove(self, names: set[str]) -> None:
        """Stops pods, agents first."""
        for name in sorted(names, key=lambda name: self.pods[name].component != "agent"):
            self.pods.pop(name).process.stop()
            shutil.rmtree(self._folder / name)
