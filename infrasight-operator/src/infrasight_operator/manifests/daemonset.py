"""The agents' DaemonSet. It does not depend on policies, so a policy change restarts no agent."""

import hashlib
import json
from typing import Any

from infrasight_operator.manifests.agent_pod import pod_spec
from infrasight_operator.model.installation import Installation
from infrasight_operator.model.quantities import resolve_max_unavailable

NAME = "infrasight-agent"
LABELS = {"app.kubernetes.io/name": NAME, "app.kubernetes.io/instance": "infrasight"}
DIGEST_ANNOTATION = "infrasight.io/manifest-digest"
OPTIONS_ANNOTATION = "infrasight.io/agent-options"


def daemon_set(installation: Installation, operator_address: str) -> dict[str, Any]:
    """The manifest, for server-side apply.

    Args:
        installation: The installation.
        operator_address: The operator's host:port, as agents reach it.
    """
    agent = installation.spec.agent
    annotations = {"kubectl.kubernetes.io/default-container": "agent", **agent.pod_annotations}
    if agent.options:
        # The downward API mounts the annotation as a file: no ConfigMap is needed, and a change
        # replaces the pods.
        annotations[OPTIONS_ANNOTATION] = json.dumps({"options": agent.options}, sort_keys=True)
    max_unavailable = agent.max_unavailable
    if isinstance(max_unavailable, int):
        max_unavailable = resolve_max_unavailable(max_unavailable, 0)
    spec = {
        "selector": {"matchLabels": LABELS},
        "updateStrategy": {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxUnavailable": max_unavailable},
        },
        "revisionHistoryLimit": 3,
        "template": {
            "metadata": {
                "labels": {**agent.pod_labels, **LABELS},
                "annotations": annotations,
            },
            "spec": pod_spec(installation, operator_address),
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
            "annotations": {DIGEST_ANNOTATION: digest},
            "ownerReferences": [installation.owner_reference()],
        },
        "spec": spec,
    }
