"""How kopf reaches the API server: by the same configuration as the client that writes."""

from pathlib import Path
from typing import Any

import kopf
from lightkube.config.kubeconfig import SingleConfig


def connection(config: SingleConfig) -> kopf.ConnectionInfo:
    """The connection as it is to be now: kopf asks again when the API server does not take the token any more.

    A token in a file, as service accounts have it, is read each time, since it is replaced every hour or so.

    Raises:
        kopf.LoginError: The token's file cannot be read.
    """
    cluster, user = config.cluster, config.user
    made: dict[str, Any] = {
        "server": cluster.server,
        "ca_path": _path(config, cluster.certificate_auth),
        "ca_data": None if cluster.certificate_auth else cluster.certificate_auth_data,
        "insecure": cluster.insecure,
        "default_namespace": config.namespace,
    }
    if user is not None:
        made |= {
            "username": user.username,
            "password": user.password,
            "token": user.token,
            "certificate_path": _path(config, user.client_cert),
            "certificate_data": None if user.client_cert else user.client_cert_data,
            "private_key_path": _path(config, user.client_key),
            "private_key_data": None if user.client_key else user.client_key_data,
        }
        if (file := _path(config, user.token_file)) is not None:
            try:
                made["token"] = Path(file).read_text(encoding="utf-8").strip()
            except OSError as error:
                raise kopf.LoginError(
                    f"the token in {file} cannot be read: {error.strerror}"
                ) from error
    return kopf.ConnectionInfo(**made)


def _path(config: SingleConfig, file: str | None) -> str | None:
    return str(config.abs_file(file)) if file else None
