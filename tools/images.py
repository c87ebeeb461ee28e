"""Builds the images of images/Containerfile with podman; prints their sizes and build times.

    python tools/images.py                      agent, server and operator on debian:bookworm-slim
    python tools/images.py agent --base IMAGE   one image, on another Debian 12 image
    python tools/images.py --base own           on a base built with mmdebstrap, without a registry

The build receives this machine's settings for pip, apt, certificates and proxies as secrets, which
are stored in no layer. Packages in this machine's uv cache are not downloaded again.
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

COMPONENTS = ("agent", "server", "operator")
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
DEFAULT_BASE = "docker.io/library/debian:bookworm-slim"
OWN_BASE = "own"
OWN_BASE_IMAGE = "localhost/infrasight-debian:bookworm"
# Variables that configure a package index for pip and uv. The build cannot use paths.
REGISTRY_VARIABLES = (
    "UV_DEFAULT_INDEX",
    "UV_INDEX",
    "UV_INDEX_STRATEGY",
    "UV_HTTP_TIMEOUT",
    "UV_INSECURE_HOST",
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIP_TRUSTED_HOST",
    "PIP_DEFAULT_TIMEOUT",
)
PROXY_VARIABLES = (
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
)
CERTIFICATE_VARIABLES = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE")
APT_SETTINGS = (
    "Acquire::http",
    "Acquire::https",
    "Acquire::Check-",
    "Acquire::Retries",
    "Acquire::ForceIPv4",
)
# Debian's slim images also exclude these files.
DPKG_OPTIONS = (
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/info/*",
)
DEBIAN_SOURCES = Path("/etc/apt/sources.list.d/debian.sources")


def index_variables() -> dict[str, str]:
    """The package index and the proxies, from the environment and pip's settings."""
    settings = registry_settings()
    variables = {
        name: settings[name]
        for name in (*REGISTRY_VARIABLES, *PROXY_VARIABLES)
        if settings.get(name)
    }
    if "UV_DEFAULT_INDEX" in variables:
        variables.setdefault("PIP_INDEX_URL", variables["UV_DEFAULT_INDEX"])
    if "UV_INDEX" in variables:
        variables.setdefault("PIP_EXTRA_INDEX_URL", variables["UV_INDEX"])
    return variables


def apt_settings() -> str:
    """This machine's apt settings for the mirror, in the format of apt.conf(5)."""
    if not shutil.which("apt-config"):
        return ""
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True)
    lines = [
        line
        for line in dump.stdout.splitlines()
        if line.startswith(APT_SETTINGS) and '"/' not in line
    ]
    return "".join(f"{line}\n" for line in lines)


def write_secrets(folder: Path) -> list[str]:
    """Writes the build's secrets into a private folder; returns podman's options for them."""
    files = {"apt": folder / "apt", "registry": folder / "registry"}
    files["apt"].write_text(apt_settings(), encoding="utf-8")
    variables = index_variables()
    registry = "".join(f"{name}={value}\n" for name, value in variables.items())
    files["registry"].write_text(registry, encoding="utf-8")
    settings = registry_settings()
    for name in CERTIFICATE_VARIABLES:
        certificates = settings.get(name)
        if certificates and Path(certificates).is_file():
            files["ca"] = Path(certificates)
            break
    return [f"--secret=id={name},src={file}" for name, file in files.items()]


def build_own_base(podman: list[str]) -> str:
    """Builds a small Debian 12 image from this machine's mirror, once; returns its name."""
    digest = hashlib.sha256("\n".join(DPKG_OPTIONS).encode()).hexdigest()[:12]
    archive = CACHE / "infrasight-tools" / f"debian-bookworm-{digest}.tar"
    if not archive.exists():
        archive.parent.mkdir(parents=True, exist_ok=True)
        say(f"running mmdebstrap into {archive}")
        options = [f"--dpkgopt={option}" for option in DPKG_OPTIONS]
        options += [f"--aptopt={line.rstrip(';')}" for line in apt_settings().splitlines()]
        sources = [DEBIAN_SOURCES] if DEBIAN_SOURCES.exists() else []
        with tempfile.TemporaryDirectory(dir=archive.parent) as folder:
            incomplete = Path(folder) / "base.tar"
            command: list[str | Path] = ["mmdebstrap", "--quiet", "--variant=minbase", *options]
            subprocess.run([*command, "bookworm", incomplete, *sources], check=True)
            incomplete.rename(archive)
    exists = subprocess.run([*podman, "image", "exists", OWN_BASE_IMAGE], check=False)
    if exists.returncode != 0:
        command = [*podman, "import", "--quiet", str(archive), OWN_BASE_IMAGE]
        subprocess.run(command, check=True, stdout=sys.stderr)
    return OWN_BASE_IMAGE


