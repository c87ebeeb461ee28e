"""The pod of an agent, as the operator makes it, told what a test's machine is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infrasight_operator.manifests.daemonset import daemon_set
from infrasight_operator.model.installation import Installation


def agent_template(
    image: str, server: str, run: Path, operator: str = "", spec: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The template of the DaemonSet's pods.

    Args:
        image: The agent's.
        server: Its address.
        run: The node's /run.
        operator: The operator's address.
        spec: What else the installation says.
    """
    agent = {"image": image, "hostPaths": {"run": str(run)}, "options": {"containers": {"wait": 2}}}
    told = {"agent": agent, "server": {"address": server, "plaintext": True}, **(spec or {})}
    body = {"metadata": {"name": "infrasight", "namespace": "infrasight", "uid": "0"}, "spec": told}
    template: dict[str, Any] = daemon_set(Installation.of(body), operator)["spec"]["template"]
    return template
