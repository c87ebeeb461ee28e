"""A package index on a loopback port, with wheels that the test builds."""

import hashlib
import http.server
import subprocess
import sys
import threading
from collections.abc import Mapping
from functools import partial
from pathlib import Path


class PackageIndex:
    """Serves wheels; a context manager.

    Args:
        folder: The folder for wheels and their sources.
    """

    def __init__(self, folder: Path) -> None:
        self._served = folder / "simple"
        self._sources = folder / "sources"
        self._served.mkdir(parents=True)
        handler = partial(_QuietHandler, directory=str(self._served))
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="index")
        self._thread.start()

    @property
    def environment(self) -> Mapping[str, str]:
        """Environment variables that make `infrasight packages` use this index."""
        return {"INFRASIGHT_PACKAGES_INDEX_URL": self.url}

    @property
    def url(self) -> str:
        """The URL of the index."""
        return f"http://127.0.0.1:{self._server.server_port}/"

    def add(
        self,
        name: str,
        version: str,
        needs: tuple[str, ...] = (),
        code: Path | str = "",
        files: str = "",
        plugin: str = "",
    ) -> str:
        """Builds a wheel and adds it to the index; returns its hash.

        Args:
            name: The distribution's name.
            version: Its version.
            needs: Its dependencies.
            code: The folder of its package, or the text of its module.
            files: The module's name, if it differs from the distribution's.
            plugin: Its entry point in the group `infrasight`.
        """
        source = self._sources / f"{name}-{version}"
        source.mkdir(parents=True)
        module = files or name.replace("-", "_")
        lines = [
            "[build-system]",
            'requires = ["hatchling"]',
            'build-backend = "hatchling.build"',
            "[project]",
        ]
        lines += [f'name = "{name}"', f'version = "{version}"', f"dependencies = {list(needs)}"]
        lines += ['[project.entry-points."infrasight"]', plugin] if plugin else []
        if isinstance(code, Path):
            lines += ["[tool.hatch.build.targets.wheel.force-include]", f'"{code}" = "{code.name}"']
            lines += ["[tool.hatch.build.targets.wheel]", "bypass-selection = true"]
        else:
            (source / f"{module}.py").write_text(code)
            lines += ["[tool.hatch.build.targets.wheel]", f'only-include = ["{module}.py"]']
        (source / "pyproject.toml").write_text("\n".join(lines) + "\n")
        target = self._served / name
        command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel"]
        command += ["--directory", str(target)]
        subprocess.run(command, cwd=source, check=True, capture_output=True)
        (wheel,) = target.glob(f"*-{version}-*.whl")
        return f"sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}"

    def stop(self) -> None:
        """Stops serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> "PackageIndex":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._thread.is_alive():
            self.stop()


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Discards the log line."""
