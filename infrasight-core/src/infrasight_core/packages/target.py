"""Prepares the folder that packages are installed into."""

import shutil
from pathlib import Path

from infrasight_core.errors import ConfigError
from infrasight_core.packages.report import REPORT, PackageFailure, PackagesReport
from infrasight_core.settings.private_files import make_private_folder


def prepare_target(folder: Path) -> None:
    """Creates the folder, or deletes the packages that an earlier run installed there.

    The folder holds a report from the beginning, which identifies it even if the installation is
    interrupted.

    Raises:
        ConfigError: The folder holds files that no earlier run installed, or is not writable.
    """
    unfinished = PackageFailure(REPORT, "the installation of the packages was interrupted")
    try:
        existing = list(folder.iterdir()) if folder.exists() else []
        if existing and not (folder / REPORT).is_file():
            raise ConfigError(
                f"{folder} holds files that `infrasight packages` did not install: "
                "name an empty folder"
            )
        # The agent, as root, imports what is in it.
        make_private_folder(folder, "target")
        PackagesReport(failures=(unfinished,)).write(folder)
        for path in existing:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != REPORT:
                path.unlink()
    except OSError as error:
        raise ConfigError(f"cannot prepare the folder of packages {folder}: {error}") from error
