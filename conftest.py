"""The pytest plugins that every package's tests share."""

import os

# Agents of different tests would send each other's batches.
os.environ.setdefault("INFRASIGHT_AGENT_SPOOL__FOLDER", "none")

pytest_plugins = [
    "infrasight_testbed.cluster_plugin",
    "infrasight_testbed.operator_plugin",
    "infrasight_testbed.progress_plugin",
    "infrasight_testbed.side_by_side_plugin",
]
