"""Kubeconfig files: how a client finds the API server and who it says it is."""

from pathlib import Path
from typing import Any

import yaml
from infrasight_core.net.tls import TlsFiles


def with_certificate(file: Path, url: str, identity: TlsFiles) -> Path:
    """A client that shows a certificate."""
    user = {"client-certificate": str(identity.certificate), "client-key": str(identity.key)}
    return _write(file, url, identity.ca, user, "default")


def with_token(file: Path, url: str, ca: Path, token: str, namespace: str) -> Path:
    """A client that shows a service account's token, as one in a pod does."""
    return _write(file, url, ca, {"token": token}, namespace)


def _write(file: Path, url: str, ca: Path | None, user: dict[str, str], namespace: str) -> Path:
    config: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": "tests", "cluster": {"server": url, "certificate-authority": str(ca)}}
        ],
        "users": [{"name": "client", "user": user}],
        "contexts": [
            {
                "name": "tests",
                "context": {"cluster": "tests", "user": "client", "namespace": namespace},
            }
        ],
        "current-context": "tests",
    }
    file.touch(mode=0o600)
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    return file
