"""Conventions that hold for every package and file."""

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import infrasight_core
import pytest
from infrasight_core.plugin import hookspecs
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PACKAGES = sorted(path.parent for path in ROOT.glob("infrasight-*/pyproject.toml"))
PROBES = [package for package in PACKAGES if package.name.startswith("infrasight-probe-")]
HOOKS = sorted(name for name, value in vars(hookspecs).items() if hasattr(value, "infrasight_spec"))
_COLUMN = re.compile(r"\b(?:FIXED\(\w+, |CHARS\(|TEXT\()(\w+)[,)]")  # in a list of columns
_C_FUNCTION = re.compile(r"^[a-z][^;{}]*\([^;]*?\) \{\n.*?^\}", re.MULTILINE | re.DOTALL)
_C_DECLARATION = re.compile(
    r"\b(?:[us]\d+|int|long|char|bool|struct \w+|enum \w+) \*?(\w+)[ ,;)=[]"
)
GENERATED = re.compile(r"_pb2(_grpc)?\.pyi?$")

each_package = pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
each_probe = pytest.mark.parametrize("probe", PROBES, ids=lambda path: path.name)
each_hook = pytest.mark.parametrize("hook", HOOKS)


@cache
def files(*suffixes: str) -> list[Path]:
    """The files in git, or about to be added, that are not generated; all of them by default."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    found = [ROOT / name for name in listed.stdout.split("\0") if name]
    return [
        f
        for f in found
        if f.is_file() and not GENERATED.search(f.name) and (not suffixes or f.suffix in suffixes)
    ]


@cache
def tree(file: Path) -> ast.Module:
    """A Python file's syntax."""
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def all_tests() -> Iterator[tuple[Path, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Every test function with its file."""
    for file in files(".py"):
        if file.name.startswith("test_"):
            for node in ast.walk(tree(file)):
                if isinstance(
                    node, ast.FunctionDef | ast.AsyncFunctionDef
                ) and node.name.startswith("test_"):
                    yield file, node


def project(package: Path) -> dict[str, Any]:
    """The `[project]` table of a package."""
    return tomllib.loads((package / "pyproject.toml").read_text(encoding="utf-8"))["project"]  # type: ignore[no-any-return]


def requirements(package: Path) -> dict[str, Requirement]:
    """What a package depends on, by name."""
    return {r.name: r for r in map(Requirement, project(package)["dependencies"])}


def place(file: Path, line: int = 0) -> str:
    """A file's path relative to the root, with a line number."""
    return f"{file.relative_to(ROOT)}:{line}" if line else str(file.relative_to(ROOT))


def test_there_are_packages_probes_and_hooks() -> None:
    """The lists that the other tests go through are not empty."""
    assert PACKAGES
    assert PROBES
    assert set(HOOKS) == {"schema", "load_bpf", "decode", "enrich"}
    assert len(files(".py")) > 50


@each_hook
def test_hook_is_documented(hook: str) -> None:
    """Every hook is called by its name, with its arguments, in the core's README or in docs/."""
    pages = [ROOT / "infrasight-core" / "README.md", *ROOT.glob("docs/**/*.md")]
    assert any(f"`{hook}(" in page.read_text(encoding="utf-8") for page in pages)


@each_hook
def test_hook_has_a_test(hook: str) -> None:
    """Every hook is named by the name or the docstring of a test elsewhere."""
    assert [
        place(file, test.lineno)
        for file, test in all_tests()
        if file != Path(__file__)
        and (hook in test.name or f"`{hook}`" in (ast.get_docstring(test) or ""))
    ]


@each_package
def test_package_is_complete(package: Path) -> None:
    """Every package has a README, CHANGELOG, licence, tests, and a py.typed file."""
    for name in ("README.md", "CHANGELOG.md", "LICENSE"):
        assert (package / name).is_file(), name
    assert list((package / "tests").rglob("test_*.py"))
    for folder in (package / "src").iterdir():
        if folder.is_dir() and folder.name != "__pycache__":
            assert list(folder.rglob("py.typed")), folder.name


@each_package
def test_licences_are_the_roots(package: Path) -> None:
    """Licences are copies of the root's; kernel C has the GPL and names it in its first line."""
    kernel = [*package.rglob("*.bpf.c"), *package.rglob("*.bpf.h")]
    for licence in ["LICENSE", *(["LICENSE-GPL-2.0"] if kernel else [])]:
        assert (package / licence).read_bytes() == (ROOT / licence).read_bytes()
        assert licence in project(package)["license-files"]
    for file in kernel:
        assert file.read_text(encoding="utf-8").startswith(
            "/* SPDX-License-Identifier: GPL-2.0-or-later\n"
        ), place(file)


@each_package
def test_version_is_the_changelogs(package: Path) -> None:
    """The first version in the CHANGELOG is the package's."""
    versions = re.findall(
        r"^## (\d\S+)", (package / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert versions[0] == project(package)["version"]


@each_package
def test_package_has_one_name(package: Path) -> None:
    """Folder, distribution and import name are one word, so that no list has to name it."""
    assert project(package)["name"] == package.name
    assert (package / "src" / package.name.replace("-", "_") / "__init__.py").is_file()


def test_no_list_names_the_packages() -> None:
    """The shared settings find the packages by their folders: none names a probe's package."""
    names = [name for probe in PROBES for name in (probe.name, probe.name.replace("-", "_"))]
    settings = [ROOT / name for name in ("Makefile", "pyproject.toml", ".importlinter")]
    settings += (ROOT / "tools").glob("*.py")
    found = [
        f"{place(file)}: {name}"
        for file in settings
        for name in names
        if name in file.read_text(encoding="utf-8")
    ]
    assert not found


@each_package
def test_dependencies_are_locked(package: Path) -> None:
    """The lock has an allowed version of every dependency with hashes, and names no source."""
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    pinned = lock.replace(" \\\n    ", " ").splitlines()
    locked = dict(line.split(" ")[0].split("==") for line in pinned)
    assert all(" --hash=sha256:" in line for line in pinned)
    assert not re.search(r"^-|://| @ ", lock, re.MULTILINE)
    for name, requirement in requirements(package).items():
        assert name.startswith("infrasight-") or requirement.specifier.contains(locked[name]), name
    assert "bcc" not in requirements(package)  # a package index has another one of that name


def test_lock_is_complete() -> None:
    """Every requirement, also of other packages, is in the lock in a version that meets it."""
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    locked: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([a-z0-9.-]+)==([^ ]+)", lock, re.MULTILINE):
        locked.setdefault(name, set()).add(version)
    group = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    pending = [Requirement(text) for text in group["dependency-groups"]["dev"]]
    pending += [required for package in PACKAGES for required in requirements(package).values()]
    checked: set[tuple[str, str]] = set()
    while pending:
        requirement = pending.pop()
        name = canonicalize_name(requirement.name)
        key = (name, str(requirement))
        if key in checked or name.startswith("infrasight-"):
            continue
        checked.add(key)
        assert list(requirement.specifier.filter(locked[name], prereleases=True)), str(requirement)
        for text in metadata.requires(name) or []:
            inner = Requirement(text)
            extras = requirement.extras or {""}
            if inner.marker is None or any(inner.marker.evaluate({"extra": e}) for e in extras):
                pending.append(inner)


@each_package
def test_generated_code_sets_the_floors(package: Path) -> None:
    """A package requires at least the runtime of the generator of its code."""
    for file in package.rglob("*_pb2.py"):
        made = re.search(
            r"^# Protobuf Python Version: (\S+)$", file.read_text(encoding="utf-8"), re.MULTILINE
        )
        assert made
        assert f">={made[1]}" in str(requirements(package)["protobuf"].specifier), place(file)
    for file in package.rglob("*_pb2_grpc.py"):
        made = re.search(
            r"^GRPC_GENERATED_VERSION = '(\S+)'$", file.read_text(encoding="utf-8"), re.MULTILINE
        )
        assert made
        assert f">={made[1]}" in str(requirements(package)["grpcio"].specifier), place(file)


@each_probe
def test_probe_uses_public_names_only(probe: Path) -> None:
    """A probe imports only the names in the core's `__all__` and the wire's generated code."""
    found = []
    for file in (probe / "src").rglob("*.py"):
        for node in [] if GENERATED.search(file.name) else ast.walk(tree(file)):
            if isinstance(node, ast.Import):
                found += [
                    (file, node.lineno, alias.name)
                    for alias in node.names
                    if alias.name.startswith("infrasight_core")
                ]
            elif (
                isinstance(node, ast.ImportFrom)
                and (node.module or "").split(".")[0] == "infrasight_core"
            ):
                public = infrasight_core.__all__ if node.module == "infrasight_core" else []
                found += [
                    (file, node.lineno, alias.name)
                    for alias in node.names
                    if alias.name not in public
                ]
    assert not [f"{place(file, line)} imports {name}" for file, line, name in found]


def test_c_lines_fit_100_columns() -> None:
    """No line of C, comments included, is wider than 100 columns."""
    wide = [
        place(file, number)
        for file in files(".c", ".h")
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > 100
    ]
    assert not wide


def test_workloads_compile_without_warnings() -> None:
    """The C of the test workloads has none; the tests that load BPF look at the kernel C."""
    workloads = [file for file in files(".c") if file.parent.name == "workloads"]
    sources = [file for file in workloads if not file.name.endswith(".bpf.c")]
    assert sources
    flags = ("-Wall", "-Wextra", "-Wno-unused-result", "-Werror", "-fsyntax-only")
    subprocess.run(["cc", *flags, *sources], check=True)


def c_locals(file: Path) -> Iterator[tuple[str, set[str]]]:
    """The first line of each C function and the names of its parameters and variables."""
    functions = _C_FUNCTION.findall(file.read_text(encoding="utf-8"))
    for function in functions:
        yield function.splitlines()[0], set(_C_DECLARATION.findall(function))


def test_c_locals_differ_from_columns() -> None:
    """No parameter or variable of the kernel C has the name of a column that it can fill."""
    headers = ROOT / "infrasight-core/src/infrasight_core/bpf"
    header = (headers / "infrasight.bpf.h").read_text(encoding="utf-8")
    header_columns = set(_COLUMN.findall(header[header.index("#define HEADER_COLUMNS") :]))
    checked = 0
    for file in files(".c", ".h"):
        if ".bpf." not in file.name or "benchmarks" in file.parts:
            continue
        columns = set(header_columns)
        if file.parent != headers:  # a header of a probe fills the columns of its programs
            for program in file.parent.glob("*.bpf.c"):
                columns |= set(_COLUMN.findall(program.read_text(encoding="utf-8")))
        for function, declared in c_locals(file):
            checked += 1
            assert not declared & columns, f"{place(file)}: {function}"
    assert checked > 100


def test_every_test_says_what_it_shows() -> None:
    """Every test has a docstring."""
    assert not [
        f"{place(file, test.lineno)} {test.name}"
        for file, test in all_tests()
        if not ast.get_docstring(test)
    ]


def test_no_c_in_python_strings() -> None:
    """C is in its own files, where an editor and clang-format find it."""
    c = re.compile(
        r"#\s*include\s*<|\bBPF_[A-Z_]+\(|\bstruct \w+ \{|\bint \w+\((struct|void|int|char)\b"
    )
    found = [
        place(file, node.lineno)
        for file in files(".py")
        for node in ast.walk(tree(file))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and file != Path(__file__)
        and c.search(node.value)
    ]
    assert not found


def test_no_error_is_swallowed() -> None:
    """No `except` has an empty body."""
    found = [
        place(file, node.lineno)
        for file in files(".py")
        for node in ast.walk(tree(file))
        if isinstance(node, ast.ExceptHandler)
        and all(
            isinstance(s, ast.Pass)
            or (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))
            for s in node.body
        )
    ]
    assert not found


def test_no_tuple_assignment_of_unrelated_values() -> None:
    """`a, b = x, y` is two statements, unless it swaps."""
    found = []
    for file in files(".py"):
        for node in ast.walk(tree(file)):
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple):
                values = sorted(ast.unparse(value) for value in node.value.elts)
                for target in node.targets:
                    if isinstance(target, ast.Tuple):
                        names = sorted(ast.unparse(name) for name in target.elts)
                        if names != values:
                            found.append(place(file, node.lineno))
    assert not found


def test_no_file_names_a_machine_or_registry() -> None:
    """No file names a folder of one machine, a package registry's host, or an issue number."""
    forbidden = re.compile(
        r"(?<![\w.)}])/(work|home)/\w|/root/\.|\bissue \d"
        r"|\b(pypi|pythonhosted|npmjs|debian|crates|golang)\.(org|com|io)\b",
        re.IGNORECASE,
    )
    found = []
    for file in files():
        # A licence names its publisher, and a Go module's name begins with a host.
        exempt = file.name.startswith("LICENSE") or file.name in ("go.mod", "go.sum")
        lines = [] if exempt else file.read_text(encoding="utf-8", errors="replace").splitlines()
        found += [
            place(file, number) for number, line in enumerate(lines, 1) if forbidden.search(line)
        ]
    assert not found
