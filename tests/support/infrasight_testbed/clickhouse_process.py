"""Runs a ClickHouse server inside this process: `python clickhouse_process.py LIBCHDB ARGUMENT…`.

It returns when the query among the arguments does.
"""

import ctypes
import signal
import sys

_PR_SET_PDEATHSIG = 1


class _Result(ctypes.Structure):
    """`struct local_result_v2` of libchdb."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("len", ctypes.c_size_t),
        ("vector", ctypes.c_void_p),
        ("elapsed", ctypes.c_double),
        ("rows_read", ctypes.c_uint64),
        ("bytes_read", ctypes.c_uint64),
        ("error_message", ctypes.c_char_p),
    )


def main(library_path: str, arguments: list[str]) -> int:
    """Hands the arguments to the library; returns an exit status."""
    ctypes.CDLL(None).prctl(
        _PR_SET_PDEATHSIG, signal.SIGKILL
    )  # it must not outlive a test run that is killed
    library = ctypes.CDLL(library_path)
    library.query_stable_v2.restype = ctypes.POINTER(_Result)
    library.query_stable_v2.argtypes = [ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)]
    argv = [b"clickhouse", *(argument.encode() for argument in arguments)]
    result = library.query_stable_v2(len(argv), (ctypes.c_char_p * (len(argv) + 1))(*argv, None))
    if result and result.contents.error_message:
        print(result.contents.error_message.decode("utf-8", "backslashreplace"), file=sys.stderr)
    return 0 if result and not result.contents.error_message else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
