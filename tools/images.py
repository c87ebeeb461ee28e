"""Builds the images of images/Containerfile with podman, and says how long each took and how large it is.

    python tools/images.py                      agent, server and operator on debian:bookworm-slim, tagged with their version
    python tools/images.py agent --base IMAGE   one of them, on another Debian 12
    python tools/images.py --base own           on one made here with mmdebstrap, where no registry of images can be reached

How this machine reaches its package index and its Debian mirror (pip's and apt's settings, certificates, proxies) reaches the
build as secrets, and no layer holds it. What uv has in its cache here is not fetched again.
"""

import argparse
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

from setup import ROOT, SetUpError, registry_settings, say

NAMES = tuple(
    name
    for name in ("agent", "server", "operator")
    if name == "agent" or (ROOT / f"infrasight-{name}").exists()
)
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
BASE, OWN, OWN_NAME = (
    "docker.io/library/debian:bookworm-slim",
    "own",
    "localhost/infrasight-debian:bookworm",
)
# Of the environment, what pip and uv are told of an index; never a path, which is another one in there.
REGISTRY: tuple[str, ...] = (
    "UV_DEFAULT_INDEX",
    "UV_INDEX",
    "UV_INDEX_STRATEGY",
    "UV_HTTP_TIMEOUT",
    "UV_INSECURE_HOST",
    "PIP_INDEX_URL",
)
REGISTRY += ("PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST", "PIP_DEFAULT_TIMEOUT")
PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
CERTIFICATES = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE")
APT = (
    "Acquire::http",
    "Acquire::https",
    "Acquire::Check-",
    "Acquire::Retries",
    "Acquire::ForceIPv4",
)
# What Debian's own image leaves out, too.
SLIM: tuple[str, ...] = (
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/man/*",
)
SLIM += ("path-exclude=/usr/share/locale/*", "path-exclude=/usr/share/info/*")


def registry() -> dict[str, str]:
    """What the environment and pip's settings say of an index."""
    told = registry_settings()
    found = {name: told[name] for name in (*REGISTRY, *PROXIES) if told.get(name)}
    if "UV_DEFAULT_INDEX" in found:
        found.setdefault("PIP_INDEX_URL", found["UV_DEFAULT_INDEX"])
    if "UV_INDEX" in found:
        found.setdefault("PIP_EXTRA_INDEX_URL", found["UV_INDEX"])
    return found


def apt() -> str:
    """What apt is told here of how to reach its mirror."""
    if not shutil.which("apt-config"):
        return ""
    dump = subprocess.run(
        ["apt-config", "dump"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return "".join(f"{line}\n" for line in dump if line.startswith(APT) and '"/' not in line)


def secrets(folder: Path) -> list[str]:
    """Podman's options for the build's secrets, which lie in a folder of this user's."""
    files = {"apt": folder / "apt", "registry": folder / "registry"}
    files["apt"].write_text(apt(), encoding="utf-8")
    files["registry"].write_text(
        "".join(f"{name}={value}\n" for name, value in registry().items()), encoding="utf-8"
    )
    told = registry_settings()
    if certificates := next(
        (told[name] for name in CERTIFICATES if Path(told.get(name) or "/").is_file()), None
    ):
        files["ca"] = Path(certificates)
    return [f"--secret=id={name},src={file}" for name, file in files.items()]


def own_base(podman: list[str]) -> str:
    """A small Debian 12 of this machine's mirror, made once; the name of its image."""
    digest = hashlib.sha256("\n".join(SLIM).encode()).hexdigest()[:12]
    archive = CACHE / "infrasight-tools" / f"debian-bookworm-{digest}.tar"
    if not archive.exists():
        archive.parent.mkdir(parents=True, exist_ok=True)
        say(f"mmdebstrap, into {archive}")
        options = [
            *(f"--dpkgopt={option}" for option in SLIM),
            *(f"--aptopt={line.rstrip(';')}" for line in apt().splitlines()),
        ]
        with tempfile.TemporaryDirectory(dir=archive.parent) as folder:
            made = Path(folder) / "base.tar"
            sources = [
                file for file in ("/etc/apt/sources.list.d/debian.sources",) if Path(file).exists()
            ]
            subprocess.run(
                [
                    "mmdebstrap",
                    "--quiet",
                    "--variant=minbase",
                    *options,
                    "bookworm",
                    made,
                    *sources,
                ],
                check=True,
            )
            made.rename(archive)
    if subprocess.run([*podman, "image", "exists", OWN_NAME], check=False).returncode:
        subprocess.run(
            [*podman, "import", "--quiet", str(archive), OWN_NAME], check=True, stdout=sys.stderr
        )
    return OWN_NAME


def labels() -> dict[str, str]:
    """The build arguments for the labels."""
    project = tomllib.loads((ROOT / "infrasight-core/pyproject.toml").read_text(encoding="utf-8"))[
        "project"
    ]
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    described = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return {"VERSION": project["version"], "REVISION": described.stdout.strip() or "unknown"}


def build(podman: list[str], name: str, told: argparse.Namespace, options: list[str]) -> None:
    """Builds one image and says how large it is."""
    started, arguments = time.monotonic(), labels()
    image = f"{told.prefix}{name}:{told.tag or arguments['VERSION']}"
    if told.probes is not None:
        arguments["PROBES"] = told.probes
    command = [
        *podman,
        "build",
        "--quiet",
        "--network=host",
        f"--file={ROOT}/images/Containerfile",
        f"--target={name}",
    ]
    command += [
        f"--tag={image}",
        *options,
        *(f"--build-arg={key}={value}" for key, value in arguments.items()),
    ]
    with tempfile.TemporaryDirectory(prefix="infrasight-images-") as folder:
        done = subprocess.run(
            [*command, *secrets(Path(folder)), str(ROOT)], stdout=subprocess.DEVNULL, check=False
        )
    if done.returncode:
        raise SetUpError(
            f"{image} was not built, see above; the same by hand: {shlex.join([*command, str(ROOT)])}"
        )
    (shown,) = json.loads(
        subprocess.run([*podman, "image", "inspect", image], capture_output=True, check=True).stdout
    )
    print(f"{image}  {shown['Size'] / 1e6:.0f} MB  {time.monotonic() - started:.0f} s", flush=True)


def main(arguments: list[str]) -> int:
    """Builds what is asked for; 0, or 1 after one line that says why not."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"which: {', '.join(NAMES)}; all of them by default",
    )
    parser.add_argument(
        "--base", default=BASE, help=f"a Debian 12; `{OWN}` makes one with mmdebstrap  [{BASE}]"
    )
    parser.add_argument(
        "--probes",
        help="distributions of probes, of this tree or of an index, with a space between",
    )
    parser.add_argument(
        "--prefix", default="localhost/infrasight-", help="before the name  [%(default)s]"
    )
    parser.add_argument("--tag", help="behind it  [the version]")
    parser.add_argument(
        "--podman", default="podman", help="the command, with its options  [%(default)s]"
    )
    told = parser.parse_args(arguments)
    podman = shlex.split(told.podman)
    try:
        if unknown := sorted(set(told.names) - set(NAMES)):
            raise SetUpError(f"{unknown[0]}: there is no such image; there are {', '.join(NAMES)}")
        if not shutil.which(podman[0]):
            raise SetUpError(f"there is no {podman[0]}: apt-get install podman")
        base = own_base(podman) if told.base == OWN else told.base
        options = [f"--build-arg=BASE={base}"]
        if (cache := Path(os.environ.get("UV_CACHE_DIR") or CACHE / "uv")).is_dir():
            options.append(f"--volume={cache}:/var/cache/uv")
        for name in told.names or NAMES:
            build(podman, name, told, options)
    except (SetUpError, subprocess.CalledProcessError) as error:
        print(f"images: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
