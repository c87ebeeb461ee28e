"""A container of a Kubernetes pod's manifest, as podman and the CRI are told of it: what a kubelet makes of it, as far as the
manifests of this project go."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from infrasight_testbed.v1 import pods_pb2 as pods

_SECCOMP = Path("/usr/share/containers/seccomp.json")
# What the kernel asks CAP_BPF and CAP_PERFMON for. Debian 12's podman still has a default profile that lets only CAP_SYS_ADMIN
# call them; those of containerd, CRI-O and newer podmans let who has the capability.
_CALLS = {"CAP_BPF": "bpf", "CAP_PERFMON": "perf_event_open"}
_PROFILES = {"RuntimeDefault": 0, "Unconfined": 1, "Localhost": 2}


@frozen
class Mount:
    """A folder or file of the host's.

    Attributes:
        host: Where it is.
        container: Where the container sees it.
        read_only: Whether the container may not write.
        follows: Whether it sees what the host mounts and unmounts there later.
    """

    host: Path
    container: str
    read_only: bool
    follows: bool


@frozen
class PodContainer:
    """What a runtime is told of a container.

    Attributes:
        args: Behind the image's entry point.
        environment: Its variables.
        mounts: What it sees of the host.
        security: The container's `securityContext`.
        seccomp: The profile that holds, the container's or the pod's.
        host_pid: Whether it sees the host's processes.
    """

    args: tuple[str, ...]
    environment: Mapping[str, str]
    mounts: tuple[Mount, ...]
    security: Mapping[str, Any]
    seccomp: Mapping[str, str]
    host_pid: bool

    @classmethod
    def of(
        cls,
        template: Mapping[str, Any],
        name: str,
        folder: Path,
        fields: Mapping[str, str],
        told: Mapping[str, str | None],
    ) -> "PodContainer":
        """From the template of a pod.

        Args:
            template: Of a DaemonSet, say.
            name: Which of its containers.
            folder: Where its empty directories are made, which its containers share.
            fields: What the downward API says, by the field's path.
            told: Variables that the test sets in place of the manifest's; None leaves one out.
        """
        pod = template["spec"]
        (container,) = (
            c for c in (*pod.get("initContainers", ()), *pod["containers"]) if c["name"] == name
        )
        annotations = template.get("metadata", {}).get("annotations", {})
        fields = {
            **{f"metadata.annotations['{key}']": value for key, value in annotations.items()},
            **fields,
        }
        environment = {entry["name"]: _value(entry, fields) for entry in container.get("env", ())}
        environment = {
            key: value for key, value in (environment | dict(told)).items() if value is not None
        }
        sources = {
            volume["name"]: _made(volume, folder / volume["name"], fields)
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
            tuple(container.get("args", ())),
            environment,
            mounts,
            security,
            seccomp,
            bool(pod.get("hostPID")),
        )

    def podman_options(self, folder: Path) -> list[str]:
        """The flags of `podman run`.

        Args:
            folder: For the profile of its system calls.
        """
        security = self.security
        capabilities = self.security.get("capabilities", {})
        options = [f"--cap-drop={name}" for name in capabilities.get("drop", ())]
        options += [f"--cap-add={name}" for name in capabilities.get("add", ())]
        options += [f"--env={name}={value}" for name, value in self.environment.items()]
        for mount in self.mounts:
            flags = ["ro" if mount.read_only else "rw", "rslave" if mount.follows else "rprivate"]
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
        """What a runtime is told by the CRI; the network is the host's, as there is no other here."""
        security = self.security
        capabilities = self.security.get("capabilities", {})
        context = pods.LinuxContainerSecurityContext(
            capabilities=pods.Capability(
                add_capabilities=capabilities.get("add", ()),
                drop_capabilities=capabilities.get("drop", ()),
            ),
            privileged=bool(security.get("privileged")),
            namespace_options=pods.NamespaceOption(network=2, pid=2 if self.host_pid else 1),
            run_as_user=pods.Int64Value(value=security["runAsUser"])
            if "runAsUser" in security
            else None,
            run_as_group=pods.Int64Value(value=security["runAsGroup"])
            if "runAsGroup" in security
            else None,
            readonly_rootfs=bool(security.get("readOnlyRootFilesystem")),
            no_new_privs=security.get("allowPrivilegeEscalation") is False,
            seccomp=pods.SecurityProfile(profile_type=_PROFILES[self.seccomp["type"]]),
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
                propagation=int(mount.follows),
            )
        return config

    def _podman_profile(self, folder: Path) -> str:
        if self.seccomp["type"] == "Unconfined":
            return "unconfined"
        assert self.seccomp["type"] == "RuntimeDefault", self.seccomp
        profile = json.loads(_SECCOMP.read_text())
        held = {f"CAP_{name}" for name in self.security.get("capabilities", {}).get("add", ())}
        allowed = [call for capability, call in _CALLS.items() if capability in held]
        for rule in profile["syscalls"]:
            rule["names"] = [name for name in rule["names"] if name not in allowed]
        if allowed:
            profile["syscalls"].append(
                {"names": allowed, "action": "SCMP_ACT_ALLOW", "includes": {}, "excludes": {}}
            )
        (file := folder / "seccomp.json").write_text(json.dumps(profile))
        return str(file)


def _value(entry: Mapping[str, Any], fields: Mapping[str, str]) -> str:
    if "valueFrom" in entry:
        return fields[entry["valueFrom"]["fieldRef"]["fieldPath"]]
    value: str = entry.get("value", "")
    return value


def _made(volume: Mapping[str, Any], folder: Path, fields: Mapping[str, str]) -> Path:
    """Where a volume is on the host."""
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
    follows = entry.get("mountPropagation") == "HostToContainer"
    return Mount(
        source / entry.get("subPath", ""), entry["mountPath"], bool(entry.get("readOnly")), follows
    )
