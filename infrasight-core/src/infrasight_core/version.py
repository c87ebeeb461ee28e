"""The version of this distribution."""

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as _version


def version() -> str:
    """Of infrasight-core as it is installed; `unknown` where it runs from a folder that is not."""
    try:
        return _version("infrasight-core")
    except PackageNotFoundError:
        return "unknown"
