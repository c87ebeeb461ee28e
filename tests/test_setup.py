"""`tools/setup.py`: asks only for what is missing, tries again, and says what to do."""

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
    """The script as a module of its own, with pauses that do not last."""
    spec = importlib.util.spec_from_file_location("infrasight_setup", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "RETRY_SECONDS", (0, 0))
    return module


@pytest.fixture
def flaky(tmp_path: Path) -> Callable[[int], tuple[str, Path]]:
    """A command that fails as often as it is told, and the file where it counts."""

    def make(failures: int) -> tuple[str, Path]:
        command = tmp_path / "flaky"
        count = tmp_path / "count"
        command.write_text(
            f"#!/bin/sh\necho >> {count}\n[ $(wc -l < {count}) -gt {failures} ]\n", encoding="utf-8"
        )
        command.chmod(0o755)
        return str(command), count

    return make


def test_a_moments_failure_is_tried_again(
    setup: ModuleType, flaky: Callable[[int], tuple[str, Path]], capfd: pytest.CaptureFixture[str]
) -> None:
    """A registry that fails twice is asked three times, and each try is announced."""
    command, count = flaky(2)
    setup.run(command, tries=3)
    assert count.read_text(encoding="utf-8") == "\n" * 3
    assert capfd.readouterr().err.count("failed; retrying in") == 2


def test_it_gives_up_with_a_clear_word(
    setup: ModuleType, flaky: Callable[[int], tuple[str, Path]]
) -> None:
    """One that goes on failing is given up, with the command, how often it was tried, and what to do."""
    command, count = flaky(99)
    with pytest.raises(
        setup.SetUpError,
        match=r"flaky` failed 3 times .* is the registry reachable\? Run the command again",
    ):
        setup.run(command, tries=3)
    assert count.read_text(encoding="utf-8") == "\n" * 3


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_without_root_it_says_what_to_type(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing Debian package is an apt-get line for whoever is not root; nothing is tried."""
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


def test_a_ready_environment_is_left_alone(
    setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the stamp of the same files nothing is run; with another the locked packages are asked for again."""
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


def test_a_wrong_word_teaches() -> None:
    """Anything but its words shows what they are, and ends with status 2."""
    shown = subprocess.run(
        [sys.executable, SCRIPT, "everything"], capture_output=True, text=True, check=False
    )
    assert shown.returncode == 2
    assert "tools/setup.py run " in shown.stderr
