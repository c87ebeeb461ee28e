"""The names of open(2)'s flags.

Source: include/uapi/asm-generic/fcntl.h and arch/arm64/include/uapi/asm/fcntl.h.
"""

import platform
from collections.abc import Sequence

_ACCESS = (b"O_RDONLY", b"O_WRONLY", b"O_RDWR", b"O_ACCMODE")
_ARM = platform.machine() == "aarch64"
LARGE_FILE = 0o400000 if _ARM else 0o100000
_DIRECTORY = 0o40000 if _ARM else 0o200000
_FLAGS = (  # a flag of several bits precedes those that it contains
    (b"O_TMPFILE", 0o20000000 | _DIRECTORY),
    (b"O_SYNC", 0o4010000),
    (b"O_CREAT", 0o100),
    (b"O_EXCL", 0o200),
    (b"O_NOCTTY", 0o400),
    (b"O_TRUNC", 0o1000),
    (b"O_APPEND", 0o2000),
    (b"O_NONBLOCK", 0o4000),
    (b"O_DSYNC", 0o10000),
    (b"O_ASYNC", 0o20000),
    (b"O_DIRECT", 0o200000 if _ARM else 0o40000),
    (b"O_LARGEFILE", LARGE_FILE),
    (b"O_DIRECTORY", _DIRECTORY),
    (b"O_NOFOLLOW", 0o100000 if _ARM else 0o400000),
    (b"O_NOATIME", 0o1000000),
    (b"O_CLOEXEC", 0o2000000),
    (b"O_PATH", 0o10000000),
)


def flag_names(values: Sequence[int]) -> list[list[bytes]]:
    """The names of each value's flags.

    The access mode comes first; bits without a name come last, as one hexadecimal number.
    """
    return [_names(value) for value in values]


def _names(value: int) -> list[bytes]:
    names = [_ACCESS[value & 3]]
    rest = value & ~3
    for name, bits in _FLAGS:
        if rest & bits == bits:
            names.append(name)
            rest &= ~bits
    return [*names, b"%#x" % rest] if rest else names
