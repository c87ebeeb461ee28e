"""Values that set every option of the chart, alone and in combination."""

from typing import Any

EMBEDDED: dict[str, Any] = {"store": {"type": "embedded"}}
EXTERNAL: dict[str, Any] = {
    "store": {
        "type": "external",
        "external": {
            "url": "https://writer@clickhouse.example:8443/",
            "passwordSecret": {"name": "mine"},
        },
    }
}
PLAINTEXT: dict[str, Any] = {"certificates": {"mode": "plaintext"}}
CERT_MANAGER: dict[str, Any] = {"certificates": {"mode": "certManager"}}
EXISTING: dict[str, Any] = {
    "certificates": {
        "mode": "existing",
        "existing": {role: f"my-{role}" for role in ("server", "operator", "agent", "client")},
    }
}
AUTOSCALING: dict[str, Any] = {
    "server": {"autoscaling": {"enabled": True, "minReplicas": 3, "maxReplicas": 9}}
}
MONITORING: dict[str, Any] = {
    "monitoring": {
        "monitors": {"enabled": True, "labels": {"release": "prometheus"}},
        "rules": {"enabled": True, "labels": {"release": "prometheus"}},
        "dashboards": {"enabled": True, "annotations": {"folder": "Security"}},
    }
}
POLICIES: dict[str, Any] = {
    "probePolicies": {
        "files": None,
        "quiet-nodes": {
            "nodeSelector": {
                "matchLabels": {"pool": "batch"},
                "matchExpressions": [{"key": "gpu", "operator": "In", "values": ["yes", "some"]}],
            },
            "priority": 10,
            "probes": [
                {"name": "open", "enabled": False},
                {
                    "name": "execve",
                    "options": {"anything": [1, {"deep": True}]},
                    "filters": {"excludeUid": [0], "includeComm": ["sh"]},
                },
            ],
            "packages": [
                {"name": "acme-probe", "version": "1.2.3", "hashes": ["sha256:" + "0" * 64]}
            ],
        },
    }
}
LIMITS: dict[str, Any] = {
    "server": {
        "settings": {
            "maxDecodedBytes": 1 << 26,
            "maxPendingBytes": 1 << 33,
            "maxAgeDays": 7,
            "probeTtlDays": {"open": 3},
            "diskLimit": 0.7,
            "maxStreams": 300,
            "querySlots": 6,
            "querySlotsPerPeer": 3,
            "watchersPerPeer": 4,
            "queryMemory": 1 << 32,
        }
    }
}
REVOCATION: dict[str, Any] = {
    "certificates": {"crl": {"configMap": "my-revocations", "key": "all.pem"}}
}
REVOCATION_IN_A_SECRET: dict[str, Any] = {"certificates": {"crl": {"secret": "my-revocations"}}}
LOCAL_PROFILES: dict[str, Any] = {
    component: {
        "security": {
            "seccompProfile": {
                "type": "Localhost",
                "localhostProfile": f"infrasight/{component}.json",
            }
        }
    }
    for component in ("agent", "server", "operator")
}
_COMPONENT_SCHEDULING: dict[str, Any] = {
    "nodeSelector": {"disk": "fast"},
    "tolerations": [{"key": "infra", "operator": "Equal", "value": "yes", "effect": "NoSchedule"}],
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "Exists"}]}]
            }
        }
    },
    "priorityClassName": "system-cluster-critical",
    "podLabels": {"team": "security"},
    "podAnnotations": {"note": "x: y"},
    "resources": {"requests": {"cpu": 1, "memory": "1Gi"}, "limits": {"memory": "2Gi"}},
}
SCHEDULING: dict[str, Any] = {
    "server": {
        **_COMPONENT_SCHEDULING,
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}
        ],
    },
    "operator": {
        **_COMPONENT_SCHEDULING,
        "serviceAccount": {"annotations": {"a": "b"}},
        "env": [{"name": "HTTPS_PROXY", "value": "http://proxy:1"}],
    },
    "store": {"clickhouse": _COMPONENT_SCHEDULING},
    "agent": {
        **_COMPONENT_SCHEDULING,
        "maxUnavailable": 3,
        "settings": {
            "blockMemory": "32Mi",
            "outboxMemory": 1048576,
            "spoolBytes": "64Mi",
            "stopSeconds": 7,
            "logLevel": "debug",
        },
        "options": {"reverse_dns": {"enabled": True}},
        "security": {
            "capabilities": ["BPF", "PERFMON", "SYS_PTRACE"],
            "seccompProfile": {"type": "Localhost", "localhostProfile": "infrasight.json"},
            "appArmorProfile": {"type": "Unconfined"},
        },
        "hostPaths": {
            "cgroup": "/sys/fs/cgroup",
            "tracing": "/sys/kernel/debug/tracing",
            "etc": "",
            "run": "/var/run",
            "spool": "/srv/infrasight",
        },
    },
}
IMAGES: dict[str, Any] = {
    "imageRegistry": "registry.example:5000/mirror/",
    "imagePullSecrets": [{"name": "pull"}],
    "server": {"image": {"digest": "sha256:" + "a" * 64}},
    "agent": {"image": {"tag": "1.2", "pullPolicy": "Always"}},
}
PACKAGE_INDEX: dict[str, Any] = {
    "packageIndex": {
        "secretName": "p",
        "caConfigMap": "c",
        "allowUnhashedPackages": True,
    },
    "networkPolicy": {
        "agentEgress": [{"ports": [{"port": 443}]}],
        "serverFrom": [{"namespaceSelector": {}}],
        "metricsFrom": [],
    },
}
EXTERNAL_ACCESS: dict[str, Any] = {
    "server": {
        "service": {
            "type": "LoadBalancer",
            "annotations": {"a": "b"},
            "loadBalancerSourceRanges": ["10.0.0.0/8"],
        }
    },
    "certificates": {
        "serverNames": ["events.example", "*.example"],
        "serverAddresses": ["192.0.2.7", "2001:db8::1"],
    },
}
ALL_OPTIONAL_PARTS_OFF: dict[str, Any] = {
    "probePolicies": {"default": None, "files": None},
    "server": {
        "replicas": 1,
        "podDisruptionBudget": {"enabled": False},
        "settings": {"ttlDays": None, "diskLimit": None, "probes": ["execve", "open"]},
    },
    "operator": {"rbac": {"create": False}, "serviceAccount": {"create": False, "name": "mine"}},
    "networkPolicy": {"enabled": False},
    "test": {"enabled": False},
    "agent": {"resources": {}, "tolerations": [], "nodeSelector": {}},
}
NO_VOLUMES: dict[str, Any] = {
    "store": {
        "clickhouse": {"persistence": {"enabled": False}},
        "embedded": {"persistence": {"enabled": False}},
    }
}
CUSTOM_VOLUMES: dict[str, Any] = {
    "store": {
        "clickhouse": {
            "persistence": {"storageClass": "fast", "size": "1Ti"},
            "passwordSecret": {"name": "mine", "key": "word"},
            "extraConfig": {"more.xml": "<clickhouse/>"},
        },
        "embedded": {"persistence": {"storageClass": "", "keep": False}},
    }
}
EXISTING_CLAIM: dict[str, Any] = {
    "store": {"type": "embedded", "embedded": {"persistence": {"existingClaim": "mine"}}}
}
CUSTOM_NAMES: dict[str, Any] = {
    "fullnameOverride": "watcher",
    "commonLabels": {"team": "security"},
    "bindAddress": "[::]",
}


