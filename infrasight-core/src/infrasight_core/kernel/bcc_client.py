"""Runs bcc_process.py for one request and reads its answer."""

import array
import json
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from attrs import frozen

from infrasight_core.errors import KernelError
from infrasight_core.kernel import bcc_process
from infrasight_core.kernel.attach_points import tracefs_is_mounted
from infrasight_core.kernel.c_source import compiler_warnings

# The verifier of an emulated machine takes minutes where a real machine's takes a second.
TIMEOUT_SECONDS = 600
_MOST_DESCRIPTORS = 253  # of one message: SCM_MAX_FD


@frozen
class BccAnswer:
    """What bcc_process.py answered.

    Attributes:
        values: The JSON object; bcc_process.py documents it.
        descriptors: The descriptors that came with it; the receiver closes them.
        warnings: The compiler's warnings, each as `file:line: warning: …`.
    """

    values: dict[str, Any]
    descriptors: list[int]
    warnings: tuple[str, ...]


def run_bcc(request: dict[str, Any], python: Path) -> BccAnswer:
    """Has a Python that has bcc do a request, which bcc_process.py documents.

    Raises:
        KernelError: The process cannot be run, or failed; with the first errors of the compiler,
            the verifier or the kernel.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        command = [str(python), "-E", "-s", bcc_process.__file__, str(theirs.fileno())]
        try:
            process = _run(command, json.dumps(request).encode(), theirs.fileno())
        except FileNotFoundError as error:
            raise KernelError(
                f"there is no {python}: set `loader_python` to a Python that has bcc"
            ) from error
        except OSError as error:
            raise KernelError(
                f"cannot run {python}: {error.strerror}; "
                "set `loader_python` to a Python that has bcc"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise KernelError(f"the loader took more than {TIMEOUT_SECONDS} s") from error
        theirs.close()
        message, ancillary, *_ = ours.recvmsg(
            bcc_process.MESSAGE_BYTES,
            socket.CMSG_SPACE(_MOST_DESCRIPTORS * array.array("i").itemsize),
        )
    descriptors = array.array("i")
    for _, _, data in ancillary:
        descriptors.frombytes(data)
    output = process.stdout.decode(errors="replace")
    summary = _error_summary(output)
    if not message:
        raise KernelError(f"the loader ended with status {process.returncode}: {summary}")
    values: dict[str, Any] = json.loads(message)
    if "error" in values:
        reason = str(values["error"])
        raise KernelError(explain(f"{reason}; {summary}" if summary else reason))
    return BccAnswer(values, list(descriptors), compiler_warnings(output))


def _run(command: list[str], request: bytes, channel: int) -> "subprocess.CompletedProcess[bytes]":
    """Runs the command in a new thread, by which programs recognize its process as the agent's.

    The first thread of this process would not do, because orphans become its children, too; see
    bpf/filter.bpf.h.
    """
    with ThreadPoolExecutor(1, "loader") as thread:
        return thread.submit(
            subprocess.run,
            command,
            input=request,
            pass_fds=[channel],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TIMEOUT_SECONDS,
            check=False,
        ).result()


def explain(error: str) -> str:
    """Replaces the most frequent errors by their remedy."""
    if not tracefs_is_mounted():
        return (
            "tracefs is not mounted: mount -t tracefs tracefs /sys/kernel/tracing; "
            "see `infrasight doctor`"
        )
    if "Operation not permitted" in error:
        return (
            "the kernel does not permit it: run as root, or with CAP_BPF and CAP_PERFMON; "
            "in a container, its seccomp profile may forbid bpf and perf_event_open; "
            "see `infrasight doctor`"
        )
    return error


def _error_summary(output: str) -> str:
    """Returns the first compiler errors, or else the last lines of the output, as one line."""
    lines = [line.strip() for line in output.splitlines()]
    lines = [line for line in lines if line and "modprobe" not in line]
    errors = [line for line in lines if "error:" in line]
    return "; ".join((errors or lines[-3:])[:3])
