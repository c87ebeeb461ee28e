"""The parts of `infrasight packages` that need no pip: reasons, hidden modules, folder, report."""

import json
from pathlib import Path

import pytest
from infrasight_core.errors import ConfigError
from infrasight_core.packages.image import (
    find_hidden_module,
    installed_versions,
    unmet_requirements,
)
from infrasight_core.packages.pip import extract_reason
from infrasight_core.packages.report import PackageFailure, PackagesReport, read_report
from infrasight_core.packages.target import prepare_target

CONFLICT = """
ERROR: Cannot install a==1 because these package versions have conflicting dependencies.

The conflict is caused by:
    a 1 depends on numpy>=99
    The user requested (constraint) numpy==2

To fix this you could try to:
1. loosen the range
ERROR: ResolutionImpossible: for help visit the documentation
"""
NO_INDEX = (
    "WARNING: Retrying (Retry(total=0)) after connection broken by "
    "'NewConnectionError('<object>: Connection refused')': /simple/a/\n"
    "ERROR: Could not find a version that satisfies the requirement a==1 (from versions: none)\n"
    "ERROR: No matching distribution found for a==1\n"
)
PASSWORD_IN_URL = "ERROR: Could not open https://user:secret@index.example/simple\n"


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (
            CONFLICT,
            "Cannot install a==1 because these package versions have conflicting dependencies.; "
            "a 1 depends on numpy>=99 and The user requested (constraint) numpy==2",
        ),
        (
            NO_INDEX,
            "Could not find a version that satisfies the requirement a==1 (from versions: none); "
            "the package index does not answer: Connection refused')",
        ),
        (PASSWORD_IN_URL, "Could not open https://…@index.example/simple"),
        ("Killed\n", "Killed"),
        ("", "pip printed no output"),
    ],
    ids=["conflict", "no index", "password", "killed", "silent"],
)
def test_output_of_pip_gives_the_reason_of_a_failure(output: str, reason: str) -> None:
    """The reason is one line, without the user and password of a URL."""
    assert extract_reason(output) == reason


@pytest.mark.parametrize(
    ("files", "hidden"),
    [
        (["single/__init__.py"], "single"),
        (["package.cpython-311-x86_64-linux-gnu.so"], "package"),
        (["package/__init__.py", "package/new.py"], "package"),
        (["space/one/__init__.py"], "space/one/__init__.py"),
        (["space/two/__init__.py", "new.py", "new-1.dist-info/METADATA"], ""),
    ],
    ids=["module", "extension module", "package", "part of a namespace", "nothing"],
)
def test_hidden_module_of_the_image_is_found(tmp_path: Path, files: list[str], hidden: str) -> None:
    """A module of the same name is hidden; a namespace package may be shared."""
    for file in ("single.py", "package/__init__.py", "space/one/__init__.py"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    assert find_hidden_module([Path(file) for file in files], [str(tmp_path)]) == hidden


def test_unmet_requirements_are_named(tmp_path: Path) -> None:
    """An absent or outdated requirement is unmet; extras and other systems do not count."""
    metadata = tmp_path / "demo-1.0.dist-info"
    metadata.mkdir()
    lines = [
        "Metadata-Version: 2.1",
        "Name: demo",
        "Version: 1.0",
        "Requires-Dist: There>=1",
        "Requires-Dist: old>=2",
        "Requires-Dist: absent",
        'Requires-Dist: x; extra == "y"',
        'Requires-Dist: z; sys_platform == "win32"',
        "",
    ]
    (metadata / "METADATA").write_text("\n".join(lines))
    assert installed_versions([str(tmp_path)]) == {"demo": "1.0"}
    assert list(unmet_requirements(tmp_path, "demo", {"there": "1.5", "old": "1.9"})) == [
        "old>=2, but 1.9 is installed",
        "absent, which is not installed",
    ]


def test_target_folder_is_emptied_and_marked_as_unfinished(tmp_path: Path) -> None:
    """Files of an earlier run are deleted, the target of a link is not."""
    target = tmp_path / "new/packages"
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "x").touch()
    prepare_target(target)
    (target / "old").mkdir()
    (target / "old/file").touch()
    (target / "link").symlink_to(precious)
    prepare_target(target)
    assert [path.name for path in target.iterdir()] == ["report.json"]
    assert (precious / "x").exists()
    (failure,) = read_report(target).failures
    assert "was interrupted" in failure.reason


def test_target_folder_with_other_files_is_rejected(tmp_path: Path) -> None:
    """Files that no earlier run installed are left alone."""
    (tmp_path / "x").touch()
    with pytest.raises(ConfigError, match="name an empty folder"):
        prepare_target(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize(
    "text", [None, "{", "[]", '{"installed": [{"name": "x"}]}', '{"failures": 5}']
)
def test_unreadable_report_is_a_failure(tmp_path: Path, text: str | None) -> None:
    """The agent reports the file's name."""
    if text is not None:
        (tmp_path / "report.json").write_text(text)
    report = read_report(tmp_path)
    assert report.packages == ()
    (failure,) = report.failures
    assert (failure.name, failure.is_package) == ("report.json", True)
    assert str(tmp_path / "report.json") in failure.reason


def test_report_has_the_documented_form(tmp_path: Path) -> None:
    """It lists installed packages with versions, and failures with reasons."""
    PackagesReport((), (PackageFailure("x", "why"),)).write(tmp_path)
    assert json.loads((tmp_path / "report.json").read_text()) == {
        "installed": [],
        "failures": [{"name": "x", "reason": "why"}],
    }
