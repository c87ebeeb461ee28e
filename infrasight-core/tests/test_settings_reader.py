"""Settings from a file, the environment and flags."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
from attrs import Factory, field, frozen, validators
from infrasight_core.errors import ConfigError
from infrasight_core.settings.reader import read_settings


@frozen
class Tls:
    """A table within."""

    key: Path
    ca: Path


@frozen
class Settings:
    """One key of every kind."""

    server: str = "127.0.0.1:1"
    rows: int = field(default=1, validator=validators.gt(0))
    seconds: float = 0.5
    plaintext: bool = False
    mode: Literal["oldest", "newest"] = "oldest"
    probes: tuple[str, ...] = ()
    days: int | None = None
    tls: Tls | None = None
    options: Mapping[str, Mapping[str, Any]] = Factory(dict)
    password: str = ""


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """Writes a settings file and returns its path."""

    def written(text: str, name: str = "a.toml") -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return written


def settings(file: Path | None = None, **flags: object) -> Settings:
    """Loads with the prefix of these tests."""
    return read_settings(Settings, file=file, env_prefix="SIGHT_", flags=flags)


def refused(file: Path | None = None, **flags: object) -> str:
    """The message of the ConfigError, one line."""
    with pytest.raises(ConfigError) as caught:
        settings(file, **flags)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_flags_beat_environment_beats_file(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each key comes from the strongest place that names it."""
    file = write('server = "file"\nrows = 2\nseconds = 3\nmode = "newest"')
    monkeypatch.setenv("SIGHT_ROWS", "4")
    monkeypatch.setenv("SIGHT_SECONDS", "5.5")
    found = settings(file, seconds="6.5", mode=None, probes=())
    assert (found.server, found.rows, found.seconds, found.mode) == ("file", 4, 6.5, "newest")


def test_toml_and_yaml_say_the_same(write: Any) -> None:
    """Both kinds of file give the same settings, tables within included."""
    toml = write(
        'probes = ["a", "b"]\ndays = 7\n[tls]\nkey = "k"\nca = "c"\n[options.execve]\nslots = 5'
    )
    yaml = write(
        "probes: [a, b]\ndays: 7\ntls: {key: k, ca: c}\noptions: {execve: {slots: 5}}", "a.yaml"
    )
    assert settings(toml) == settings(yaml)
    assert settings(toml).tls == Tls(Path("k"), Path("c"))
    assert settings(toml).options == {"execve": {"slots": 5}}


def test_environment_reaches_nested_keys_and_lists(
    write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`__` goes into a table and joins what the file says there; commas make lists; booleans are words."""
    file = write('[tls]\nkey = "k"\nca = "c"\n[options.execve]\nslots = 5')
    monkeypatch.setenv("SIGHT_TLS__CA", "other")
    monkeypatch.setenv("SIGHT_OPTIONS__EXECVE__DEEP", "true")
    monkeypatch.setenv("SIGHT_PROBES", "a, b")
    monkeypatch.setenv("SIGHT_PLAINTEXT", "yes")
    monkeypatch.setenv("SIGHT_DAYS", "")
    found = settings(file)
    assert found.tls == Tls(Path("k"), Path("other"))
    assert found.options == {"execve": {"slots": 5, "deep": True}}
    assert (found.probes, found.plaintext, found.days) == (("a", "b"), True, None)


def test_flags_reach_nested_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flag's key may name a key in a table; what is missing there is said with the flag's name."""
    both: dict[str, Any] = {"tls.key": "k", "tls.ca": Path("c")}
    assert settings(**both).tls == Tls(Path("k"), Path("c"))
    only_key: dict[str, Any] = {"tls.key": "k"}
    assert refused(**only_key) == "tls.ca is not set (--tls-key): expected a path"


def test_the_environment_may_name_the_file(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`<prefix>CONFIG` is the file when no flag names one."""
    monkeypatch.setenv("SIGHT_CONFIG", str(write("rows = 9")))
    assert settings().rows == 9
    assert settings(write("rows = 8", "b.toml")).rows == 8


def test_service_links_of_kubernetes_are_not_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Kubernetes sets for a service of our name is passed over; a mistyped variable is not."""
    for name in (
        "SERVICE_HOST",
        "SERVICE_PORT",
        "SERVICE_PORT_GRPC",
        "PORT",
        "PORT_7443_TCP",
        "PORT_7443_TCP_ADDR",
    ):
        monkeypatch.setenv(f"SIGHT_{name}", "tcp://10.0.0.1:7443")
    assert settings() == Settings()
    monkeypatch.setenv("SIGHT_ROWES", "1")
    assert refused() == "unknown key rowes (SIGHT_ROWES): did you mean rows?"


def test_unknown_key_suggests_a_close_one(write: Any) -> None:
    """A misspelt key is named with the file and a close key; a strange one with all that there are."""
    file = write('servr = "x"\n[tls]\nkey = "k"\nca = "c"\nzzz = 1')
    message = refused(file)
    assert f"unknown key servr ({file}): did you mean server?" in message
    assert f"unknown key tls.zzz ({file}): allowed are key, ca" in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('rows = "many"', "rows = 'many' (FILE): expected a whole number"),
        ("rows = true", "rows = True (FILE): expected a whole number"),
        ("rows = 0", "rows = 0 (FILE): must be > 0: 0"),
        ("server = 5", "server = 5 (FILE): expected text"),
        ('plaintext = "true"', "plaintext = 'true' (FILE): expected true or false"),
        ('mode = "latest"', "mode = 'latest' (FILE): expected one of oldest, newest"),
        ('probes = "execve"', "probes = 'execve' (FILE): expected a list, each item text"),
        ('probes = ["a", 1]', "probes[1] = 1 (FILE): expected text"),
        ('tls = "x"', "tls = 'x' (FILE): expected a table of key, ca"),
        ('tls = {key = 1, ca = "c"}', "tls.key = 1 (FILE): expected a path"),
        ('tls = {key = "k"}', "tls.ca is not set (FILE): expected a path"),
        ("options = {execve = 1}", "options.execve = 1 (FILE): expected a table"),
        ('days = "x"', "days = 'x' (FILE): expected a whole number"),
    ],
)
def test_wrong_value_says_key_value_place_and_what_is_allowed(
    write: Any, text: str, said: str
) -> None:
    """Nothing in a file is converted silently: each kind of wrong value is refused with all four."""
    file = write(text)
    assert refused(file) == said.replace("FILE", str(file))


