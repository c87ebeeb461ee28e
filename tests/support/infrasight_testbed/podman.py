"""A separate podman for a test: its API on a socket, and containers of a busybox image."""

import os
import socket
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infrasight_testbed.container_image import save_image
from infrasight_testbed.container_service import Service, remove_cgroups, short_folder

IMAGE = "localhost/infrasight-busy:1"
_SETTINGS = """
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=32768:32768"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


class Podman:
    """podman's API service and command, with separate storage.

    Args:
        folder: The folder for all state.
        images: An additional image store, read-only.

    Attributes:
        run_folder: The folder that replaces the host's /run; with the API socket at its usual path.
        socket: The socket of the API.
        service: The process of the API.
        cgroup: The cgroup of the containers, below the root of each hierarchy.
    """

    def __init__(self, folder: Path, images: Path | None = None) -> None:
        settings = folder / "containers.conf"
        settings.write_text(_SETTINGS)
        self._environment = {**os.environ, "CONTAINERS_CONF": str(settings)}
        self._command = ["podman", "--root", str(folder / "root"), "--runroot", str(folder / "run")]
        self._command += ["--tmpdir", str(folder / "tmp")]
        if images is None:
            self._command += ["--storage-driver", "vfs"]
        else:
            self._command += ["--storage-driver", "overlay"]
            self._command += ["--storage-opt", f"overlay.imagestore={images}"]
        self.run_folder = folder / "host"
        self.cgroup = f"infrasight-{uuid.uuid4().hex[:12]}"
        self.socket = self.run_folder / "podman" / "podman.sock"
        self.socket.parent.mkdir(parents=True)
        serve = [*self._command, "system", "service", "--time", "0", f"unix://{self.socket}"]
        self.service = Service(serve, self.socket, folder / "service.log", self._environment)
        save_image(folder / "image.tar", IMAGE, "sleep", "1000000")
        self("load", "--quiet", "--input", str(folder / "image.tar"))

    def __call__(self, *arguments: str) -> str:
        """Runs `podman ARGUMENT…`; returns its output."""
        done = self._run(*arguments)
        return done.stdout.strip()

    def log(self, container: str) -> str:
        """The output of a container, from both streams."""
        done = self._run("logs", container)
        return done.stdout + done.stderr

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*self._command, *arguments],
            capture_output=True,
            text=True,
            env=self._environment,
            check=False,
        )
        assert done.returncode == 0, f"podman {arguments}: {done.stderr}"
        return done

    def start(self) -> None:
        """Starts the API service."""
        self.socket.unlink(missing_ok=True)
        self.service.start(self._answers)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(str(self.socket)) == 0

    def run(self, *arguments: str, command: tuple[str, ...] = ("sleep", "1000")) -> str:
        """Runs a container in the background; returns its id."""
        options = ("--detach", "--network", "none", "--cgroup-parent", f"/{self.cgroup}")
        return self("run", *options, *arguments, IMAGE, *command)


@contextmanager
def running_podman(images: Path | None = None) -> Iterator[Podman]:
    """A podman whose API is running; all its containers and files are removed at the end."""
    with short_folder() as folder:
        podman = Podman(folder, images)
        try:
            podman.start()
            yield podman
        finally:
            podman.service.stop()
            podman("rm", "--all", "--force", "--time", "0")
            remove_cgroups(podman.cgroup)
            overlay = folder / "root" / "overlay"
            if (
                overlay.is_mount()
            ):  # podman bind-mounts this folder on itself and does not unmount it
                subprocess.run(["umount", overlay], check=True)
