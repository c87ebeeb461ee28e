"""Writes kubeconfig files: the address of the API server and the credentials of a client."""

from pathlib import Path
from typing import Any

import yaml
from infrasight_core.net.tls import TlsFiles


def with_certificate(file: Path, url: str, identity: TlsFiles) -> Path:
    """Writes a kubeconfig with a client certificate."""
    user = {"client-certificate": str(identity.certificate), "client-key": str(identity.key)}
    return _write(file, url, identity.ca, user, "default")


def with_token(file: Path, url: str, ca: Path, token: str, namespace: str) -> Path:
    """Writes a kubeconfig with a service account's token, as pods use it."""
    return _write(file, url, ca, {"token": token}, namespace)


def _write(file: Path, url: str, ca: Path | None, user: dict[str, str], namespace: str) -> Path:
    cluster = {"server": url, "certificate-authority": str(ca)}
    context = {"cluster": "tests", "user": "client", "namespace": namespace}
    config: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "tests", "cluster": cluster}],
        "users": [{"name": "client", "user": user}],
        "contexts": [{"name": "tests", "context": context}],
        "current-context": "tests",
    }
    file.touch(mode=0o600)
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    return file
