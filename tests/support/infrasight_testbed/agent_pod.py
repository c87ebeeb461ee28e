"""The agent's pod as the operator builds it, adapted to the test's machine."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infrasight_operator.manifests.daemonset import daemon_set
from infrasight_operator.model.installation import Installation


def agent_template(
    image: str,
    server: str,
    run: Path,
    operator: str = "",
    spec: Mapping[str, Any] | None = None,
    security: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The DaemonSet's pod template.

    Args:
        image: The agent image.
        server: The server's address.
        run: The node's /run.
        operator: The operator's address.
        spec: Further fields of the installation's spec.
        security: The agents' privileges; by default those of an installation without this field.
    """
    agent = {"image": image, "hostPaths": {"run": str(run)}, "options": {"containers": {"wait": 2}}}
    if security is not None:
        agent["security"] = security
    complete_spec = {
        "agent": agent,
        "server": {"address": server, "plaintext": True},
        **(spec or {}),
    }
    metadata = {"name": "infrasight", "namespace": "infrasight", "uid": "0"}
    installation = Installation.from_object({"metadata": metadata, "spec": complete_spec})
    template: dict[str, Any] = daemon_set(installation, operator)["spec"]["template"]
    return template
