"""Runs bcc_process.py, which compiles a program, and reads its answer."""

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from attrs import evolve

from infrasight_core.errors import KernelError
from infrasight_core.kernel import bcc_process
from infrasight_core.kernel.attach_points import tracefs_is_mounted
from infrasight_core.kernel.c_source import compiler_warnings
from infrasight_core.kernel.compiled_program import CompiledProgram

TIMEOUT_SECONDS = 600  # an emulated machine takes minutes where a real one takes a second


def compile_with_bcc(request: dict[str, Any], python: Path) -> CompiledProgram:
    """Has a Python that has bcc compile a program.

    Args:
        request: The request, which bcc_process.py documents.
        python: The Python.

    Raises:
        KernelError: The process cannot be run, or failed; with the first errors of the compiler or
            the kernel.
    """
    command = [str(python), "-E", "-s", bcc_process.__file__]
    try:
        process = _run(command, json.dumps(request).encode())
    except FileNotFoundError as error:
        raise KernelError(
            f"there is no {python}: set `loader_python` to a Python that has bcc"
        ) from error
    except OSError as error:
        raise KernelError(
            f"cannot run {python}: {error.strerror}; set `loader_python` to a Python that has bcc"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise KernelError(f"the compiler took more than {TIMEOUT_SECONDS} s") from error
    output = process.stderr.decode(errors="replace")
    summary = _error_summary(output)
    if not process.stdout:
        raise KernelError(f"the compiler ended with status {process.returncode}: {summary}")
    try:
        values = json.loads(process.stdout)
        if "error" in values:
            reason = str(values["error"])
            raise KernelError(explain(f"{reason}; {summary}" if summary else reason))
        return evolve(CompiledProgram.from_json(values), warnings=compiler_warnings(output))
    except ValueError as error:
        raise KernelError(f"{python} answered with something else: {error}; {summary}") from error


def _run(command: list[str], request: bytes) -> "subprocess.CompletedProcess[bytes]":
    """Runs the command in a new thread, by which programs recognize its process as the agent's.

    The first thread of this process would not do, because orphans become its children, too; see
    bpf/filter.bpf.h.
    """
    with ThreadPoolExecutor(1, "compiler") as thread:
        return thread.submit(
            subprocess.run,
            command,
            input=request,
            capture_output=True,
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
