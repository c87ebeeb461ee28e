"""Every probe and attach point on this kernel and on others; docs/kernels.md agrees."""

import json
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from infrasight_testbed.comparisons import COMPARISONS
from infrasight_testbed.kernel_tables import cells, column, documented

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs/kernels.md"
REPORT = [sys.executable, "-m", "infrasight_testbed.kernel_report"]
GUEST = [sys.executable, str(ROOT / "tools/kernel_guest.py")]
MINUTES = 20  # a guest takes three on an idle machine
MOST_VERIFIED = 200_000
"""The instructions of a program that the verifier may go through: it gives up at a million, and a
slow machine takes a minute for as many."""
UNOBTAINABLE = 77  # status of kernel_guest.py without an emulator or kernel

pytestmark = pytest.mark.timeout((MINUTES + 1) * 60)


def report(*command: str) -> dict[str, Any]:
    """Runs a command, and ends whatever it started; returns the JSON of its last line."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests/support")}
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=MINUTES * 60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    last = output.strip().splitlines()[-1:] or [""]
    if process.returncode == UNOBTAINABLE:
        pytest.skip(last[0])
    assert process.returncode == 0, output[-4000:]
    found: dict[str, Any] = json.loads(last[0])
    return found


def assert_complete(found: dict[str, Any]) -> None:
    """Asserts that each expected row came once and right, from programs that load quickly."""
    assert found["probes"].keys() == set(COMPARISONS)
    for probe, result in found["probes"].items():
        assert result["wrong"] == [], probe
        assert result["found"] == result["expected"] > 0, probe
        assert result["dropped"] == 0, probe
        for name, verified in result["verified_instructions"].items():
            assert verified < MOST_VERIFIED, f"{probe}: {name}"
    assert set(found["untraced"].values()) == {0}
    assert found["untracked"] == {}


@pytest.mark.alone
def test_probes_on_the_running_kernel() -> None:
    """Every probe loads and records known work; the document agrees if it has this kernel.

    Nothing may be dropped or untraced, so that no other test may run beside it.
    """
    found = report(*REPORT)
    assert_complete(found)
    documented_cells = documented(DOCUMENT.read_text(), column(found))
    if not documented_cells:
        pytest.skip(
            f"docs/kernels.md has no column {column(found)!r}; the rows themselves were right"
        )
    assert cells(found) == documented_cells


@pytest.mark.guest
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the guests' kernels are of amd64")
@pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can unpack a guest's kernel where it looks for it"
)
@pytest.mark.parametrize("series", ["6.1", "6.12"])
def test_probes_on_a_kernel_of_debian(series: str) -> None:
    """The same in a guest with Debian's kernel of a series; the document agrees."""
    found = report(*GUEST, series, "env", f"PYTHONPATH={ROOT / 'tests/support'}", *REPORT)
    assert_complete(found)
    assert column(found) == series
    documented_cells = documented(DOCUMENT.read_text(), series)
    if not documented_cells:
        pytest.skip(f"docs/kernels.md has no column {series!r}; the rows themselves were right")
    assert cells(found) == documented_cells
