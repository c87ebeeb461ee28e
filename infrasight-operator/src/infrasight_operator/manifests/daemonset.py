"""The DaemonSet of the agents, made of the installation. Nothing in it depends on policies: they never restart an agent."""

import hashlib
import json
from typing import Any

from infrasight_operator.manifests.agent_pod import pod_spec
from infrasight_operator.model.installation import Installation
from infrasight_operator.model.quantities import at_once

NAME = "infrasight-agent"
LABELS = {"app.kubernetes.io/name": NAME, "app.kubernetes.io/instance": "infrasight"}
DIGEST = "infrasight.io/manifest-digest"
OPTIONS = "infrasight.io/agent-options"


def daemon_set(installation: Installation, address: str) -> dict[str, Any]:
    """The manifest, for server-side apply.

    Args:
        installation: What is wanted.
        address: Where agents reach the operator, host:port.
    """
    agent = installation.spec.agent
    annotations = dict(agent.pod_annotations)
    if agent.options:  # as a file of the pod it needs no ConfigMap, and a change replaces the pods
        annotations[OPTIONS] = json.dumps({"options": agent.options}, sort_keys=True)
    unavailable = agent.max_unavailable
    spec = {
        "selector": {"matchLabels": LABELS},
        "updateStrategy": {
            "type": "RollingUpdate",
            "rollingUpdate": {
                "maxUnavailable": unavailable
                if isinstance(unavailable, str)
                else at_once(unavailable, 0)
            },
        },
        "revisionHistoryLimit": 3,
        "template": {
            "metadata": {
                "labels": {**agent.pod_labels, **LABELS},
                "annotations": {"kubectl.kubernetes.io/default-container": "agent", **annotations},
            },
            "spec": pod_spec(installation, address),
        },
    }
    digest = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:32]
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {
            "name": NAME,
            "namespace": installation.namespace,
            "labels": {**LABELS, "app.kubernetes.io/managed-by": "infrasight-operator"},
            "annotations": {DIGEST: digest},
            "ownerReferences": [installation.owner()],
        },
        "spec": spec,
    }
