"""Compiles programs: takes them from the cache, or has bcc_process.py do it and stores them."""

import hashlib
import os
from functools import cache
from pathlib import Path
from typing import Any

from infrasight_core.kernel import bcc_process
from infrasight_core.kernel.bcc_client import compile_with_bcc
from infrasight_core.kernel.compiled_program import CompiledProgram
from infrasight_core.kernel.program_cache import ProgramCache, key_of


def compile_program(
    request: dict[str, Any], python: Path, cached: ProgramCache | None
) -> CompiledProgram:
    """Returns the compiled program of a request, which bcc_process.py documents.

    Args:
        request: The request.
        python: The Python that has bcc.
        cached: Where compiled programs are stored; None to compile every time.

    Raises:
        KernelError: It cannot be compiled; with the first errors of the compiler.
    """
    if cached is None:
        return compile_with_bcc(request, python)
    key = cache_key(request, python)
    program = cached.find(key)
    if program is None:
        program = compile_with_bcc(request, python)
        cached.store(key, program)
    return program


def cache_key(request: dict[str, Any], python: Path) -> str:
    """Returns a hash of what the compiled program of a request depends on.

    That is the request with the whole C, the kernel's headers, the Python that runs the compiler,
    the program that it runs, and the kernel. The compiler's own files are compared when an entry is
    found (`ProgramCache.find`).
    """
    system = os.uname()
    return key_of(
        request=request,
        headers=_digest_of_folder(Path(request["headers"])),
        python=str(python),
        compiler=_digest_of_file(Path(bcc_process.__file__)),
        kernel=[system.release, system.version, system.machine],
    )


@cache
def _digest_of_folder(folder: Path) -> list[tuple[str, str]]:
    """Returns the names of all files below a folder, and a hash of each."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(str(path.relative_to(folder)), _digest_of_file(path)) for path in files]


@cache
def _digest_of_file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
