"""`tools/setup.py` installs only what is missing, tries again, and reports remedies."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[1] / "tools" / "setup.py"


@pytest.fixture
def setup(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, with pauses of no length."""
    spec = importlib.util.spec_from_file_location("infrasight_setup", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "RETRY_SECONDS", (0, 0))
    return module


@pytest.fixture
def flaky(tmp_path: Path) -> Callable[[int], tuple[str, Path]]:
    """A command that fails a given number of times, and the file where it counts its runs."""

    def make(failures: int) -> tuple[str, Path]:
        command = tmp_path / "flaky"
        count = tmp_path / "count"
        command.write_text(
            f"#!/bin/sh\necho >> {count}\n[ $(wc -l < {count}) -gt {failures} ]\n", encoding="utf-8"
        )
        command.chmod(0o755)
        return str(command), count

    return make


def test_failing_command_is_tried_again(
    setup: ModuleType, flaky: Callable[[int], tuple[str, Path]], capfd: pytest.CaptureFixture[str]
) -> None:
    """A command that fails twice is run three times, and each further try is announced."""
    command, count = flaky(2)
    setup.run(command, tries=3)
    assert count.read_text(encoding="utf-8") == "\n" * 3
    assert capfd.readouterr().err.count("failed; retrying in") == 2


def test_error_after_the_last_try_names_the_remedy(
    setup: ModuleType, flaky: Callable[[int], tuple[str, Path]]
) -> None:
    """The error names the command that keeps failing, the number of tries and the remedy."""
    command, count = flaky(99)
    with pytest.raises(
        setup.SetUpError,
        match=r"flaky` failed 3 times .* is the registry reachable\? Run the command again",
    ):
        setup.run(command, tries=3)
    assert count.read_text(encoding="utf-8") == "\n" * 3


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_missing_package_without_root_is_an_apt_get_command(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without root a missing Debian package is reported as an apt-get command; nothing is run."""
    monkeypatch.setitem(setup.PACKAGES, "run", {"infrasight-no-such-package": "", "make": "make"})
    os.seteuid(65534)
    try:
        with pytest.raises(
            setup.SetUpError,
            match=r"apt-get install --no-install-recommends infrasight-no-such-package$",
        ):
            setup.debian_packages("run")
    finally:
        os.seteuid(0)


def test_ready_environment_is_not_installed_again(
    setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the stamp of the same files nothing is run; after a change packages are installed."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    monkeypatch.setattr(setup, "VENV", tmp_path)
    monkeypatch.setattr(setup, "STAMP", tmp_path / "stamp")
    asked: list[object] = []
    monkeypatch.setattr(setup, "run", lambda *command, **_: asked.append(command))
    monkeypatch.setattr(setup, "registry_settings", dict)
    setup.python_packages()
    assert any("--requirements" in command for command in asked if isinstance(command, tuple))
    asked.clear()
    setup.python_packages()
    assert asked == []
    lock = tmp_path / "requirements.lock"
    lock.write_text("uv==99\n", encoding="utf-8")
    monkeypatch.setattr(setup, "LOCK", lock)
    setup.python_packages()
    assert asked


def test_unknown_word_shows_the_usage() -> None:
    """An unknown word shows the usage and ends with status 2."""
    shown = subprocess.run(
        [sys.executable, SCRIPT, "everything"], capture_output=True, text=True, check=False
    )
    assert shown.returncode == 2
    assert "tools/setup.py run " in shown.stderr
