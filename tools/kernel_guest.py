"""Runs a command under another kernel of Debian's, in a QEMU guest whose root file system is this machine's own.

usage: kernel_guest.py SERIES COMMAND…      (as root; SERIES: 6.1, 6.12, …)

The newest kernel package of the series is fetched and unpacked, not installed. The guest sees this machine's files, read-only
but for /tmp, and is emulated in software: ten times slower, about ten seconds to boot. `make test-kernels` runs the probes'
tests in it. Output and exit status are the command's; 77 where no emulator or
no kernel is to be had.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

DEBIAN = ("qemu-system-x86", "kmod", "busybox-static")
VIRTME = "virtme-ng==1.42"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "infrasight-tools"
SECONDS = 3000
UNOBTAINABLE = 77  # the exit status where no emulator or no kernel is to be had


class GuestError(Exception):
    """What failed and what to do, in one line."""


def say(text: str) -> None:
    """Tells what is done."""
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


def virtme() -> Path:
    """virtme-ng, in a virtual environment of its own, with the Debian packages that it needs."""
    if (
        not shutil.which("qemu-system-x86_64")
        or not shutil.which("kmod")
        or not shutil.which("busybox")
    ):
        say(f"apt-get install {' '.join(DEBIAN)}")
        run("apt-get", "install", "-y", "--no-install-recommends", *DEBIAN)
    environment = CACHE / "virtme"
    if not (environment / "bin/virtme-ng").exists():
        say(f"installing {VIRTME} into {environment}")
        run(sys.executable, "-m", "venv", environment)
        run(environment / "bin/pip", "install", "--quiet", VIRTME)
    return environment / "bin"


def kernel(series: str) -> Path:
    """The newest kernel of a series, unpacked; its modules where the guest looks for them."""
    pattern = rf"^linux-image-{re.escape(series)}\.[0-9.]+(\+deb[0-9]+|-[0-9]+)-amd64$"
    names = [
        line.split()[0] for line in run("apt-cache", "search", "--names-only", pattern).splitlines()
    ]
    if not names:
        raise GuestError(
            f"there is no kernel package of {series}: run apt-get update, or give 6.1, 6.12 …"
        )
    package = max(names, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])
    folder, version = CACHE / "kernels" / package, package.removeprefix("linux-image-")
    if not (folder / "boot").exists():
        say(f"fetching {package}")
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


def guest(image: Path, programs: Path, command: list[str]) -> int:
    """Boots, runs, and returns the command's status. The console is not to be trusted: output and status go through files."""
    with tempfile.TemporaryDirectory(prefix="guest.", dir="/tmp") as work:
        Path(work).chmod(0o711)  # tests become other users, who must come to their temporary files
        script = Path(work) / "run"
        mounts = "mountpoint -q /sys/kernel/tracing || mount -t tracefs tracefs /sys/kernel/tracing"
        # Files of the shared /tmp cannot be mapped, nor truncated when they have no name: temporary ones go elsewhere.
        scratch = f"mkdir {work}/scratch && mount -t tmpfs tmpfs {work}/scratch && export TMPDIR={work}/scratch HOME={work}"
        script.write_text(
            f"{mounts}\n{scratch}\ncd {shlex.quote(str(Path.cwd()))}\n"
            f"{shlex.join(command)} > {work}/output 2>&1\necho $? > {work}/status\n"
        )
        options = [
            "--disable-microvm",
            "--disable-kvm",
            "--force-9p",
            "--memory",
            "4G",
            "--cpus",
            "2",
            "--user",
            "root",
        ]
        environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
        boot: list[str | Path] = [
            programs / "virtme-ng",
            "-r",
            image,
            *options,
            "--rwdir=/tmp",
            "--",
            "bash",
            script,
        ]
        try:
            with Path(os.devnull).open("r+b") as nowhere:
                subprocess.run(
                    boot,
                    env=environment,
                    timeout=SECONDS,
                    check=False,
                    stdin=nowhere,
                    stdout=nowhere,
                    stderr=nowhere,
                )
        except subprocess.TimeoutExpired:
            say(f"not done after {SECONDS} s")
        output, status = Path(work) / "output", Path(work) / "status"
        sys.stdout.write(
            output.read_text(errors="replace")
            if output.exists()
            else "the guest did not run the command\n"
        )
        return int(status.read_text()) if status.exists() else 1


def main() -> int:
    """Runs one command."""
    if len(sys.argv) < 3:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        programs, image = virtme(), kernel(sys.argv[1])
        say(f"{image.name}: {shlex.join(sys.argv[2:])}")
        return guest(image, programs, sys.argv[2:])
    except GuestError as error:
        print(f"kernel guest: {error}", file=sys.stderr)
        return UNOBTAINABLE


if __name__ == "__main__":
    sys.exit(main())
