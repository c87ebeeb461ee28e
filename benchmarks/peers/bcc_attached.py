"""Keeps a BPF program attached until standard input ends, by a Python that has bcc.

usage: bcc_attached.py SOURCE
"""

import pathlib
import sys

from bcc import BPF


def main() -> None:
    """Says when it is attached."""
    attached = BPF(text=pathlib.Path(sys.argv[1]).read_bytes(), cflags=["-Wno-everything"])
    print("attached", flush=True)
    sys.stdin.read()
    attached.cleanup()


if __name__ == "__main__":
    main()
