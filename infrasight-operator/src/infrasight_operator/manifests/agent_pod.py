"""The agent's pod: the least privileges that recording needs, and no Kubernetes API token."""

from typing import Any

from infrasight_operator.manifests.volumes import Volume, build_volumes
from infrasight_operator.model.installation import AgentSpec, Installation
from infrasight_operator.model.quantities import parse_bytes

STATUS_PORT = 7445
# Added to the time that the agent waits for the server: detaching takes 5 s, more on a busy node.
_DETACH_SECONDS = 25


def pod_spec(installation: Installation, operator_address: str) -> dict[str, Any]:
    """The pod template's spec."""
    agent = installation.spec.agent
    volumes = build_volumes(installation)
    security: dict[str, Any] = {"seccompProfile": dict(agent.security.seccomp_profile)}
    if agent.security.app_armor_profile is not None:
        security["appArmorProfile"] = dict(agent.security.app_armor_profile)
    if agent.security.se_linux_options:
        security["seLinuxOptions"] = dict(agent.security.se_linux_options)
    spec: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": agent.settings.stop_seconds + _DETACH_SECONDS,
        "securityContext": security,
        "initContainers": [_packages_container(installation, operator_address, volumes)],
        "containers": [_agent_container(installation, operator_address, volumes)],
        "volumes": [volume.source for volume in volumes],
    }
    optional = {
        "imagePullSecrets": [dict(secret) for secret in agent.image_pull_secrets],
        "nodeSelector": dict(agent.node_selector),
        "tolerations": [dict(toleration) for toleration in agent.tolerations],
        "affinity": dict(agent.affinity),
        "priorityClassName": agent.priority_class_name,
    }
    spec.update({key: value for key, value in optional.items() if value})
    return spec


def _agent_container(
    installation: Installation, operator_address: str, volumes: list[Volume]
) -> dict[str, Any]:
    agent = installation.spec.agent
    settings = {
        "SERVER": installation.spec.server.address,
        "STATUS_LISTEN": f"0.0.0.0:{STATUS_PORT}",
        "STATE": "/var/lib/infrasight",
        "PROGRAM_CACHE": "/var/lib/infrasight/programs",
        "PACKAGES": "/packages",
        "BLOCK_MEMORY": str(parse_bytes(agent.settings.block_memory)),
        "OUTBOX_MEMORY": str(parse_bytes(agent.settings.outbox_memory)),
        "SPOOL__FOLDER": "/var/lib/infrasight-agent/spool" if agent.host_paths.spool else "none",
        "SPOOL__BYTES": str(parse_bytes(agent.settings.spool_bytes)),
        "STOP_SECONDS": str(agent.settings.stop_seconds),
        "LOG_LEVEL": agent.settings.log_level,
        **_enricher_settings(agent),
    }
    container: dict[str, Any] = {
        "name": "agent",
        "image": agent.image,
        "imagePullPolicy": agent.image_pull_policy,
        "args": ["agent"],
        "env": [
            *_common_variables(installation, operator_address),
            *_setting_variables(settings),
            {"name": "PYTHONPATH", "value": "/packages"},
        ],
        "ports": [{"name": "status", "containerPort": STATUS_PORT}],
        # A starting agent compiles its probes: it is alive, but not ready. An agent without a
        # server is not ready either; a restart would not help.
        "startupProbe": _http_probe("/healthz", period=5, failures=60),
        "livenessProbe": _http_probe("/healthz", period=10, failures=6),
        "readinessProbe": _http_probe("/readyz", period=5, failures=2),
        "securityContext": _security_context(list(agent.security.capabilities)),
        "volumeMounts": [volume.agent_mount for volume in volumes if volume.agent_mount],
    }
    if agent.resources:
        container["resources"] = dict(agent.resources)
    return container


def _enricher_settings(agent: AgentSpec) -> dict[str, str]:
    """Where the enrichers find the node's files, unless the installation sets these options."""
    settings = {}
    if agent.options:
        settings["CONFIG"] = "/etc/infrasight/agent.yaml"
    if not agent.host_paths.etc:
        # The image's user names are not the node's.
        settings["DISABLE"] = "users"
    elif "etc" not in agent.options.get("users", {}):
        settings["OPTIONS__USERS__ETC"] = "/host/etc"
    if agent.host_paths.run and "host" not in agent.options.get("containers", {}):
        settings["OPTIONS__CONTAINERS__HOST"] = "/host"
    return settings


def _packages_container(
    installation: Installation, operator_address: str, volumes: list[Volume]
) -> dict[str, Any]:
    """The init container that installs the node's packages.

    It succeeds even if a package cannot be installed, so that the agent starts and reports it.
    """
    agent = installation.spec.agent
    index = installation.spec.package_index
    packages = {
        "INDEX_URL": index.url,
        "INDEX_URL_FILE": "/etc/infrasight/package-index/url" if index.secret_name else "",
        "INDEX_CA": "/etc/infrasight/package-index-ca/ca.crt" if index.ca_config_map else "",
        "ALLOW_UNHASHED": "true" if index.allow_unhashed_packages else "",
    }
    container: dict[str, Any] = {
        "name": "packages",
        "image": agent.image,
        "imagePullPolicy": agent.image_pull_policy,
        "args": ["packages", "--target", "/packages"],
        "env": [
            *_common_variables(installation, operator_address),
            {"name": "HOME", "value": "/tmp"},
            *(
                {"name": f"INFRASIGHT_PACKAGES_{name}", "value": value}
                for name, value in packages.items()
                if value
            ),
        ],
        "securityContext": _security_context([]),
        "volumeMounts": [volume.packages_mount for volume in volumes if volume.packages_mount],
    }
    if agent.resources:
        container["resources"] = dict(agent.resources)
    return container


def _common_variables(installation: Installation, operator_address: str) -> list[dict[str, Any]]:
    """The variables of both containers: the pod's identity and the connection to the operator."""
    settings = {"OPERATOR": operator_address}
    if installation.spec.server.tls is not None:
        directory = "/etc/infrasight/tls"
        settings["TLS__CERTIFICATE"] = f"{directory}/tls.crt"
        settings["TLS__KEY"] = f"{directory}/tls.key"
        settings["TLS__CA"] = f"{directory}/ca.crt"
    else:
        settings["PLAINTEXT"] = "true"
    return [
        _pod_field_variable("INFRASIGHT_AGENT_NODE", "spec.nodeName"),
        _pod_field_variable("INFRASIGHT_AGENT_POD", "metadata.name"),
        *_setting_variables(settings),
    ]


def _pod_field_variable(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}


def _setting_variables(settings: dict[str, str]) -> list[dict[str, Any]]:
    return [
        {"name": f"INFRASIGHT_AGENT_{name}", "value": value} for name, value in settings.items()
    ]


def _security_context(capabilities: list[str]) -> dict[str, Any]:
    """uid 0, which the kernel requires for BPF, restricted to some capabilities."""
    capability_sets: dict[str, list[str]] = {"drop": ["ALL"]}
    if capabilities:
        capability_sets["add"] = capabilities
    return {
        "runAsUser": 0,
        "runAsGroup": 0,
        "privileged": False,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": capability_sets,
    }


def _http_probe(path: str, period: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": "status"},
        "periodSeconds": period,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }
