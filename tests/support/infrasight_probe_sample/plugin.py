"""The probe `sample`."""

from collections.abc import Mapping
from importlib import resources
from typing import Any

from infrasight_core import BpfProgram, ConfigError, EventSchema, Kernel, Tracepoint, hookimpl

from infrasight_probe_sample.v1.sample_pb2 import SampleEvent

infrasight_api = 1
_FILES = resources.files("infrasight_probe_sample")


@hookimpl
def schema() -> EventSchema:
    """One row per openat(2)."""
    return EventSchema(SampleEvent, _FILES / "sample_events.sql")


@hookimpl
def load_bpf(kernel: Kernel, options: Mapping[str, Any]) -> BpfProgram:
    """The option `slots` sets the size of the blocks."""
    if unknown := sorted(options.keys() - {"slots"}):
        raise ConfigError(f"options.sample: {unknown[0]!r} is not known; allowed: slots")
    return BpfProgram(
        _FILES / "sample.bpf.c",
        attach=(
            Tracepoint("enter_openat", "syscalls:sys_enter_openat"),
            Tracepoint("exit_openat", "syscalls:sys_exit_openat"),
        ),
        slots=options.get("slots", 65536),
    )
