"""Prepares the machine and `.venv`; installs only missing packages.

    python3 tools/setup.py lint     the virtual environment with the workspace and development tools
    python3 tools/setup.py run      also the requirements of recording: bcc, libbpf, file systems
    python3 tools/setup.py test     also a C compiler and the programs that the tests compare with
    python3 tools/setup.py bench    also the programs that the benchmarks compare with

It runs before anything is installed, so it uses only the standard library. Progress goes to stderr.
"""

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
LOCK = ROOT / "requirements.lock"
STAMP = VENV / "infrasight-setup.stamp"
UV = VENV / "bin" / "uv"
UV_LOCK = VENV / "infrasight-uv.txt"
# Wheels whose hash is in the lock: no file is run that the lock does not name.
VERIFIED = ("--require-hashes", "--only-binary", ":all:")

# The Debian packages of each purpose, and the command whose presence makes the package unnecessary.
RUN = {"python3-bpfcc": "", "libbpf1": ""}
RUNTIMES = {
    "podman": "podman",
    "containerd": "containerd",
    "runc": "runc",
    "busybox-static": "",
    "mmdebstrap": "mmdebstrap",
}
TEST = {
    **RUN,
    "gcc": "cc",
    "libc6-dev": "",
    "strace": "strace",
    "git": "git",
    "stress-ng": "stress-ng",
    "dnsmasq-base": "dnsmasq",
    **RUNTIMES,
}
BENCH = {
    **TEST,
    "bpftrace": "bpftrace",
    "auditd": "auditctl",
    "redis-server": "redis-server",
    "redis-tools": "redis-benchmark",
    "nginx-light": "nginx",
    "apache2-utils": "ab",
    "postgresql": "pgbench",
}
PACKAGES = {"lint": {}, "run": RUN, "test": TEST, "bench": BENCH}
FILE_SYSTEMS = {"/sys/kernel/tracing": "tracefs", "/sys/fs/bpf": "bpf"}
# Seconds before each retry: a package registry can fail for minutes.
RETRY_SECONDS = (2, 5, 15, 30, 60)


class SetUpError(Exception):
    """The set-up failed; the message names the cause and the remedy in one line."""


def say(text: str) -> None:
    """Prints progress to stderr."""
    print(f"set-up: {text}", file=sys.stderr, flush=True)


def run(*command: str | Path, tries: int = 1, env: dict[str, str] | None = None) -> None:
    """Runs a command with its output on stderr; retries it after a pause if it fails.

    Raises:
        SetUpError: All tries failed.
    """
    line = " ".join(str(part).replace(f"{ROOT}/", "") for part in command)
    say(line)
    for pause in (*RETRY_SECONDS[: tries - 1], None):
        status = subprocess.run(
            command, stdout=sys.stderr, stdin=subprocess.DEVNULL, cwd=ROOT, env=env, check=False
        ).returncode
        if status == 0:
            return
        if pause is not None:
            say(f"failed; retrying in {pause} s")
            time.sleep(pause)
    times = ""
    remedy = ""
    if tries > 1:
        times = f" {tries} times"
        remedy = "; is the registry reachable? Run the command again to continue"
    raise SetUpError(f"`{line}` failed{times} (status {status}), see above{remedy}")


def debian_packages(purpose: str) -> None:
    """Installs missing Debian packages as root; otherwise names the command that does."""
    wanted = [
        name
        for name, command in PACKAGES[purpose].items()
        if not (command and shutil.which(command))
    ]
    if importlib.util.find_spec("ensurepip") is None:
        wanted.append("python3-venv")
    if not wanted:
        return
    if shutil.which("dpkg-query") is None:
        say(f"not a Debian system: install the equivalents of {', '.join(wanted)}")
        return
    query = ["dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\n", *wanted]
    shown = subprocess.run(query, capture_output=True, text=True, check=False).stdout.splitlines()
    missing = [name for name in wanted if f"{name} installed" not in shown]
    if not missing:
        return
    if os.geteuid() != 0:
        raise SetUpError(
            f"run as root: apt-get install --no-install-recommends {' '.join(missing)}"
        )
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    options = ("-qq", "-o", "DPkg::Lock::Timeout=300", "-o", "Dpkg::Use-Pty=0")
    run(
        "apt-get",
        *options,
        "-o",
        "APT::Update::Error-Mode=any",
        "update",
        tries=len(RETRY_SECONDS) + 1,
        env=env,
    )
    run(
        "apt-get",
        *options,
        "install",
        "--no-install-recommends",
        "-y",
        *missing,
        tries=len(RETRY_SECONDS) + 1,
        env=env,
    )


