"""The volumes of an agent's pod."""

from typing import Any

from attrs import frozen

from infrasight_operator.model.installation import Installation


@frozen
class Volume:
    """A volume and its mounts.

    Attributes:
        source: The volume's entry in the pod.
        agent_mount: The mount in the agent's container; None if there is none.
        packages_mount: The mount in the init container that installs packages; None if there is
            none.
    """

    source: dict[str, Any]
    agent_mount: dict[str, Any] | None
    packages_mount: dict[str, Any] | None = None


def build_volumes(installation: Installation) -> list[Volume]:
    """The volumes for an installation."""
    spec = installation.spec
    paths = spec.agent.host_paths
    index = spec.package_index
    tmp = _writable("tmp", "/tmp")
    volumes = [
        _empty_dir("tmp", "256Mi", agent_mount=tmp, packages_mount=tmp),
        _empty_dir(
            "packages",
            "2Gi",
            agent_mount=_read_only("packages", "/packages"),
            packages_mount=_writable("packages", "/packages"),
        ),
        _empty_dir("state", "64Mi", agent_mount=_writable("state", "/var/lib/infrasight")),
        _host_path("tracing", paths.tracing, "/sys/kernel/tracing"),
        _host_path("cgroup", paths.cgroup, "/sys/fs/cgroup"),
    ]
    if paths.etc:
        volumes.append(_host_path("etc", paths.etc, "/host/etc"))
    if paths.run:
        volumes.append(_host_path("run", paths.run, "/host/run"))
    if paths.spool:
        volumes.append(_spool(paths.spool))
    if spec.server.tls is not None:
        secret = {"secretName": spec.server.tls.secret_name, "defaultMode": 0o400}
        tls = _read_only("tls", "/etc/infrasight/tls")
        volumes.append(Volume({"name": "tls", "secret": secret}, tls, tls))
    if spec.agent.options:
        volumes.append(_options_file())
    if index.secret_name:
        secret = {
            "secretName": index.secret_name,
            "defaultMode": 0o400,
            "items": [{"key": "url", "path": "url"}],
        }
        source = {"name": "package-index", "secret": secret}
        volumes.append(_for_packages(source, "/etc/infrasight/package-index"))
    if index.ca_config_map:
        config_map = {
            "name": index.ca_config_map,
            "items": [{"key": "ca.crt", "path": "ca.crt"}],
        }
        source = {"name": "package-index-ca", "configMap": config_map}
        volumes.append(_for_packages(source, "/etc/infrasight/package-index-ca"))
    return volumes


def _read_only(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "mountPath": path, "readOnly": True}


def _writable(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "mountPath": path}


def _empty_dir(
    name: str,
    size_limit: str,
    agent_mount: dict[str, Any],
    packages_mount: dict[str, Any] | None = None,
) -> Volume:
    source = {"name": name, "emptyDir": {"sizeLimit": size_limit}}
    return Volume(source, agent_mount, packages_mount)


def _host_path(name: str, path: str, mount_path: str) -> Volume:
    # With HostToContainer the pod follows the host's mounts. Without it, the pod would keep
    # unmounted file systems, such as the roots of ended containers below /run, mounted.
    mount = {**_read_only(name, mount_path), "mountPropagation": "HostToContainer"}
    return Volume({"name": name, "hostPath": {"path": path, "type": "Directory"}}, mount)


def _spool(path: str) -> Volume:
    source = {"name": "spool", "hostPath": {"path": path, "type": "DirectoryOrCreate"}}
    return Volume(source, _writable("spool", "/var/lib/infrasight-agent"))


def _options_file() -> Volume:
    file = {
        "path": "agent.yaml",
        "fieldRef": {"fieldPath": "metadata.annotations['infrasight.io/agent-options']"},
    }
    mount = {**_read_only("options", "/etc/infrasight/agent.yaml"), "subPath": "agent.yaml"}
    return Volume({"name": "options", "downwardAPI": {"items": [file]}}, mount)


def _for_packages(source: dict[str, Any], path: str) -> Volume:
    return Volume(source, None, _read_only(source["name"], path))
