"""Secrets that a reader of Kubernetes objects would find in them."""

import pytest
from infrasight_testbed.control_plane import ControlPlane, ToolError
from infrasight_testbed.operator_process import API_VERSION


def test_password_of_the_package_index_is_in_no_object(
    control_plane: ControlPlane, namespace: str
) -> None:
    """A reader looks for the index's password in the InfraSight object, which must not hold it."""
    body = {
        "apiVersion": API_VERSION,
        "kind": "InfraSight",
        "metadata": {"name": "infrasight"},
        "spec": {
            "agent": {"image": "agent"},
            "server": {"address": "server:7443", "plaintext": True},
            "packageIndex": {"url": "https://user:password@index.example/simple"},
        },
    }
    with pytest.raises(ToolError, match=r"spec\.packageIndex\.url"):
        control_plane.apply(body, namespace=namespace)
