"""Runs pip, and extracts the reason of a failure from its output."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

from infrasight_core.errors import InstallError
from infrasight_core.settings.credentials import hide_url_credentials

_OPTIONS = (
    "--isolated",  # from the settings of this process's user and environment
    "--no-input",
    "--disable-pip-version-check",
    "--no-color",
    "--root-user-action",
    "ignore",
    "--retries",
    "3",
)
_CONNECTION_BROKEN = re.compile(r"WARNING: Retrying .* after connection broken by '(.*)': ")
_NO_VERSION = re.compile(r"ERROR: Could not find a version .*")
_CONFLICT = re.compile(r"The conflict is caused by:\n(.*?)\n\n", re.DOTALL)


def run_pip(arguments: Sequence[str], environment: Mapping[str, str], seconds: float) -> None:
    """Runs `pip install` with the running Python, and only with the given settings.

    pip's own variables, such as `PIP_EXTRA_INDEX_URL`, and its settings files have no effect.

    Args:
        arguments: The arguments of `pip install`.
        environment: Variables that override those of this process.
        seconds: The time limit.

    Raises:
        InstallError: pip failed; the message is the reason, in one line.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "pip", "install", *_OPTIONS, *arguments],
        env={**_inherited(), **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # so that its own child processes end with it
    )
    try:
        output, _ = process.communicate(timeout=max(seconds, 1))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        reason = extract_reason(output)
        raise InstallError(f"pip was stopped after {seconds:.0f} s: {reason}") from None
    if process.returncode:
        raise InstallError(extract_reason(output))


def _inherited() -> dict[str, str]:
    """Returns the variables of this process without pip's, and one that disables its files."""
    variables = {
        name: value for name, value in os.environ.items() if not name.upper().startswith("PIP_")
    }
    variables["PIP_CONFIG_FILE"] = os.devnull
    return variables


def extract_reason(output: str) -> str:
    """Returns why pip failed, in one line: its last errors, and the causes that they omit.

    Args:
        output: The output of pip.
    """
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    if conflict := _CONFLICT.search(output):
        errors[-1:] = [" and ".join(line.strip() for line in conflict[1].splitlines())]
    elif no_version := _NO_VERSION.search(output):
        errors = [no_version[0].removeprefix("ERROR: ")]
    elif errors and "DO NOT MATCH THE HASHES" in errors[-1]:
        details = lines[lines.index(f"ERROR: {errors[-1]}") + 1 :]
        errors = ["it does not match the given hashes", *details]
    if broken := _CONNECTION_BROKEN.findall(output):
        cause = broken[-1].rsplit(">: ", 1)[-1]
        errors.append(f"the package index does not answer: {cause}")
    parts = errors or lines[-1:] or ["pip printed no output"]
    reason = " ".join("; ".join(parts).split())
    return hide_url_credentials(reason)
