"""The version of this distribution."""

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as distribution_version


def version() -> str:
    """Returns the installed version of infrasight-core; `unknown` if it is not installed."""
    try:
        return distribution_version("infrasight-core")
    except PackageNotFoundError:
        return "unknown"
