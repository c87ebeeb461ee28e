"""A task that writes to the store and ends is started again, and the server is not ready."""

import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import pytest
from infrasight.v1.stream_pb2 import Account, Batch
from infrasight_server.settings import ServerSettings
from infrasight_server.store.upsert_writer import UpsertWriter
from infrasight_testbed.agent_client import AgentClient
from infrasight_testbed.execve_batches import WINDOW, hello, plugins
from infrasight_testbed.server_thread import running_server


def readyz(address: str) -> tuple[int, str]:
    """Returns status and text of the page."""
    try:
        with urllib.request.urlopen(f"http://{address}/readyz", timeout=60) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def account(run: str) -> Batch:
    """Returns an account of a run without events."""
    sent = Account(run=run, window=WINDOW, number=1)
    return Batch(batch_id=f"{run}-{WINDOW}-1", probe="execve", account=sent)


def test_task_that_a_row_ends_is_started_again_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row ends the task that writes accounts: others' accounts are stored, `/readyz` reports."""
    insert_rows = UpsertWriter._insert_rows

    async def fail(
        writer: UpsertWriter, table: str, rows: dict[tuple[str, ...], dict[str, Any]]
    ) -> float:
        if any(row["run"] == "evil" for row in rows.values()):
            raise RuntimeError("an unforeseen row")
        return await insert_rows(writer, table, rows)

    monkeypatch.setattr(UpsertWriter, "_insert_rows", fail)
    settings = ServerSettings(listen="127.0.0.1:0", status_listen="127.0.0.1:0", data=tmp_path)
    with running_server(settings, plugins()) as server:
        assert readyz(server.status_address)[0] == 200
        with AgentClient(server.address) as agent:
            agent.send(hello(node="evil"))
            agent.answer()
            agent.send(account("evil"))
            with pytest.raises(grpc.RpcError) as raised:
                agent.answer()
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        status, reason = readyz(server.status_address)
        assert (status, "task 'accounts' failed" in reason) == (503, True)
        with AgentClient(server.address) as agent:
            agent.send(hello())
            agent.answer()
            agent.send(account("1"))
            assert agent.answers(1) == {f"1-{WINDOW}-1": "stored"}