def version_arguments() -> dict[str, str]:
    """The build arguments for the image labels: version and Git revision."""
    pyproject = (ROOT / "infrasight-core/pyproject.toml").read_text(encoding="utf-8")
    version = tomllib.loads(pyproject)["project"]["version"]
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    described = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return {"VERSION": version, "REVISION": described.stdout.strip() or "unknown"}


def commit_time() -> int:
    """The time of all files in the images: SOURCE_DATE_EPOCH, or that of the last commit."""
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not text:
        command = ["git", "log", "-1", "--format=%ct"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        text = done.stdout.strip() or "0"
    return int(text)


def base_arguments(podman: list[str], base: str) -> dict[str, str]:
    """The build arguments for the base: the image by its digest, and both for the labels."""
    is_local = base.startswith("localhost/")
    if not is_local:
        subprocess.run([*podman, "pull", "--quiet", base], check=True, stdout=sys.stderr)
    inspect = [*podman, "image", "inspect", "--format={{.Digest}}", base]
    digest = subprocess.run(inspect, capture_output=True, text=True, check=True).stdout.strip()
    name = base.partition("@")[0]
    folder, separator, last = name.rpartition("/")
    repository = folder + separator + last.partition(":")[0]
    pinned = base if is_local else f"{repository}@{digest}"
    return {"BASE": pinned, "BASE_NAME": name, "BASE_DIGEST": digest}


def build(
    podman: list[str], component: str, settings: argparse.Namespace, options: list[str]
) -> None:
    """Builds one image and prints its size.

    Raises:
        SetUpError: The build failed.
    """
    started = time.monotonic()
    arguments = version_arguments()
    image = f"{settings.prefix}{component}:{settings.tag or arguments['VERSION']}"
    if settings.probes is not None:
        arguments["PROBES"] = settings.probes
    command = [*podman, "build", "--quiet", "--network=host"]
    command += [f"--file={ROOT}/images/Containerfile", f"--target={component}", f"--tag={image}"]
    command += options
    command += [f"--build-arg={name}={value}" for name, value in arguments.items()]
    command.append(f"--timestamp={commit_time()}")
    if settings.no_cache:
        command.append("--no-cache")
    with tempfile.TemporaryDirectory(prefix="infrasight-images-") as folder:
        secrets = write_secrets(Path(folder))
        done = subprocess.run(
            [*command, *secrets, str(ROOT)], stdout=subprocess.DEVNULL, check=False
        )
    if done.returncode != 0:
        raise SetUpError(
            f"building {image} failed, see above; "
            f"to repeat it without secrets: {shlex.join([*command, str(ROOT)])}"
        )
    inspect = [*podman, "image", "inspect", image]
    inspected = subprocess.run(inspect, capture_output=True, check=True)
    (details,) = json.loads(inspected.stdout)
    seconds = time.monotonic() - started
    size = details["Size"] / 1e6
    print(f"{image}  {size:.0f} MB  {seconds:.0f} s  {details['Digest']}", flush=True)


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "components",
        nargs="*",
        metavar="COMPONENT",
        help=f"{', '.join(COMPONENTS)}; all by default",
    )
    parser.add_argument(
        "--base",
        default=DEFAULT_BASE,
        help=f"a Debian 12 image; `{OWN_BASE}` builds one with mmdebstrap  [%(default)s]",
    )
    parser.add_argument(
        "--probes",
        help="space-separated distributions of probes, from this repository or a package index",
    )
    parser.add_argument(
        "--prefix", default="localhost/infrasight-", help="prefix of the name  [%(default)s]"
    )
    parser.add_argument(
        "--no-cache", action="store_true", help="build every layer again, to compare two builds"
    )
    parser.add_argument("--tag", help="tag of the image  [the version]")
    parser.add_argument("--podman", default="podman", help="podman with its options  [%(default)s]")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Builds the requested images; returns 0, or 1 after one line with the cause."""
    settings = parse_arguments(arguments)
    podman = shlex.split(settings.podman)
    try:
        for component in settings.components:
            if component not in COMPONENTS:
                choices = ", ".join(COMPONENTS)
                raise SetUpError(f"unknown component {component!r}; choose from {choices}")
        if not shutil.which(podman[0]):
            raise SetUpError(f"{podman[0]} is not installed: apt-get install podman")
        base = build_own_base(podman) if settings.base == OWN_BASE else settings.base
        base_values = base_arguments(podman, base)
        options = [f"--build-arg={name}={value}" for name, value in base_values.items()]
        uv_cache = Path(os.environ.get("UV_CACHE_DIR") or CACHE / "uv")
        if uv_cache.is_dir():
            options.append(f"--volume={uv_cache}:/var/cache/uv")
        for component in settings.components or COMPONENTS:
            build(podman, component, settings, options)
    except (SetUpError, subprocess.CalledProcessError) as error:
        print(f"images: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
