"""The project's images, built as `make images` does, on a Debian that is made here: no registry of images is asked."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
CACHE = (
    Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "infrasight-tools" / "images"
)
STORE = CACHE / "store"  # kept, so that what has not changed is not built again
PREFIX = "localhost/infrasight-"
TAG = f"test-{ROOT.name}"
_MANY = 12  # images without a name that are kept, as steps of a build; each may be a gigabyte
PODMAN: tuple[str, ...] = (
    "podman",
    "--root",
    str(STORE),
    "--runroot",
    str(CACHE / "run"),
    "--tmpdir",
    str(CACHE / "tmp"),
)
PODMAN += ("--storage-driver", "overlay")


def podman(*arguments: str) -> str:
    """Runs podman on the store; its output."""
    done = subprocess.run([*PODMAN, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"podman {arguments}: {done.stderr}"
    return done.stdout.strip()


def image(name: str) -> str:
    """An image's name in the store."""
    return f"{PREFIX}{name}:{TAG}"


def build(*names: str) -> str:
    """Builds images; returns what was said of each."""
    if len(podman("images", "--filter", "dangling=true", "--quiet").split()) > _MANY:
        podman("image", "prune", "--force")
    command = [
        sys.executable,
        str(ROOT / "tools" / "images.py"),
        *names,
        "--base",
        "own",
        "--tag",
        TAG,
    ]
    done = subprocess.run(
        [*command, "--podman", shlex.join(PODMAN)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout
