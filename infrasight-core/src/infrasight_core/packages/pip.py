"""Running pip, and what it says in the end, for people."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

from infrasight_core.errors import InstallError

_OPTIONS = (
    "--no-input",
    "--disable-pip-version-check",
    "--no-color",
    "--root-user-action",
    "ignore",
)
_URL_USER = re.compile(r"(?<=://)[^/\s@]*@")
_BROKEN = re.compile(r"WARNING: Retrying .* after connection broken by '(.*)': ")
_MISSING = re.compile(r"ERROR: Could not find a version .*")
_CONFLICT = re.compile(r"The conflict is caused by:\n(.*?)\n\n", re.DOTALL)


def run_pip(arguments: Sequence[str], environment: Mapping[str, str], seconds: float) -> None:
    """Runs `pip install` of the Python that runs here.

    Args:
        arguments: What to install, and how.
        environment: Variables in place of those of this process.
        seconds: How long it may take.

    Raises:
        InstallError: It failed; why, in one line.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "pip", "install", *_OPTIONS, *arguments],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # so that what it starts ends with it
    )
    try:
        said, _ = process.communicate(timeout=max(seconds, 1))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        said, _ = process.communicate()
        raise InstallError(f"pip had not ended after {seconds:.0f} s; {reason_in(said)}") from None
    if process.returncode:
        raise InstallError(reason_in(said))


def reason_in(said: str) -> str:
    """Why pip failed: its last errors, and what they leave out.

    Args:
        said: What it wrote.
    """
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    if conflict := _CONFLICT.search(said):
        errors[-1:] = [" and ".join(line.strip() for line in conflict[1].splitlines())]
    elif missing := _MISSING.search(said):
        errors = [missing[0].removeprefix("ERROR: ")]
    elif errors and "DO NOT MATCH THE HASHES" in errors[-1]:
        errors = [
            "it does not match the hashes that are given",
            *lines[lines.index(f"ERROR: {errors[-1]}") + 1 :],
        ]
    if broken := _BROKEN.findall(said):
        errors.append(f"the index does not answer: {broken[-1].rsplit('>: ', 1)[-1]}")
    words = " ".join("; ".join(errors or lines[-1:] or ["pip said nothing"]).split())
    return _URL_USER.sub("…@", words)
