"""Converts the client's connection to kopf's, so that both use the same credentials."""

from pathlib import Path
from typing import Any

import kopf
from lightkube.config.kubeconfig import SingleConfig


def connection_info(connection: SingleConfig) -> kopf.ConnectionInfo:
    """kopf's connection. kopf asks again when the API server rejects the token.

    The token of a service account is read from its file each time: Kubernetes replaces it about
    every hour.

    Raises:
        kopf.LoginError: Cannot read the token file.
    """
    cluster = connection.cluster
    user = connection.user
    fields: dict[str, Any] = {
        "server": cluster.server,
        "ca_path": _absolute_path(connection, cluster.certificate_auth),
        "ca_data": None if cluster.certificate_auth else cluster.certificate_auth_data,
        "insecure": cluster.insecure,
        "default_namespace": connection.namespace,
    }
    if user is not None:
        fields |= {
            "username": user.username,
            "password": user.password,
            "token": user.token,
            "certificate_path": _absolute_path(connection, user.client_cert),
            "certificate_data": None if user.client_cert else user.client_cert_data,
            "private_key_path": _absolute_path(connection, user.client_key),
            "private_key_data": None if user.client_key else user.client_key_data,
        }
        token_file = _absolute_path(connection, user.token_file)
        if token_file is not None:
            fields["token"] = _read_token(token_file)
    return kopf.ConnectionInfo(**fields)


def _read_token(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise kopf.LoginError(f"cannot read the token file {file}: {error.strerror}") from error


def _absolute_path(connection: SingleConfig, file: str | None) -> str | None:
    return str(connection.abs_file(file)) if file else None
