"""The peer: bcc's per-event callback, run by a Python that has bcc.

usage: bcc_callback.py SOURCE FIELD,FIELD,… COMMAND…

Records while COMMAND runs and makes a tuple of the fields of each event. Prints JSON: events, lost,
CPU seconds of the loop.
"""

import ctypes
import json
import pathlib
import subprocess
import sys
import time

from bcc import BPF


def main() -> None:
    """Records one run."""
    source, fields, *command = sys.argv[1:]
    names = fields.split(",")
    bpf = BPF(text=pathlib.Path(source).read_bytes(), cflags=["-Wno-everything"])
    events = bpf["events"]
    kept = []

    def callback(_context: object, data: object, _size: int) -> None:
        event = events.event(data)
        kept.append(tuple(getattr(event, name) for name in names))

    events.open_ring_buffer(callback)
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    busy = 0.0
    while True:
        over = run.poll() is not None
        began = time.thread_time()
        bpf.ring_buffer_poll(10)
        bpf.ring_buffer_consume()
        busy += time.thread_time() - began
        if over:
            break
    print(
        json.dumps({"events": len(kept), "lost": bpf["lost"][ctypes.c_int(0)].value, "cpu": busy})
    )


if __name__ == "__main__":
    main()