def merged(*values: dict[str, Any]) -> dict[str, Any]:
    """Merges values like Helm; later ones override earlier ones."""
    result: dict[str, Any] = {}
    for value in values:
        for key, item in value.items():
            if isinstance(item, dict) and isinstance(result.get(key), dict):
                result[key] = merged(result[key], item)
            else:
                result[key] = item
    return result


ALONE = {
    name.lower(): value
    for name, value in list(globals().items())
    if name.isupper() and not name.startswith("_") and isinstance(value, dict)
}
TOGETHER = {
    "defaults": {},
    "small": merged(EMBEDDED, PLAINTEXT, NO_VOLUMES, {"server": {"replicas": 1}}),
    "embedded-outside": merged(EMBEDDED, EXTERNAL_ACCESS, CUSTOM_VOLUMES, MONITORING),
    "large": merged(
        EXTERNAL,
        LIMITS,
        REVOCATION,
        LOCAL_PROFILES,
        AUTOSCALING,
        MONITORING,
        SCHEDULING,
        IMAGES,
        PACKAGE_INDEX,
        POLICIES,
        CERT_MANAGER,
    ),
    "own": merged(
        EXISTING, CUSTOM_VOLUMES, CUSTOM_NAMES, SCHEDULING, PACKAGE_INDEX, EXTERNAL_ACCESS
    ),
    "bare": merged(ALL_OPTIONAL_PARTS_OFF, NO_VOLUMES, PLAINTEXT, CUSTOM_NAMES),
    "external-plain": merged(EXTERNAL, PLAINTEXT, ALL_OPTIONAL_PARTS_OFF),
    "issuer": merged(
        CERT_MANAGER,
        {"certificates": {"certManager": {"issuerRef": {"name": "corp", "kind": "ClusterIssuer"}}}},
    ),
    "scaled": merged(AUTOSCALING, MONITORING, EXTERNAL_ACCESS, CERT_MANAGER),
}
ALL: dict[str, dict[str, Any]] = {**ALONE, **TOGETHER}
