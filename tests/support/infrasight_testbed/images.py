"""Builds the project's images like `make images --base own`, without an image registry."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
CACHE = (
    Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "infrasight-tools" / "images"
)
STORE = CACHE / "store"  # persistent, so that unchanged layers are not built again
PREFIX = "localhost/infrasight-"
TAG = f"test-{ROOT.name}"
# Unnamed images are intermediate layers of builds; each may have a gigabyte.
_MAX_UNNAMED_IMAGES = 12
PODMAN = (
    "podman",
    *("--root", str(STORE)),
    *("--runroot", str(CACHE / "run")),
    *("--tmpdir", str(CACHE / "tmp")),
    *("--storage-driver", "overlay"),
)


def podman(*arguments: str) -> str:
    """Runs podman on the store; returns its output."""
    done = subprocess.run([*PODMAN, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"podman {arguments}: {done.stderr}"
    return done.stdout.strip()


def image_name(component: str) -> str:
    """The name of a component's image in the store."""
    return f"{PREFIX}{component}:{TAG}"


def build_images(*components: str, tag: str = TAG, options: tuple[str, ...] = ()) -> str:
    """Builds the images of some or all components; returns the build's output.

    Args:
        components: The components; all by default.
        tag: The tag of the images.
        options: Further options of tools/images.py.
    """
    if len(podman("images", "--filter", "dangling=true", "--quiet").split()) > _MAX_UNNAMED_IMAGES:
        podman("image", "prune", "--force")
    command = [sys.executable, str(ROOT / "tools" / "images.py"), *components]
    command += ["--base", "own", "--tag", tag, "--podman", shlex.join(PODMAN)]
    command += options
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def remove_image(name: str) -> None:
    """Removes an image from the store."""
    podman("rmi", "--force", name)
