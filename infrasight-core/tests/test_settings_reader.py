"""Settings read from a file, the environment and flags."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
from attrs import Factory, field, frozen, validators
from infrasight_core.errors import ConfigError
from infrasight_core.settings.reader import read_settings


@frozen
class Tls:
    """A nested table."""

    key: Path
    ca: Path


@frozen
class Settings:
    """One key of every type."""

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

    def write_file(text: str, name: str = "a.toml") -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write_file


def settings(file: Path | None = None, **flags: object) -> Settings:
    """Reads settings with the prefix of these tests."""
    return read_settings(Settings, file=file, env_prefix="SIGHT_", flags=flags)


def rejection(file: Path | None = None, **flags: object) -> str:
    """Returns the message of the ConfigError, which is one line."""
    with pytest.raises(ConfigError) as error:
        settings(file, **flags)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_flags_override_environment_and_file(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment overrides the file, and flags override both, key by key."""
    file = write('server = "file"\nrows = 2\nseconds = 3\nmode = "newest"')
    monkeypatch.setenv("SIGHT_ROWS", "4")
    monkeypatch.setenv("SIGHT_SECONDS", "5.5")
    result = settings(file, seconds="6.5", mode=None, probes=())
    assert (result.server, result.rows, result.seconds, result.mode) == ("file", 4, 6.5, "newest")


def test_toml_and_yaml_give_the_same_settings(write: Any) -> None:
    """Nested tables are the same, too."""
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
    """`__` separates nested keys, which merge with the file's; commas separate list items."""
    file = write('[tls]\nkey = "k"\nca = "c"\n[options.execve]\nslots = 5')
    monkeypatch.setenv("SIGHT_TLS__CA", "other")
    monkeypatch.setenv("SIGHT_OPTIONS__EXECVE__DEEP", "true")
    monkeypatch.setenv("SIGHT_PROBES", "a, b")
    monkeypatch.setenv("SIGHT_PLAINTEXT", "yes")
    monkeypatch.setenv("SIGHT_DAYS", "")
    result = settings(file)
    assert result.tls == Tls(Path("k"), Path("other"))
    assert result.options == {"execve": {"slots": 5, "deep": True}}
    assert (result.probes, result.plaintext, result.days) == (("a", "b"), True, None)


def test_flags_reach_nested_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flag may set a nested key; an error about a missing one names the flag."""
    both: dict[str, Any] = {"tls.key": "k", "tls.ca": Path("c")}
    assert settings(**both).tls == Tls(Path("k"), Path("c"))
    only_key: dict[str, Any] = {"tls.key": "k"}
    assert rejection(**only_key) == "tls.ca is not set (--tls-key): expected a path"


def test_environment_names_the_file(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`<prefix>CONFIG` is the file if the caller names none."""
    monkeypatch.setenv("SIGHT_CONFIG", str(write("rows = 9")))
    assert settings().rows == 9
    assert settings(write("rows = 8", "b.toml")).rows == 8


def test_service_links_of_kubernetes_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables that Kubernetes sets for a service are no settings; misspelt ones are errors."""
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
    assert rejection() == "unknown key rowes (SIGHT_ROWES): did you mean rows?"


def test_unknown_key_gives_a_suggestion(write: Any) -> None:
    """The error names the file and a similar key, or all keys if none is similar."""
    file = write('servr = "x"\n[tls]\nkey = "k"\nca = "c"\nzzz = 1')
    message = rejection(file)
    assert f"unknown key servr ({file}): did you mean server?" in message
    assert f"unknown key tls.zzz ({file}): allowed are key, ca" in message


@pytest.mark.parametrize(
    ("text", "message"),
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
def test_invalid_value_names_key_value_source_and_what_is_allowed(
    write: Any, text: str, message: str
) -> None:
    """No value in a file is converted silently: every invalid one is rejected with all four."""
    file = write(text)
    assert rejection(file) == message.replace("FILE", str(file))


def test_invalid_text_names_its_variable_or_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text that does not parse as the type of its key is rejected with its source."""
    assert rejection(rows="many") == "rows = 'many' (--rows): expected a whole number"
    monkeypatch.setenv("SIGHT_PLAINTEXT", "perhaps")
    assert rejection() == "plaintext = 'perhaps' (SIGHT_PLAINTEXT): expected true or false"


def test_unreadable_files_are_rejected(write: Any, tmp_path: Path) -> None:
    """The error names the file: absent, a folder, not UTF-8, or of an unknown type."""
    assert rejection(tmp_path / "no.toml").endswith(
        "no.toml: cannot read it: No such file or directory"
    )
    (tmp_path / "folder.yaml").mkdir()
    assert "cannot read it: Is a directory" in rejection(tmp_path / "folder.yaml")
    (tmp_path / "b.toml").write_bytes(b"server = '\xff'")
    assert rejection(tmp_path / "b.toml").endswith("byte 10 is not UTF-8")
    assert "must end in .toml, .yaml or .yml" in rejection(write("", "a.ini"))


@pytest.mark.parametrize(
    ("name", "text", "message"),
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
def test_malformed_files_are_rejected(write: Any, name: str, text: str, message: str) -> None:
    """The error names the position of the mistake; a duplicate key is one."""
    file = write(text, name)
    assert rejection(file) == f"settings file {file}: {message}"


def test_empty_file_changes_nothing(write: Any) -> None:
    """An empty file has no keys."""
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
    """No error repeats a password, whether its value, its key or the file's syntax is invalid."""
    assert "31337" not in rejection(write(text, name))
