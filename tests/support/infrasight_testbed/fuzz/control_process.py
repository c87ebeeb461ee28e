"""Runs a control service without an operator or a cluster, and prints its port."""

import asyncio
import sys

from infrasight_core import logs
from infrasight_core.net.authentication import Authenticator
from infrasight_operator.control.agent_registry import AgentRegistry
from infrasight_operator.control.grpc_server import build_server
from infrasight_operator.control.service import ControlService
from infrasight_operator.model.resolution import NodeConfiguration

_NODE = "node-1"


async def serve() -> None:
    """Serves until stdin ends."""
    registry = AgentRegistry(lambda: None)
    registry.configure({_NODE: NodeConfiguration("5f" * 16, "{}", (), (), (), ())})
    service = ControlService(registry, Authenticator(None).identify)
    server, port = build_server(service, "127.0.0.1:0", None)
    await server.start()
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(0)


if __name__ == "__main__":
    logs.configure("error")
    asyncio.run(serve())
