"""A real agent that follows an operator: what runs, is kept, is reported, and what is wrong hurts nobody else."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from infrasight.v1.control_pb2 import Configuration, Report
from infrasight_testbed.control_server import ControlServer
from infrasight_testbed.system import Process, System, running_system


def configuration(digest: str, *probes: str, **settings: Any) -> Configuration:
    """A configuration that names these probes."""
    return Configuration(digest=digest, settings=json.dumps({"probes": probes, **settings}))


def failures(report: Report) -> dict[str, str]:
    """The reasons of a report, by name."""
    return {failure.name: failure.reason for failure in report.failures}


def taken(digest: str) -> Any:
    """Whether a report says that a configuration has been dealt with."""
    return lambda report: report.digest == digest


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    """A server with an embedded store."""
    with running_system(tmp_path) as running:
        running.start_server()
        yield running


@pytest.fixture
def operator() -> Iterator[ControlServer]:
    """An operator that has sent nothing yet."""
    with ControlServer() as server:
        yield server


def start(system: System, operator: ControlServer, tmp_path: Path, *options: str) -> Process:
    """An agent that follows, and is not ready yet."""
    following = ("--operator", operator.address, "--state", str(tmp_path / "state"))
    return system.start_agent(*following, *options, ready=False, every_probe=True)
