"""What all packages' tests share."""

pytest_plugins = ["infrasight_testbed.cluster_plugin", "infrasight_testbed.operator_plugin"]
