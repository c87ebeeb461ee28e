"""The whole in a cluster, as `make tour` shows it."""

import runpy
from pathlib import Path

import pytest


@pytest.mark.slow(reason="repeats in one run, for minutes, what smaller tests show")
def test_from_an_empty_cluster_to_an_empty_cluster(cluster_tools: Path) -> None:
    """Chart, operator, server and three agents, through changes, kills and a dead API server: told right at each step, no event
    lost, nothing left."""
    said: list[str] = []
    runpy.run_path(str(Path(__file__).with_name("kubernetes_tour.py")))["tour"](
        cluster_tools, said.append
    )
    assert said[-1].startswith("uninstalled, nothing is left")
