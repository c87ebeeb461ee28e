"""The parts of `infrasight packages` that need no pip: its words, what hides what, the folder, the report."""

import json
from pathlib import Path

import pytest
from infrasight_core.errors import ConfigError
from infrasight_core.packages.image import hides, lacking, versions_in
from infrasight_core.packages.pip import reason_in
from infrasight_core.packages.report import PackageFailure, PackagesReport, read_report
from infrasight_core.packages.target import emptied

_CONFLICT = """ERROR: Cannot install a==1 because these package versions have conflicting dependencies.

The conflict is caused by:
    a 1 depends on numpy>=99
    The user requested (constraint) numpy==2

To fix this you could try to:
1. loosen the range
ERROR: ResolutionImpossible: for help visit the documentation
"""
_AWAY = """WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError('<object>: Refused')': /simple/a/
ERROR: Could not find a version that satisfies the requirement a==1 (from versions: none)
ERROR: No matching distribution found for a==1
"""
_SECRET = "ERROR: Could not open https://user:secret@index.example/simple\n"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (
            _CONFLICT,
            "Cannot install a==1 because these package versions have conflicting dependencies.; "
            "a 1 depends on numpy>=99 and The user requested (constraint) numpy==2",
        ),
        (
            _AWAY,
            "Could not find a version that satisfies the requirement a==1 (from versions: none); "
            "the index does not answer: Refused')",
        ),
        (_SECRET, "Could not open https://…@index.example/simple"),
        ("Killed\n", "Killed"),
        ("", "pip said nothing"),
    ],
)
def test_what_pip_says_becomes_a_reason(said: str, reason: str) -> None:
    """One line that says why, without what a URL has of a password."""
    assert reason_in(said) == reason


def test_what_would_hide_the_image_is_found(tmp_path: Path) -> None:
    """A module or package of a name that is there, and a file within a namespace; not a namespace that is shared."""
    for file in ("single.py", "package/__init__.py", "space/one/__init__.py"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    paths = [str(tmp_path)]
    assert hides([Path("single/__init__.py")], paths) == "single"
    assert hides([Path("package.cpython-311-x86_64-linux-gnu.so")], paths) == "package"
    assert hides([Path("package/__init__.py"), Path("package/new.py")], paths) == "package"
    assert hides([Path("space/one/__init__.py")], paths) == "space/one/__init__.py"
    assert (
        hides(
            [Path("space/two/__init__.py"), Path("new.py"), Path("new-1.dist-info/METADATA")], paths
        )
        == ""
    )


def test_what_is_lacking_is_named(tmp_path: Path) -> None:
    """A requirement that is absent, or there in another version; those of extras and of other systems do not count."""
    metadata = tmp_path / "demo-1.0.dist-info"
    metadata.mkdir()
    needs = [
        "Requires-Dist: There>=1",
        "Requires-Dist: old>=2",
        "Requires-Dist: absent",
        'Requires-Dist: x; extra == "y"',
    ]
    needs.append('Requires-Dist: z; sys_platform == "win32"')
    (metadata / "METADATA").write_text(
        "\n".join(["Metadata-Version: 2.1", "Name: demo", "Version: 1.0", *needs, ""])
    )
    assert versions_in([str(tmp_path)]) == {"demo": "1.0"}
    assert list(lacking(tmp_path, "demo", {"there": "1.5", "old": "1.9"})) == [
        "old>=2, and 1.9 is there",
        "absent, which is not there",
    ]


def test_the_folder_is_emptied_and_marked(tmp_path: Path) -> None:
    """What an earlier run left goes, a link's target does not; from the beginning the report says that it is not the end."""
    target, precious = tmp_path / "new/packages", tmp_path / "precious"
    precious.mkdir()
    (precious / "x").touch()
    emptied(target)
    (target / "old").mkdir()
    (target / "old/file").touch()
    (target / "link").symlink_to(precious)
    emptied(target)
    assert [path.name for path in target.iterdir()] == ["report.json"]
    assert (precious / "x").exists()
    (failure,) = read_report(target).failures
    assert "has not come to its end" in failure.reason
    with pytest.raises(ConfigError, match="name an empty folder"):
        emptied(precious)


@pytest.mark.parametrize(
    "text", [None, "{", "[]", '{"installed": [{"name": "x"}]}', '{"failures": 5}']
)
def test_a_report_that_cannot_be_read_is_a_failure(tmp_path: Path, text: str | None) -> None:
    """The agent reports that, by the file's name."""
    if text is not None:
        (tmp_path / "report.json").write_text(text)
    read = read_report(tmp_path)
    assert read.packages == ()
    (failure,) = read.failures
    assert (failure.name, failure.is_package) == ("report.json", True)
    assert str(tmp_path / "report.json") in failure.reason


def test_a_report_is_as_documented(tmp_path: Path) -> None:
    """Names and versions of what is there, names and reasons of what is not."""
    PackagesReport((), (PackageFailure("x", "why"),)).write(tmp_path)
    assert json.loads((tmp_path / "report.json").read_text()) == {
        "installed": [],
        "failures": [{"name": "x", "reason": "why"}],
    }
