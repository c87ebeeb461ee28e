"""The pytest plugins that every package's tests share."""

pytest_plugins = [
    "infrasight_testbed.cluster_plugin",
    "infrasight_testbed.operator_plugin",
    "infrasight_testbed.progress_plugin",
    "infrasight_testbed.side_by_side_plugin",
]
