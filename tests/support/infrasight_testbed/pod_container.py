"""Converts a container of a pod template to podman's options or to a CRI config, like a kubelet.

Only the fields that the manifests of this project use are supported.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from infrasight_testbed.seccomp_profile import PROFILES
from infrasight_testbed.v1 import pods_pb2 as pods

_SECCOMP = Path("/usr/share/containers/seccomp.json")
# The system calls that CAP_BPF and CAP_PERFMON permit. The default seccomp profile of Debian 12's
# podman allows them only with CAP_SYS_ADMIN; those of containerd, CRI-O and newer podmans allow
# them with the capability.
_SYSTEM_CALLS = {"CAP_BPF": "bpf", "CAP_PERFMON": "perf_event_open"}
_PROFILE_TYPES = {"RuntimeDefault": 0, "Unconfined": 1, "Localhost": 2}


@frozen
class Mount:
    """A bind mount.

    Attributes:
        host: The path on the host.
        container: The path in the container.
        read_only: Whether it is read-only.
        follows_host: Whether later mounts and unmounts of the host appear in the container.
    """

    host: Path
    container: str
    read_only: bool
    follows_host: bool


@frozen
class PodContainer:
    """A container as a runtime receives it.

    Attributes:
        args: The arguments of the image's entry point.
        environment: The environment variables.
        mounts: The bind mounts.
        security: The container's `securityContext`.
        seccomp: The effective seccomp profile, from the container or the pod.
        host_pid: Whether it shares the host's PID namespace.
    """

    args: tuple[str, ...]
    environment: Mapping[str, str]
    mounts: tuple[Mount, ...]
    security: Mapping[str, Any]
    seccomp: Mapping[str, str]
    host_pid: bool

    @classmethod
    def from_template(
        cls,
        template: Mapping[str, Any],
        name: str,
        folder: Path,
        fields: Mapping[str, str],
        overrides: Mapping[str, str | None],
    ) -> "PodContainer":
        """Converts a container of a pod template.

        Args:
            template: The pod template, for example of a DaemonSet.
            name: The container's name.
            folder: The folder for the pod's emptyDir volumes.
            fields: The values of the downward API, by field path.
            overrides: Variables that replace the template's; None removes one.
        """
        pod = template["spec"]
        containers = [*pod.get("initContainers", ()), *pod["containers"]]
        (container,) = (entry for entry in containers if entry["name"] == name)
        annotations = template.get("metadata", {}).get("annotations", {})
        all_fields = {
            **{f"metadata.annotations['{key}']": value for key, value in annotations.items()},
            **fields,
        }
        variables: dict[str, str | None] = {
            entry["name"]: _variable_value(entry, all_fields) for entry in container.get("env", ())
        }
        variables.update(overrides)
        environment = {key: value for key, value in variables.items() if value is not None}
        sources = {
            volume["name"]: _create_volume(volume, folder / volume["name"], all_fields)
            for volume in pod["volumes"]
        }
        mounts = tuple(
            _mount(entry, sources[entry["name"]]) for entry in container.get("volumeMounts", ())
        )
        security = container.get("securityContext", {})
        seccomp = (
            security.get("seccompProfile")
            or pod.get("securityContext", {}).get("seccompProfile")
            or {"type": "Unconfined"}
        )
        return cls(
            args=tuple(container.get("args", ())),
            environment=environment,
            mounts=mounts,
            security=security,
            seccomp=seccomp,
            host_pid=bool(pod.get("hostPID")),
        )

    def podman_options(self, folder: Path) -> list[str]:
        """The options for `podman run`.

        Args:
            folder: The folder for the seccomp profile.
        """
        security = self.security
        capabilities = security.get("capabilities", {})
        options = [f"--cap-drop={name}" for name in capabilities.get("drop", ())]
        options += [f"--cap-add={name}" for name in capabilities.get("add", ())]
        options += [f"--env={name}={value}" for name, value in self.environment.items()]
        for mount in self.mounts:
            flags = [
                "ro" if mount.read_only else "rw",
                "rslave" if mount.follows_host else "rprivate",
            ]
            options.append(f"--volume={mount.host}:{mount.container}:{','.join(flags)}")
        if security.get("privileged"):
            options.append("--privileged")
        if security.get("readOnlyRootFilesystem"):
            options += ["--read-only", "--read-only-tmpfs=false"]
        if security.get("allowPrivilegeEscalation") is False:
            options.append("--security-opt=no-new-privileges")
        if "runAsUser" in security:
            options.append(f"--user={security['runAsUser']}:{security['runAsGroup']}")
        options.append(f"--pid={'host' if self.host_pid else 'private'}")
        return [
            *options,
            f"--security-opt=seccomp={self._podman_profile(folder)}",
            "--cgroupns=private",
        ]

    def cri_config(self) -> pods.ContainerConfig:
        """The container's config for the CRI, with the host's network."""
        security = self.security
        capabilities = security.get("capabilities", {})
        context = pods.LinuxContainerSecurityContext(
            capabilities=pods.Capability(
                add_capabilities=capabilities.get("add", ()),
                drop_capabilities=capabilities.get("drop", ()),
            ),
            privileged=bool(security.get("privileged")),
            namespace_options=pods.NamespaceOption(network=2, pid=2 if self.host_pid else 1),
            run_as_user=_int64(security.get("runAsUser")),
            run_as_group=_int64(security.get("runAsGroup")),
            readonly_rootfs=bool(security.get("readOnlyRootFilesystem")),
            no_new_privs=security.get("allowPrivilegeEscalation") is False,
            seccomp=pods.SecurityProfile(profile_type=_PROFILE_TYPES[self.seccomp["type"]]),
        )
        config = pods.ContainerConfig(
            args=self.args, linux=pods.LinuxContainerConfig(security_context=context)
        )
        for name, value in self.environment.items():
            config.envs.add(key=name.encode(), value=value.encode())
        for mount in self.mounts:
            config.mounts.add(
                host_path=str(mount.host),
                container_path=mount.container,
                readonly=mount.read_only,
                propagation=int(mount.follows_host),
            )
        return config

    def _podman_profile(self, folder: Path) -> str:
        if self.seccomp["type"] == "Unconfined":
            return "unconfined"
        if self.seccomp["type"] == "Localhost":
            return str(PROFILES / Path(self.seccomp["localhostProfile"]).name)
        assert self.seccomp["type"] == "RuntimeDefault", self.seccomp
        profile = json.loads(_SECCOMP.read_text())
        added = self.security.get("capabilities", {}).get("add", ())
        capabilities = {f"CAP_{name}" for name in added}
        allowed = [call for capability, call in _SYSTEM_CALLS.items() if capability in capabilities]
        for rule in profile["syscalls"]:
            rule["names"] = [name for name in rule["names"] if name not in allowed]
        if allowed:
            profile["syscalls"].append(
                {"names": allowed, "action": "SCMP_ACT_ALLOW", "includes": {}, "excludes": {}}
            )
        file = folder / "seccomp.json"
        file.write_text(json.dumps(profile))
        return str(file)


def _int64(value: int | None) -> pods.Int64Value | None:
    return None if value is None else pods.Int64Value(value=value)


def _variable_value(entry: Mapping[str, Any], fields: Mapping[str, str]) -> str:
    if "valueFrom" in entry:
        return fields[entry["valueFrom"]["fieldRef"]["fieldPath"]]
    value: str = entry.get("value", "")
    return value


def _create_volume(volume: Mapping[str, Any], folder: Path, fields: Mapping[str, str]) -> Path:
    """Creates a volume, unless it is a host path; returns its path on the host."""
    if "hostPath" in volume and volume["hostPath"].get("type") == "DirectoryOrCreate":
        folder.mkdir(parents=True, exist_ok=True)
        return folder  # the machine's own is left alone
    if "hostPath" in volume:
        path = Path(volume["hostPath"]["path"])
        assert path.is_dir() or volume["hostPath"].get("type") != "Directory", path
        return path
    assert {"emptyDir", "downwardAPI"} & volume.keys(), volume
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o777)
    for item in volume.get("downwardAPI", {}).get("items", ()):
        (folder / item["path"]).write_text(fields[item["fieldRef"]["fieldPath"]])
    return folder


def _mount(entry: Mapping[str, Any], source: Path) -> Mount:
    return Mount(
        host=source / entry.get("subPath", ""),
        container=entry["mountPath"],
        read_only=bool(entry.get("readOnly")),
        follows_host=entry.get("mountPropagation") == "HostToContainer",
    )
