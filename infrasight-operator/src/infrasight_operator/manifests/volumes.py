"""What is mounted into an agent's pod."""

from typing import Any

from attrs import frozen

from infrasight_operator.model.installation import Installation


@frozen
class Volume:
    """A volume and where it is mounted.

    Attributes:
        source: Its entry in the pod.
        agent: Its entry in the agent's container; None: not there.
        packages: Its entry in the container that installs packages; None: not there.
    """

    source: dict[str, Any]
    agent: dict[str, Any] | None
    packages: dict[str, Any] | None = None


def volumes(installation: Installation) -> list[Volume]:
    """All of an installation's."""
    spec = installation.spec
    paths, index = spec.agent.host_paths, spec.package_index
    found = [
        _empty("tmp", "256Mi", agent=_writable("tmp", "/tmp"), packages=_writable("tmp", "/tmp")),
        _empty(
            "packages",
            "2Gi",
            agent=_mount("packages", "/packages"),
            packages=_writable("packages", "/packages"),
        ),
        _empty("state", "64Mi", agent=_writable("state", "/var/lib/infrasight")),
        _host("tracing", paths.tracing, "/sys/kernel/tracing"),
        _host("cgroup", paths.cgroup, "/sys/fs/cgroup"),
    ]
    if paths.etc:
        found.append(_host("etc", paths.etc, "/host/etc"))
    if paths.run:
        found.append(_host("run", paths.run, "/host/run"))
    if spec.server.tls is not None:
        secret = {"secret": {"secretName": spec.server.tls.secret_name, "defaultMode": 0o400}}
        found.append(
            Volume({"name": "tls", **secret}, mount := _mount("tls", "/etc/infrasight/tls"), mount)
        )
    if spec.agent.options:
        file = {
            "path": "agent.yaml",
            "fieldRef": {"fieldPath": "metadata.annotations['infrasight.io/agent-options']"},
        }
        mount = {**_mount("options", "/etc/infrasight/agent.yaml"), "subPath": "agent.yaml"}
        found.append(Volume({"name": "options", "downwardAPI": {"items": [file]}}, mount))
    if index.secret_name:
        items = [{"key": "pip.conf", "path": "pip.conf"}]
        secret = {"secret": {"secretName": index.secret_name, "defaultMode": 0o400, "items": items}}
        found.append(_for_packages({"name": "pip", **secret}, "/etc/infrasight/pip"))
    if index.ca_config_map:
        items = [{"key": "ca.crt", "path": "ca.crt"}]
        ca = {"configMap": {"name": index.ca_config_map, "items": items}}
        found.append(_for_packages({"name": "pip-ca", **ca}, "/etc/infrasight/pip-ca"))
    return found


def _mount(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "mountPath": path, "readOnly": True}


def _writable(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "mountPath": path}


def _empty(
    name: str, limit: str, agent: dict[str, Any], packages: dict[str, Any] | None = None
) -> Volume:
    return Volume({"name": name, "emptyDir": {"sizeLimit": limit}}, agent, packages)


def _host(name: str, path: str, seen_at: str) -> Volume:
    # What is mounted later is seen, too; what is unmounted, such as a container's root below /run, is not kept mounted.
    mount = {**_mount(name, seen_at), "mountPropagation": "HostToContainer"}
    return Volume({"name": name, "hostPath": {"path": path, "type": "Directory"}}, mount)


def _for_packages(source: dict[str, Any], path: str) -> Volume:
    return Volume(source, None, _mount(source["name"], path))
