"""The tour of a whole cluster, which `make tour` also runs."""

import runpy
from pathlib import Path

import pytest


@pytest.mark.slow(reason="repeats in one run, for minutes, what smaller tests show")
def test_tour_from_empty_cluster_to_empty_cluster(cluster_tools: Path) -> None:
    """All steps succeed: correct statuses, no missing event, no object left at the end."""
    lines: list[str] = []
    tour = runpy.run_path(str(Path(__file__).with_name("kubernetes_tour.py")))
    tour["run_tour"](cluster_tools, lines.append)
    assert lines[-1].startswith("uninstalled: no objects left")
