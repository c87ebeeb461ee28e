"""Files and folders that other users must not access."""

import os
import stat
from pathlib import Path

import pytest
from infrasight_core.errors import ConfigError
from infrasight_core.settings.private_files import make_private_folder, read_private_file


def mode_of(path: Path) -> int:
    """The permission bits of a path."""
    return stat.S_IMODE(path.stat().st_mode)


def test_private_folder_is_created_or_corrected(tmp_path: Path) -> None:
    """A new folder has mode 0700; a wider mode of an existing one is corrected, content stays."""
    folder = tmp_path / "a" / "b"
    make_private_folder(folder, "state")
    assert mode_of(folder) == 0o700
    (folder / "file").touch()
    folder.chmod(0o2775)
    make_private_folder(folder, "state")
    assert mode_of(folder) == 0o700
    assert (folder / "file").exists()


def test_folder_for_all_users_keeps_its_mode(tmp_path: Path) -> None:
    """A folder like /tmp is rejected: other programs need it as it is."""
    tmp_path.chmod(0o1777)
    with pytest.raises(ConfigError, match=r"state: .* is for all users"):
        make_private_folder(tmp_path, "state")
    assert mode_of(tmp_path) == 0o777 | stat.S_ISVTX


def test_link_and_file_are_no_private_folder(tmp_path: Path) -> None:
    """A link to a folder and a file are rejected, and stay as they are."""
    (tmp_path / "target").mkdir(mode=0o755)
    (tmp_path / "link").symlink_to("target")
    (tmp_path / "file").touch()
    for name in ("link", "file"):
        with pytest.raises(ConfigError, match=f"cannot use {tmp_path / name} as a folder"):
            make_private_folder(tmp_path / name, "state")
    assert mode_of(tmp_path / "target") == 0o755


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_secret_that_others_may_access_is_not_read(tmp_path: Path, mode: int) -> None:
    """Any right of group or others: the message names the file and the remedy."""
    file = tmp_path / "secret"
    file.write_text("hush")
    file.chmod(mode)
    with pytest.raises(ConfigError, match=f"tokens: other users may access {file}: .*chmod 600"):
        read_private_file(file, "tokens")


def test_secret_is_read_from_a_private_file_only(tmp_path: Path) -> None:
    """A file of mode 0600 is read; a missing one, a pipe and bytes that are no text are named."""
    file = tmp_path / "secret"
    file.write_text("hush")
    file.chmod(0o600)
    assert read_private_file(file, "tokens") == "hush"
    file.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=f"tokens: cannot read {file}: "):
        read_private_file(file, "tokens")
    with pytest.raises(ConfigError, match=r"tokens: cannot read .*none: No such file"):
        read_private_file(tmp_path / "none", "tokens")
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(ConfigError, match="other users may access"):
        read_private_file(tmp_path / "pipe", "tokens")
