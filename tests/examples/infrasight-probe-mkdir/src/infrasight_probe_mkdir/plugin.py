"""The probe `mkdir`: directories created by mkdir(2) and mkdirat(2), successfully or not."""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from infrasight_core import BpfProgram, EventSchema, Kernel, SystemCall, hookimpl

from infrasight_probe_mkdir.v1.mkdir_pb2 import MkdirEvent

infrasight_api = 1
_FILES = resources.files("infrasight_probe_mkdir")


@hookimpl
def schema() -> EventSchema:
    """Describe the events: their protobuf message and their table."""
    return EventSchema(MkdirEvent, _FILES / "mkdir_events.sql")


@hookimpl
def load_bpf(kernel: Kernel, options: Mapping[str, Any]) -> BpfProgram:
    """Handle the entry and the exit of both calls. arm64 has no mkdir, only mkdirat."""
    return BpfProgram(
        _FILES / "mkdir.bpf.c",
        attach=(
            SystemCall("mkdir", enter="enter_mkdir", exit="exit_mkdir"),
            SystemCall("mkdirat", enter="enter_mkdirat", exit="exit_mkdir"),
        ),
        canary=_make_nothing,
    )


def _make_nothing(token: str) -> None:
    """Cause an event for the agent to wait for. It fails: nothing can be below a device."""
    Path(f"/dev/null/{token}").mkdir()
