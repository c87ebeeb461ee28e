"""An infrasight-server in a thread of the test's process, on its own ports."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

from infrasight_core.plugin.manager import PluginManager
from infrasight_server.server import Server
from infrasight_server.settings import ServerSettings


@contextmanager
def running_server(settings: ServerSettings, plugins: PluginManager) -> Iterator[Server]:
    """Runs a server while the body runs, then stops it. The settings' ports should be 0."""
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever, name="server")
    thread.start()
    try:
        server = Server(settings, plugins, settings.open_store())
        asyncio.run_coroutine_threadsafe(server.start(), loop).result(60)
        try:
            yield server
        finally:
            asyncio.run_coroutine_threadsafe(server.stop(), loop).result(60)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
