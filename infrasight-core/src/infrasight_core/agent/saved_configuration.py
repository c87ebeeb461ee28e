"""Saves the operator's last configuration, for a start while the operator is unavailable."""

import os
from pathlib import Path

from google.protobuf import json_format
from infrasight.v1.control_pb2 import Configuration

from infrasight_core.errors import ConfigError
from infrasight_core.settings.private_files import make_private_folder


class SavedConfiguration:
    """The file `configuration.json`.

    Args:
        folder: Its folder, which is created when there is a configuration to save.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "configuration.json"

    def read(self) -> Configuration | None:
        """Returns the saved configuration, or None if there is none.

        Raises:
            ConfigError: The file cannot be read or is damaged, or another user owns the folder.
        """
        if self._file.parent.exists():
            make_private_folder(self._file.parent, "state")
        try:
            text = self._file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{self._file}: cannot read the saved configuration: {error}"
            ) from error
        try:
            return json_format.Parse(text, Configuration())
        except json_format.ParseError as error:
            reason = " ".join(str(error).split())
            raise ConfigError(
                f"{self._file}: the saved configuration is damaged ({reason}); remove the file"
            ) from error

    def write(self, configuration: Configuration) -> None:
        """Replaces the saved configuration atomically: a crash leaves the old or the new one.

        Raises:
            ConfigError: The file cannot be written.
        """
        temporary = self._file.with_suffix(".new")
        make_private_folder(self._file.parent, "state")
        try:
            temporary.unlink(missing_ok=True)
            # Only the owner may read it, because options may hold a password.
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(json_format.MessageToJson(configuration))
                file.flush()
                os.fsync(descriptor)
            temporary.replace(self._file)
        except OSError as error:
            raise ConfigError(
                f"{self._file}: cannot save the configuration: {error.strerror}. A start while the "
                "operator is unavailable would record nothing; set `state` to a writable folder"
            ) from error