def test_wrong_text_from_the_environment_and_from_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text that does not read as the wanted type names its variable, or its option."""
    assert refused(rows="many") == "rows = 'many' (--rows): expected a whole number"
    monkeypatch.setenv("SIGHT_PLAINTEXT", "perhaps")
    assert refused() == "plaintext = 'perhaps' (SIGHT_PLAINTEXT): expected true or false"


def test_files_that_cannot_be_read(write: Any, tmp_path: Path) -> None:
    """An absent file, a folder, a file that is not UTF-8, and one of an unknown kind are each said by name."""
    assert refused(tmp_path / "no.toml").endswith(
        "no.toml: cannot read it: No such file or directory"
    )
    (tmp_path / "folder.yaml").mkdir()
    assert "cannot read it: Is a directory" in refused(tmp_path / "folder.yaml")
    (tmp_path / "b.toml").write_bytes(b"server = '\xff'")
    assert refused(tmp_path / "b.toml").endswith("byte 10 is not UTF-8")
    assert "must end in .toml, .yaml or .yml" in refused(write("", "a.ini"))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.toml", "rows = ", "not TOML: Invalid value (at end of document)"),
        (
            "a.toml",
            "rows = 1\nrows = 2\n",
            "not TOML: Cannot overwrite a value (at line 2, column 9)",
        ),
        ("a.yaml", "a: [", "not YAML: expected the node content (at line 1, column 5)"),
        ("a.yaml", "rows: 1\nrows: 2", "not YAML: duplicate key (at line 2, column 1)"),
        ("a.yaml", "- rows", "expected keys and values at the top level, not list"),
        (
            "a.yaml",
            "a: !!python/name:x 1",
            "not YAML: could not determine a constructor for the tag (at line 1, column 4)",
        ),
    ],
)
def test_malformed_files(write: Any, name: str, text: str, said: str) -> None:
    """A file that is not TOML or YAML is refused with the place; a key twice is, too."""
    file = write(text, name)
    assert refused(file) == f"settings file {file}: {said}"


def test_empty_files_change_nothing(write: Any) -> None:
    """An empty file is a file without keys."""
    assert settings(write("")) == settings(write("# nothing\n", "a.yaml")) == Settings()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.toml", "password = 31337"),
        ("a.toml", 'passwort = "31337"'),
        ("a.toml", 'server = ["http://me:31337@db/"]'),
        ("a.toml", 'rows = "http://me:31337@db/"'),
        ("a.toml", 'password = "31337'),
        ("a.yaml", "password: *31337"),
        ("a.yaml", "password: [31337"),
    ],
)
def test_secrets_are_never_shown(write: Any, name: str, text: str) -> None:
    """No refusal repeats a password, whether its value, its key or its file's syntax is wrong."""
    assert "31337" not in refused(write(text, name))
