"""Reports what the probes record on the running kernel of known work, as a last line of JSON.

usage: PYTHONPATH=tests/support python -m infrasight_testbed.kernel_report      (as root)

tests/test_other_kernels.py runs it on several kernels and compares it with docs/kernels.md.
"""

import json
import platform
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from infrasight_core.agent.recorder import Recorder
from infrasight_core.errors import PluginError
from infrasight_core.kernel.attach_points import (
    calls_of,
    functions_of,
    has_tracepoint,
    tracepoints_of,
)
from infrasight_core.kernel.loader import LoadedProbe, LoadSettings, running_kernel
from infrasight_core.kernel.system_calls import slots_of
from infrasight_core.logs import configure
from infrasight_core.plugin.manager import PluginManager
from infrasight_core.plugin.program import BpfProgram
from infrasight_recording import Recording

from infrasight_testbed.command import COMMAND
from infrasight_testbed.kernel_workload import Expected, everything

Row = dict[str, Any]


def main() -> None:
    """Prints the report."""
    plugins = PluginManager.discover()
    kept = Recording()
    recorder = kept.recorder = Recorder(plugins, LoadSettings(), "here", kept)
    untracked = {}
    for tracker in plugins.trackers():
        try:
            recorder.attach_tracker(tracker, {})
        except PluginError as error:
            untracked[tracker] = str(error)
    probes = {}
    for probe in plugins.probes():
        began = time.monotonic()
        recorder.attach(probe, {})
        took = time.monotonic() - began
        program = plugins.load_bpf(probe, running_kernel(), {})
        probes[probe] = {"load_seconds": round(took, 1)} | points(program, recorder.loaded(probe))
    recorder.start()
    with tempfile.TemporaryDirectory() as name:
        began = time.monotonic()
        expected = list(everything(Path(name).resolve()))
        took = time.monotonic() - began
    counts = recorder.stop()
    if recorder.failure:
        raise recorder.failure
    for probe, result in probes.items():
        rows = [
            row for each in kept.deliveries if each.probe == probe for row in each.batch.to_pylist()
        ]
        result |= compared([each for each in expected if each.probe == probe], rows) | {
            "dropped": counts[probe].dropped
        }
    report = {
        "release": platform.release(),
        "work_seconds": round(took, 1),
        "untraced": recorder.untraced(),
        "probes": probes,
    }
    report |= {"untracked": untracked}
    print(json.dumps(report | {"doctor": doctor()}, default=repr), flush=True)


def doctor() -> Row:
    """What `infrasight doctor` says, by check."""
    done = subprocess.run(
        [*COMMAND, "doctor", "--format", "json"], stdout=subprocess.PIPE, text=True, check=False
    )
    return {check["name"]: check for check in map(json.loads, done.stdout.splitlines())}


def points(program: BpfProgram, loaded: LoadedProbe) -> Row:
    """A probe's attached functions, why optional ones are not, and the verifier's work."""
    states = {
        point.event: "in use" if has_tracepoint(point.event) else "not in this kernel"
        for point in tracepoints_of(program)
    }
    machine = running_kernel().machine
    for each in calls_of(program):
        slots = slots_of(each.name, machine)
        states[f"{each.name}(2)"] = "in use" if slots else "not on this machine"
    for function in functions_of(program):
        states[function.kernel_function] = loaded.unattached.get(function.function, "in use")
    verified = {}
    for name, descriptor in loaded.programs.items():
        lines = Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines()
        verified[name] = next(
            (int(line.split()[1]) for line in lines if line.startswith("verified_insns:")), 0
        )
    return {"points": states, "verified_instructions": verified}


def compared(expected: Sequence[Expected], rows: Sequence[Row]) -> Row:
    """What was found of what was expected, each process's rows in the order of their calls."""
    of: dict[tuple[int, str], list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: (row["time"], row.get("stage", b""))):
        of[row["pid"], row["via"]].append(row)
    wrong: list[str] = []
    lacks: dict[str, list[str]] = {}
    found = 0
    for each in expected:
        if not (left := of[each.pid, each.via]):
            wrong.append(f"{each.kind}: no row")
            continue
        row = left.pop(0)
        found += 1
        differs = {
            name: (row[name], wanted) for name, wanted in each.fields.items() if row[name] != wanted
        }
        wrong += [
            f"{each.kind}: {name} is {was!r}, not {wanted!r}"
            for name, (was, wanted) in differs.items()
        ]
        lacks[each.kind] = sorted(row["quality"])
    wrong += [
        f"one row too many: {row}"
        for each in {(e.pid, e.via) for e in expected}
        for row in of[each]
    ]
    return {"expected": len(expected), "found": found, "wrong": wrong, "lacks": lacks}


if __name__ == "__main__":
    configure("info")
    main()
