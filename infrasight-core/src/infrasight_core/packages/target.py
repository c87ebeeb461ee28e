"""The folder that packages are installed into: made anew each time, and never one that holds something else."""

import shutil
from pathlib import Path

from infrasight_core.errors import ConfigError
from infrasight_core.packages.report import REPORT, PackageFailure, PackagesReport


def emptied(folder: Path) -> None:
    """Makes the folder, or takes out what was installed there before.

    From then on it holds a report, so that it is known for what it is however this ends.

    Raises:
        ConfigError: It holds what was not installed by this, or cannot be written.
    """
    begun = PackagesReport(
        failures=(PackageFailure(REPORT, "the installation of packages has not come to its end"),)
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        found = list(folder.iterdir())
        if found and not (folder / REPORT).is_file():
            raise ConfigError(
                f"{folder} holds files that no `infrasight packages` has put there: name an empty folder"
            )
        begun.write(folder)
        for path in found:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != REPORT:
                path.unlink()
    except OSError as error:
        raise ConfigError(f"{folder} cannot be made the folder of packages: {error}") from error
