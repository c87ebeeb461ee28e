"""The pod of an agent: the fewest rights that record, and nothing of the cluster's API."""

from typing import Any

from infrasight_operator.manifests.volumes import Volume, volumes
from infrasight_operator.model.installation import AgentSpec, Installation
from infrasight_operator.model.quantities import in_bytes

STATUS_PORT = 7445
_GRACE_SECONDS = (
    25  # beyond what the agent waits for the server: detaching takes 5 s, longer on a busy node
)


def pod_spec(installation: Installation, address: str) -> dict[str, Any]:
    """The pod's part of the DaemonSet."""
    agent = installation.spec.agent
    parts = volumes(installation)
    security: dict[str, Any] = {"seccompProfile": dict(agent.security.seccomp_profile)}
    if agent.security.app_armor_profile is not None:
        security["appArmorProfile"] = dict(agent.security.app_armor_profile)
    if agent.security.se_linux_options:
        security["seLinuxOptions"] = dict(agent.security.se_linux_options)
    spec: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": agent.settings.stop_seconds + _GRACE_SECONDS,
        "securityContext": security,
        "initContainers": [_packages(installation, address, parts)],
        "containers": [_agent(installation, address, parts)],
        "volumes": [part.source for part in parts],
    }
    optional = {
        "imagePullSecrets": [dict(secret) for secret in agent.image_pull_secrets],
        "nodeSelector": dict(agent.node_selector),
        "tolerations": [dict(toleration) for toleration in agent.tolerations],
        "affinity": dict(agent.affinity),
        "priorityClassName": agent.priority_class_name,
    }
    return {**spec, **{key: value for key, value in optional.items() if value}}


def _agent(installation: Installation, address: str, parts: list[Volume]) -> dict[str, Any]:
    agent, server = installation.spec.agent, installation.spec.server
    settings = {
        "SERVER": server.address,
        "STATUS_LISTEN": f"0.0.0.0:{STATUS_PORT}",
        "STATE": "/var/lib/infrasight",
        "PACKAGES": "/packages",
        "BLOCK_MEMORY": str(in_bytes(agent.settings.block_memory)),
        "OUTBOX_MEMORY": str(in_bytes(agent.settings.outbox_memory)),
        "COMPAT": str(agent.settings.compat).lower(),
        "STOP_SECONDS": str(agent.settings.stop_seconds),
        "LOG_LEVEL": agent.settings.log_level,
        **_enrichers(agent),
    }
    container: dict[str, Any] = {
        "name": "agent",
        "image": agent.image,
        "imagePullPolicy": agent.image_pull_policy,
        "args": ["agent"],
        "env": [
            *_common(installation, address),
            *_variables(settings),
            {"name": "PYTHONPATH", "value": "/packages"},
        ],
        "ports": [{"name": "status", "containerPort": STATUS_PORT}],
        # A start compiles the probes; until then it is alive, but not ready. Not ready also means: no server, which no
        # restart mends.
        "startupProbe": _asks("/healthz", 5, 60),
        "livenessProbe": _asks("/healthz", 10, 6),
        "readinessProbe": _asks("/readyz", 5, 2),
        "securityContext": _rights(list(agent.security.capabilities)),
        "volumeMounts": [part.agent for part in parts if part.agent],
    }
    if agent.resources:
        container["resources"] = dict(agent.resources)
    return container


def _enrichers(agent: AgentSpec) -> dict[str, str]:
    """Where the enrichers find the node's files; what the installation says itself of these options holds."""
    told = {"CONFIG": "/etc/infrasight/agent.yaml"} if agent.options else {}
    if not agent.host_paths.etc:
        told["DISABLE"] = "users"  # the names in the image are none of the node's
    elif "etc" not in agent.options.get("users", {}):
        told["OPTIONS__USERS__ETC"] = "/host/etc"
    if agent.host_paths.run and "host" not in agent.options.get("containers", {}):
        told["OPTIONS__CONTAINERS__HOST"] = "/host"
    return told


def _packages(installation: Installation, address: str, parts: list[Volume]) -> dict[str, Any]:
    """What installs the node's packages before the agent starts; it ends well even where a package does not install."""
    agent, index = installation.spec.agent, installation.spec.package_index
    pip = {
        "PIP_INDEX_URL": index.url,
        "PIP_EXTRA_INDEX_URL": " ".join(index.extra_urls),
        "PIP_CONFIG_FILE": "/etc/infrasight/pip/pip.conf" if index.secret_name else "",
        "PIP_CERT": "/etc/infrasight/pip-ca/ca.crt" if index.ca_config_map else "",
    }
    container: dict[str, Any] = {
        "name": "packages",
        "image": agent.image,
        "imagePullPolicy": agent.image_pull_policy,
        "args": ["packages", "--target", "/packages"],
        "env": [
            *_common(installation, address),
            {"name": "HOME", "value": "/tmp"},
            *({"name": name, "value": value} for name, value in pip.items() if value),
        ],
        "securityContext": _rights([]),
        "volumeMounts": [part.packages for part in parts if part.packages],
    }
    if agent.resources:
        container["resources"] = dict(agent.resources)
    return container


def _common(installation: Installation, address: str) -> list[dict[str, Any]]:
    """What both containers are told: who they are, and how they reach the operator."""
    settings = {"OPERATOR": address}
    if installation.spec.server.tls is not None:
        folder = "/etc/infrasight/tls"
        settings |= {
            "TLS__CERTIFICATE": f"{folder}/tls.crt",
            "TLS__KEY": f"{folder}/tls.key",
            "TLS__CA": f"{folder}/ca.crt",
        }
    else:
        settings["PLAINTEXT"] = "true"
    return [
        {
            "name": "INFRASIGHT_AGENT_NODE",
            "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "spec.nodeName"}},
        },
        {
            "name": "INFRASIGHT_AGENT_POD",
            "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}},
        },
        *_variables(settings),
    ]


def _variables(settings: dict[str, str]) -> list[dict[str, Any]]:
    return [
        {"name": f"INFRASIGHT_AGENT_{name}", "value": value} for name, value in settings.items()
    ]


def _rights(capabilities: list[str]) -> dict[str, Any]:
    """Root by number, as the kernel wants for BPF, without what root could otherwise do."""
    kept = {"add": capabilities} if capabilities else {}
    return {
        "runAsUser": 0,
        "runAsGroup": 0,
        "privileged": False,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], **kept},
    }


def _asks(path: str, seconds: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": "status"},
        "periodSeconds": seconds,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }
