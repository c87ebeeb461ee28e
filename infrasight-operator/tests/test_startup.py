"""The operator's first list of the cluster: when it retries, and when it gives up."""

import asyncio
from collections.abc import Iterator
from typing import cast

import pytest
from infrasight_core.errors import ConfigError
from infrasight_operator import operator
from infrasight_operator.errors import ClusterError, ClusterUnavailableError
from infrasight_operator.reconciler import Reconciler


class FakeReconciler:
    """A reconciler whose lists of the cluster end with the given errors, one after the other."""

    def __init__(self, *errors: Exception | None) -> None:
        self._errors: Iterator[Exception | None] = iter(errors)
        self.lists = 0

    async def start(self) -> None:
        """Lists the cluster."""
        self.lists += 1
        error = next(self._errors)
        if error is not None:
            raise error


def list_cluster(*errors: Exception | None) -> int:
    """Runs the first list against these errors; returns how often the operator tried."""
    reconciler = FakeReconciler(*errors)
    asyncio.run(operator._list_cluster(cast(Reconciler, reconciler)))
    return reconciler.lists


def test_operator_retries_while_api_server_starts() -> None:
    """The operator retries while a starting API server denies tokens and then roles."""
    tries = list_cluster(
        ClusterUnavailableError("connection refused"),
        ClusterError("unknown token", 401),
        ClusterError("no such role", 403),
        None,
    )
    assert tries == 4


def test_missing_definitions_and_lasting_denial_stop_the_operator(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Undefined kinds stop the operator immediately, lasting denial after a while."""
    with pytest.raises(ConfigError, match="kubectl apply"):
        list_cluster(ClusterError("no such kind", 404))
    monkeypatch.setattr(operator, "STARTUP_AUTH_SECONDS", 0.0)
    with pytest.raises(ConfigError, match="the operator's role lacks this right"):
        list_cluster(*[ClusterError("denied", 403)] * 3)
