"""Saves the operator's last configuration, for a start while the operator is unavailable."""

from pathlib import Path

from google.protobuf import json_format
from infrasight.v1.control_pb2 import Configuration

from infrasight_core.errors import ConfigError
from infrasight_core.settings.private_files import make_private_folder, write_private_file


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
        make_private_folder(self._file.parent, "state")
        try:
            # Options may hold a password.
            write_private_file(self._file, json_format.MessageToJson(configuration).encode())
        except OSError as error:
            raise ConfigError(
                f"{self._file}: cannot save the configuration: {error.strerror}. A start while the "
                "operator is unavailable would record nothing; set `state` to a writable folder"
            ) from error
