"""The pod of an agent, as the operator makes it."""

from pathlib import Path
from typing import Any

_HOST = (("tracing", "/sys/kernel/tracing"), ("cgroup", "/sys/fs/cgroup"), ("etc", "/host/etc"), ("run", "/host/run"))


def agent_template(run: Path) -> dict[str, Any]:
    """The template of the DaemonSet's pods.

    Args:
        run: The node's /run.
    """
    sources = {"tracing": "/sys/kernel/tracing", "cgroup": "/sys/fs/cgroup", "etc": "/etc", "run": str(run)}
    host = [{"name": name, "hostPath": {"path": path, "type": "Directory"}} for name, path in sources.items()]
    seen = [{"name": n, "mountPath": at, "readOnly": True, "mountPropagation": "HostToContainer"} for n, at in _HOST]
    container = {
        "name": "agent",
        "args": ["agent"],
        "env": [
            {"name": "INFRASIGHT_AGENT_NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            {"name": "INFRASIGHT_AGENT_OPTIONS__USERS__ETC", "value": "/host/etc"},
            {"name": "INFRASIGHT_AGENT_OPTIONS__CONTAINERS__HOST", "value": "/host"},
            {"name": "INFRASIGHT_AGENT_OPTIONS__CONTAINERS__WAIT", "value": "2"},
        ],
        "securityContext": {
            "runAsUser": 0,
            "privileged": False,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"], "add": ["BPF", "PERFMON"]},
        },
        "volumeMounts": [*seen, {"name": "tmp", "mountPath": "/tmp"}],
    }
    return {
        "spec": {
            "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
            "volumes": [*host, {"name": "tmp", "emptyDir": {}}],
        }
    }
