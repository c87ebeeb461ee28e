"""The probe `sample`."""

from collections.abc import Mapping
from importlib import resources
from typing import Any

from attrs import frozen
from infrasight_core import BpfProgram, EventSchema, Kernel, SystemCall, hookimpl, options_of

from infrasight_probe_sample.v1.sample_pb2 import SampleEvent

infrasight_api = 1
_FILES = resources.files("infrasight_probe_sample")


@frozen
class Options:
    """The options of the probe.

    Attributes:
        slots: The number of slots of each block.
    """

    slots: int = 65536


infrasight_options = Options


@hookimpl
def schema() -> EventSchema:
    """One row per openat(2)."""
    return EventSchema(SampleEvent, _FILES / "sample_events.sql")


@hookimpl
def load_bpf(kernel: Kernel, options: Mapping[str, Any]) -> BpfProgram:
    """Records every call at its exit."""
    return BpfProgram(
        _FILES / "sample.bpf.c",
        attach=(SystemCall("openat", "enter_openat", "exit_openat"),),
        slots=options_of("sample", options, Options).slots,
    )
