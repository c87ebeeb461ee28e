"""The operator's service for agents without a cluster: the test decides the configurations."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import TypeVar

import grpc.aio
from infrasight_core.net.authentication import Authenticator
from infrasight_core.net.listener_credentials import ListenerCredentials
from infrasight_core.net.tls import ListenerTls
from infrasight_operator.control.agent_registry import AgentRegistry
from infrasight_operator.control.grpc_server import build_server
from infrasight_operator.control.service import ControlService
from infrasight_operator.model.resolution import NodeConfiguration

Result = TypeVar("Result")


class ControlEndpoint:
    """A running service.

    Attributes:
        address: Its address.
        agents: The registry of connected agents, for its event loop only.

    Args:
        address: Its address.
        agents: The registry.
        loop: The event loop.
    """

    def __init__(
        self, address: str, agents: AgentRegistry, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.address = address
        self.agents = agents
        self._loop = loop

    def look(self, read: Callable[[AgentRegistry], Result]) -> Result:
        """Reads from the registry in its event loop."""

        async def call() -> Result:
            return read(self.agents)

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(60)


@contextmanager
def running_control_service(tls: ListenerTls, *nodes: str) -> Iterator[ControlEndpoint]:
    """Runs the service; the configuration of each node has the node's name as its digest."""
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever, name="operator")
    thread.start()
    agents = AgentRegistry(lambda: None)
    agents.configure({node: NodeConfiguration(node, "{}", (), (), (), ()) for node in nodes})

    async def start() -> tuple[grpc.aio.Server, int, asyncio.Task[None]]:
        credentials = ListenerCredentials(tls)
        service = ControlService(agents, Authenticator(credentials).identify)
        server, port = build_server(service, "127.0.0.1:0", credentials)
        await server.start()
        return server, port, asyncio.create_task(service.guard.run())

    async def stop(server: grpc.aio.Server, guarding: asyncio.Task[None]) -> None:
        guarding.cancel()
        agents.close()
        await server.stop(1)

    try:
        server, port, guarding = asyncio.run_coroutine_threadsafe(start(), loop).result(60)
        try:
            yield ControlEndpoint(f"127.0.0.1:{port}", agents, loop)
        finally:
            asyncio.run_coroutine_threadsafe(stop(server, guarding), loop).result(60)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
