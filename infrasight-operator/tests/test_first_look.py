"""An operator's first look at the cluster: what it waits for, and what it ends with."""

import asyncio
from collections.abc import Iterator
from typing import cast

import pytest
from infrasight_core.errors import ConfigError
from infrasight_operator import operator
from infrasight_operator.errors import ClusterError, ClusterUnavailableError
from infrasight_operator.reconciler import Reconciler


class Answers:
    """A reconciler that is told what the API server says, one look after the other."""

    def __init__(self, *errors: Exception | None) -> None:
        self._errors: Iterator[Exception | None] = iter(errors)
        self.looks = 0

    async def start(self) -> None:
        """Looks."""
        self.looks += 1
        if error := next(self._errors):
            raise error


def look(*errors: Exception | None) -> int:
    """How often it looked."""
    answers = Answers(*errors)
    asyncio.run(operator._first_look(cast(Reconciler, answers)))
    return answers.looks


def test_an_api_server_that_has_just_started_may_refuse() -> None:
    """Away, then refusing because it knows no tokens and then no roles yet, as one that starts does: the operator goes on."""
    assert (
        look(
            ClusterUnavailableError("away"),
            ClusterError("who?", 401),
            ClusterError("no", 403),
            None,
        )
        == 4
    )


def test_what_stays_refused_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A role that lacks a right ends it with what to do; kinds that are not defined do at once."""
    with pytest.raises(ConfigError, match="kubectl apply"):
        look(ClusterError("no such kind", 404))
    monkeypatch.setattr(operator, "REFUSED_SECONDS", 0.0)
    with pytest.raises(ConfigError, match="the operator's role lacks this right"):
        look(*[ClusterError("no", 403)] * 3)
