"""What a kubelet does with the pods of an installation, as far as processes of this machine can show it.

kwok says that pods run and starts nothing. Here each pod's containers are our own commands with exactly the variables of the
pod, its secrets as files, its folders, and for the operator the token of its service account. What differs is `told`:
addresses, because there is neither a network of pods nor a DNS.
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
    """A pod's containers.

    Attributes:
        component: `operator`, `server` or `agent`.
        node: Where it runs.
        process: Its main container.

    Args:
        control_plane: Where its secrets are.
        body: The pod.
        folder: For its volumes and its log.
        told: Variables that hold instead of the pod's.
    """

    def __init__(
        self,
        control_plane: ControlPlane,
        body: Mapping[str, Any],
        folder: Path,
        told: Mapping[str, str],
    ) -> None:
        self._control_plane = control_plane
        self._body = body
        self._folder = folder
        self._told = told
        self._spec: Mapping[str, Any] = body["spec"]
        self.component: str = self._spec["containers"][0]["name"]
        self.node: str = self._spec["nodeName"]
        folder.mkdir(parents=True)
        self._volumes = {
            volume["name"]: self._volume(volume) for volume in self._spec.get("volumes", [])
        }
        self._initialised = False
        self._account: Path | None = (
            None  # as its service account; the token outlives a restart of the container
        )
        self.process = self.start()

    def _volume(self, volume: Mapping[str, Any]) -> str:
        if "hostPath" in volume:
            return str(volume["hostPath"]["path"])
        folder = self._folder / str(volume["name"])
        folder.mkdir()
        if "secret" in volume:
            namespace = self._body["metadata"]["namespace"]
            data = self._control_plane.get("secret", volume["secret"]["secretName"], namespace)[
                "data"
            ]
            for name, text in data.items():
                (folder / name).touch(mode=0o600)
                (folder / name).write_bytes(base64.b64decode(text))
        return str(folder)

    def start(self) -> Process:
        """Starts the main container; the first time what must come before it."""
        for container in self._spec.get("initContainers", []) if not self._initialised else []:
            with (self._folder / f"{container['name']}.log").open("ab") as log:
                command = self._command(container)
                env = self._environment(container)
                subprocess.run(
                    command,
                    env={**os.environ, **env},
                    stdout=log,
                    stderr=log,
                    timeout=120,
                    check=True,
                )
        self._initialised = True
        main = self._spec["containers"][0]
        env = self._environment(main)
        status = env[next(name for name in env if name.endswith("_STATUS_LISTEN"))]
        self.process = Process(
            ["setpriv", "--pdeathsig", "KILL", *self._command(main)],
            self._folder / "log",
            status,
            env,
        )
        return self.process

    def _command(self, container: Mapping[str, Any]) -> list[str | Path]:
        arguments = [self._local(container, argument) for argument in container.get("args", [])]
        return [BIN / _PROGRAMS[container["name"]], *arguments]

    def _environment(self, container: Mapping[str, Any]) -> dict[str, str]:
        """The container's variables, with paths of this machine."""
        made = {}
        for variable in container.get("env", []):
            if "valueFrom" in variable:
                value: Any = self._body
                for part in variable["valueFrom"]["fieldRef"]["fieldPath"].split("."):
                    value = value[part]
                made[variable["name"]] = str(value)
            else:
                made[variable["name"]] = self._local(container, variable.get("value", ""))
        if self._spec.get("automountServiceAccountToken", True):
            name = self._spec["serviceAccountName"]
            namespace = self._body["metadata"]["namespace"]
            self._account = self._account or self._control_plane.account(name, namespace)
            made["KUBECONFIG"] = str(self._account)
        return made | {name: value for name, value in self._told.items() if name in made}

    def _local(self, container: Mapping[str, Any], text: str) -> str:
        """A path in the container as it is here."""
        for mount in container.get("volumeMounts", []):
            if text == mount["mountPath"] or text.startswith(f"{mount['mountPath']}/"):
                return self._volumes[mount["name"]] + text.removeprefix(mount["mountPath"])
        return text

    def log(self) -> str:
        """What its containers have said."""
        return "\n".join(
            file.read_text(errors="replace") for file in sorted(self._folder.glob("*log"))
        )


class Kubelet:
    """Of all nodes of a namespace's pods.

    Attributes:
        pods: Those whose process was started, by name.

    Args:
        control_plane: The cluster.
        namespace: Whose pods.
        folder: For their files.
        told: Makes the variables that hold instead of a pod's; of its body.
    """

    def __init__(
        self,
        control_plane: ControlPlane,
        namespace: str,
        folder: Path,
        told: Callable[[Mapping[str, Any]], Mapping[str, str]],
    ) -> None:
        self._control_plane = control_plane
        self._namespace = namespace
        self._folder = folder
        self._told = told
        self.pods: dict[str, Pod] = {}

    def sync(self) -> None:
        """Starts what has come and stops what has gone; does nothing while the API server is away."""
        try:
            bodies = self._control_plane.objects(
                "pods", self._namespace, "--field-selector=status.phase=Running"
            )
        except ToolError as error:
            if "refused" not in str(error):
                raise
            return
        there = {
            body["metadata"]["name"]: body
            for body in bodies
            if "deletionTimestamp" not in body["metadata"]
        }
        for name in sorted(
            self.pods.keys() - there.keys(), key=lambda name: self.pods[name].component != "agent"
        ):
            self._remove(name)
        for name in sorted(
            there.keys() - self.pods.keys(),
            key=lambda name: there[name]["spec"]["containers"][0]["name"] == "agent",
        ):
            self.pods[name] = Pod(
                self._control_plane, there[name], self._folder / name, self._told(there[name])
            )

    def one(self, component: str, node: str = "") -> Pod:
        """The one pod of a component, on a node where that is named."""
        (found,) = (
            pod
            for pod in self.pods.values()
            if pod.component == component and node in ("", pod.node)
        )
        return found

    def stop(self) -> None:
        """Ends all processes, agents first."""
        for name in sorted(self.pods, key=lambda name: self.pods[name].component != "agent"):
            self._remove(name)

    def _remove(self, name: str) -> None:
        pod = self.pods.pop(name)
        pod.process.stop()
        shutil.rmtree(self._folder / name)
