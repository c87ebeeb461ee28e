"""Runs a command under another Debian kernel, in a QEMU guest with this machine's root file system.

usage: kernel_guest.py SERIES COMMAND…      (as root; SERIES: 6.1, 6.12, …)

The newest kernel package of the series is downloaded and unpacked, not installed. The guest sees
this machine's files read-only, except for /tmp. It is emulated in software: about ten times slower,
with about ten seconds to boot. `make test-kernels` runs the probes' tests in it. Output and exit
status are those of the command; status 77 means that no emulator or no kernel is available.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

DEBIAN_PACKAGES = ("qemu-system-x86", "kmod", "busybox-static")
VIRTME = "virtme-ng==1.42"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "infrasight-tools"
TIMEOUT_SECONDS = 3000
UNAVAILABLE = 77


class GuestError(Exception):
    """The guest cannot run; the message names the cause and the remedy in one line."""


def say(text: str) -> None:
    """Prints progress to stderr."""
    print(f"kernel guest: {text}", file=sys.stderr, flush=True)


def run(*command: str | Path, folder: Path | None = None) -> str:
    """Runs a command and returns its output."""
    done = subprocess.run(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise GuestError(f"{shlex.join(map(str, command))} failed: {done.stdout[-400:]}")
    return done.stdout


def install_virtme() -> Path:
    """Installs virtme-ng into a separate virtual environment; returns its folder of programs."""
    if not all(map(shutil.which, ("qemu-system-x86_64", "kmod", "busybox"))):
        say(f"apt-get install {' '.join(DEBIAN_PACKAGES)}")
        run("apt-get", "install", "-y", "--no-install-recommends", *DEBIAN_PACKAGES)
    environment = CACHE / "virtme"
    if not (environment / "bin/virtme-ng").exists():
        say(f"installing {VIRTME} into {environment}")
        run(sys.executable, "-m", "venv", environment)
        run(environment / "bin/pip", "install", "--quiet", VIRTME)
    return environment / "bin"


def unpack_kernel(series: str) -> Path:
    """Unpacks the newest kernel of a series and installs its modules; returns the kernel image."""
    pattern = rf"^linux-image-{re.escape(series)}\.[0-9.]+(\+deb[0-9]+|-[0-9]+)-amd64$"
    found = run("apt-cache", "search", "--names-only", pattern)
    names = [line.split()[0] for line in found.splitlines()]
    if not names:
        raise GuestError(
            f"no kernel package of the series {series}: run apt-get update, or use 6.1, 6.12 …"
        )
    package = max(names, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])
    folder = CACHE / "kernels" / package
    version = package.removeprefix("linux-image-")
    if not (folder / "boot").exists():
        say(f"downloading {package}")
        folder.mkdir(parents=True, exist_ok=True)
        run("apt-get", "download", package, folder=folder)
        run("dpkg", "-x", next(folder.glob("*.deb")), folder)
    modules = Path("/lib/modules") / version
    if not (modules / "modules.dep").exists():
        modules.parent.mkdir(exist_ok=True)
        shutil.copytree(folder / "lib/modules" / version, modules, dirs_exist_ok=True)
        run("depmod", version)
    image = folder / "boot" / f"vmlinuz-{version}"
    shutil.copy(folder / "boot" / f"config-{version}", Path("/boot") / f"config-{version}")
    return image


def run_in_guest(image: Path, programs: Path, command: list[str]) -> int:
    """Boots the guest and runs the command; returns its status.

    Output and status pass through files, because the console loses text.
    """
    with tempfile.TemporaryDirectory(prefix="guest.", dir="/tmp") as work:
        Path(work).chmod(0o711)  # some tests change their user and still need their files
        script = Path(work) / "run"
        mounts = "mountpoint -q /sys/kernel/tracing || mount -t tracefs tracefs /sys/kernel/tracing"
        # Files in the shared /tmp cannot be mapped, and unnamed ones cannot be truncated.
        scratch = (
            f"mkdir {work}/scratch && mount -t tmpfs tmpfs {work}/scratch && "
            f"export TMPDIR={work}/scratch HOME={work}"
        )
        script.write_text(
            f"{mounts}\n{scratch}\ncd {shlex.quote(str(Path.cwd()))}\n"
            f"{shlex.join(command)} > {work}/output 2>&1\necho $? > {work}/status\n"
        )
        options = ["--disable-microvm", "--disable-kvm", "--force-9p", "--rwdir=/tmp"]
        options += ["--memory", "4G", "--cpus", "2", "--user", "root"]
        environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
        boot: list[str | Path] = [programs / "virtme-ng", "-r", image, *options]
        boot += ["--", "bash", script]
        try:
            subprocess.run(
                boot,
                env=environment,
                timeout=TIMEOUT_SECONDS,
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            say(f"timeout after {TIMEOUT_SECONDS} s")
        output = Path(work) / "output"
        if output.exists():
            sys.stdout.write(output.read_text(errors="replace"))
        else:
            sys.stdout.write("the guest did not run the command\n")
        status = Path(work) / "status"
        return int(status.read_text()) if status.exists() else 1


def main() -> int:
    """Runs the command; returns its status."""
    if len(sys.argv) < 3:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        programs = install_virtme()
        image = unpack_kernel(sys.argv[1])
        say(f"{image.name}: {shlex.join(sys.argv[2:])}")
        return run_in_guest(image, programs, sys.argv[2:])
    except GuestError as error:
        print(f"kernel guest: {error}", file=sys.stderr)
        return UNAVAILABLE


if __name__ == "__main__":
    sys.exit(main())