def mount_file_systems() -> None:
    """Mounts the file systems that recording needs and that are not mounted; never unmounts any."""
    mounted = {
        tuple(line.split()[1:3])
        for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    }
    for folder, kind in FILE_SYSTEMS.items():
        if (folder, kind) in mounted:
            continue
        command = ("mount", "-t", kind, kind, folder)
        if os.geteuid() != 0:
            say(f"recording needs {folder}; run as root: {' '.join(command)}")
            continue
        try:
            run(*command)
        except SetUpError as error:
            say(f"{error}; recording needs {folder}")


def digest() -> str:
    """A digest of everything that determines the content of the virtual environment."""
    files = [
        ROOT / "pyproject.toml",
        *sorted(ROOT.glob("infrasight-*/pyproject.toml")),
        LOCK,
        Path(__file__),
    ]
    text = b"\0".join(
        [
            str(ROOT).encode(),
            *(part for file in files for part in (file.name.encode(), file.read_bytes())),
        ]
    )
    return hashlib.sha256(text).hexdigest()


def registry_settings() -> dict[str, str]:
    """The environment for uv, with pip's settings for indexes and certificates."""
    listed = subprocess.run(
        [VENV / "bin" / "python", "-m", "pip", "config", "list"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    ).stdout
    pip_settings = {}
    for line in listed.splitlines():
        key, _, value = line.partition("=")
        pip_settings[key.rpartition(".")[2]] = value.strip("'\"")
    env = {"UV_HTTP_TIMEOUT": "120", "VIRTUAL_ENV": str(VENV)}
    for key, name in (
        ("index-url", "UV_DEFAULT_INDEX"),
        ("extra-index-url", "UV_INDEX"),
        ("cert", "SSL_CERT_FILE"),
    ):
        if key in pip_settings:
            env[name] = " ".join(pip_settings[key].split("\\n"))
    return {**env, **os.environ, "VIRTUAL_ENV": str(VENV)}


def locked_requirement(name: str) -> str:
    """The lines of the lock that pin one package: its version and the hashes of its files."""
    lines: list[str] = []
    for line in LOCK.read_text(encoding="utf-8").splitlines():
        is_continued = bool(lines) and lines[-1].endswith("\\")
        if is_continued or line.startswith(f"{name}=="):
            lines.append(line)
    return "\n".join(lines) + "\n"


def python_packages() -> None:
    """Installs the locked versions and the workspace's packages, editable, into `.venv`."""
    stamp = f"{ROOT}\n{digest()}\n"
    before = STAMP.read_text(encoding="utf-8") if STAMP.exists() else ""
    python = VENV / "bin" / "python"
    if before == stamp and python.exists():
        return
    say(f"Python {sys.version.split()[0]} ({sys.executable}), into {VENV}")
    # The scripts of a virtual environment contain its path, so a moved one is created again.
    moved = bool(before) and not before.startswith(f"{ROOT}\n")
    if moved or not python.exists():
        importlib.invalidate_caches()
        if importlib.util.find_spec("ensurepip") is None:
            raise SetUpError(
                f"{sys.executable} has no ensurepip module; install it, or use another Python: "
                "make PYTHON=…"
            )
        run(sys.executable, "-m", "venv", "--clear", VENV)
    STAMP.unlink(missing_ok=True)
    tries = len(RETRY_SECONDS) + 1
    env = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    UV_LOCK.write_text(locked_requirement("uv"), encoding="utf-8")
    pip = (python, "-m", "pip", "install", "--quiet", "--no-deps")
    run(*pip, *VERIFIED, "--requirement", UV_LOCK, tries=tries, env=env)
    env = registry_settings()
    run(UV, "pip", "install", *VERIFIED, "--requirements", LOCK, tries=tries, env=env)
    editable = [
        f"--editable=./{file.parent.name}"
        for file in sorted(ROOT.glob("infrasight-*/pyproject.toml"))
    ]
    run(UV, "pip", "install", "--offline", "--no-deps", "--no-build-isolation", *editable, env=env)
    STAMP.write_text(stamp, encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Prepares the machine for a purpose; returns 0, or 1 after one line with the cause."""
    if len(arguments) != 1 or arguments[0] not in PACKAGES:
        print(__doc__, file=sys.stderr)
        return 2
    started = time.monotonic()
    try:
        if sys.version_info < (3, 11):
            raise SetUpError(
                f"Python 3.11 or newer is required, but {sys.executable} is "
                f"{sys.version.split()[0]}; use another Python: make PYTHON=…"
            )
        with Path(__file__).open() as one_at_a_time:
            fcntl.flock(one_at_a_time, fcntl.LOCK_EX)
            debian_packages(arguments[0])
            python_packages()
            if arguments[0] != "lint":
                mount_file_systems()
    except SetUpError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        say("interrupted; run the command again to continue")
        return 130
    if (seconds := time.monotonic() - started) > 1:
        say(f"ready after {seconds:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
