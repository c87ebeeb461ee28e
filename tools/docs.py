"""Writes the generated parts of the documents: python tools/docs.py [--check]

A generated part stands between `<!-- generated: NAME … -->` and `<!-- /generated -->` in a Markdown
file. Settings come from the attrs classes, metrics from their definitions, columns from the
comments of the `.proto` files, sample rows from the golden files, examples from `tests/examples/`,
and attacks from the docstrings of `tests/security/`. `--check` writes nothing: it names each stale
page and exits with status 1.
"""

import ast
import configparser
import difflib
import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final

import attrs
import grpc_tools
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc
from infrasight.v1.event_pb2 import EventHeader
from infrasight_core.agent.settings import AgentSettings
from infrasight_core.containers.options import ContainerOptions
from infrasight_core.kernel.filters import Filters
from infrasight_core.net.tls import ListenerTls, TlsFiles
from infrasight_core.plugin.ddl import define_table
from infrasight_core.plugin.manager import PluginManager
from infrasight_core.settings.values import describe_type
from infrasight_operator.settings import OperatorSettings
from infrasight_server.settings import ServerSettings
from vocabulary import WORDS

ROOT: Final = Path(__file__).resolve().parents[1]
PART: Final = re.compile(
    r"(?P<open><!-- generated: (?P<name>[^\n]+?) -->\n)(?P<body>.*?)(?P<close><!-- /generated -->)",
    re.DOTALL,
)
SETTINGS: Final = {
    "agent": AgentSettings,
    "server": ServerSettings,
    "operator": OperatorSettings,
    "tls": TlsFiles,
    "listener": ListenerTls,
    "filters": Filters,
}
PACKAGES: Final = {
    "agent": "infrasight-core",
    "server": "infrasight-server",
    "operator": "infrasight-operator",
}
LANGUAGES: Final = {
    ".py": "python",
    ".toml": "toml",
    ".c": "c",
    ".proto": "protobuf",
    ".sql": "sql",
}
# Golden rows are read without enrichers, so every row of them lacks these columns.
ENRICHED: Final = re.compile(r"(user|group_name|container_\w+|pod_\w+|error)_missing")
# The attackers, by the word behind `test_` in the names of the files in tests/security/.
ATTACKERS: Final = {
    "local_user": "A local user of a host",
    "reader": "A reader of the store",
    "node": "A compromised node",
    "tenant": "A tenant of a Kubernetes cluster",
    "server": "A hostile server",
}
MIB: Final = 1 << 20
MAX_EXPRESSION: Final = 80


def main(arguments: list[str]) -> int:
    """Write the generated parts, or compare them with the committed ones."""
    if arguments not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    stale = 0
    for page in pages():
        before = page.read_text(encoding="utf-8")
        after = generated(before)
        if before == after:
            continue
        stale += 1
        if arguments:
            print(f"stale: {page.relative_to(ROOT)}")
            changes = difflib.unified_diff(
                before.splitlines(), after.splitlines(), lineterm="", n=0
            )
            print("\n".join(line for line in list(changes)[2:12]))
        else:
            page.write_text(after, encoding="utf-8")
            print(f"written: {page.relative_to(ROOT)}")
    if stale and arguments:
        print("run `make docs` and commit the result", file=sys.stderr)
        return 1
    return 0


def pages() -> list[Path]:
    """The documents that may have generated parts."""
    entries = [ROOT / "README.md", ROOT / "ARCHITECTURE.md"]
    packages = sorted(ROOT.glob("infrasight-*/README.md"))
    return [*entries, *packages, *sorted((ROOT / "docs").rglob("*.md"))]


def generated(text: str) -> str:
    """A document with its generated parts as they are now."""

    def replace(match: re.Match[str]) -> str:
        kind, *arguments = match["name"].split()
        return f"{match['open']}\n{GENERATORS[kind](*arguments).strip()}\n\n{match['close']}"

    return PART.sub(replace, text)


def settings(name: str) -> str:
    """A table of the settings of one class."""
    cls: Any = SETTINGS[name]
    return settings_table(cls)


def options(plugin: str) -> str:
    """A table of one plugin's options."""
    return settings_table(option_classes()[plugin])


def plugins_with_options() -> str:
    """A list of the installed plugins without options."""
    with_options = option_classes()
    without = sorted(point.name for point in our_plugins() if point.name not in with_options)
    return "Plugins without options: " + ", ".join(f"`{name}`" for name in without) + "."


def our_plugins() -> Iterator[Any]:
    """The entry points of the plugins in this repository."""
    for point in entry_points(group="infrasight"):
        if (ROOT / point.module.split(".")[0].replace("_", "-")).is_dir():
            yield point


@cache
def option_classes() -> dict[str, Any]:
    """Each plugin's class of options."""
    classes: dict[str, Any] = {"containers": ContainerOptions}
    for point in our_plugins():
        declared = getattr(import_module(point.module), "infrasight_options", None)
        if declared is not None:
            classes[point.name] = declared
    return classes


def settings_table(cls: Any) -> str:
    """A table of a class without its base: key, default, allowed values, description."""
    described = attribute_descriptions(cls)
    rows = []
    for attribute in attrs.fields(attrs.resolve_types(cls)):
        if attribute.inherited:
            continue
        rows.append(
            [
                f"`{attribute.name}`",
                default_text(attribute),
                describe_type(attribute.type),
                described.get(attribute.name, ""),
            ]
        )
    return table(["Setting", "Default", "Value", "Description"], rows)


def attribute_descriptions(cls: Any) -> dict[str, str]:
    """The entries of the `Attributes:` section of a class's docstring, each on one line."""
    descriptions: dict[str, str] = {}
    _, _, section = (cls.__doc__ or "").partition("Attributes:\n")
    name = ""
    for line in section.splitlines():
        entry = re.match(r" {8}(\w+): (.*)", line)
        if entry:
            name = entry[1]
            descriptions[name] = entry[2].strip()
        elif name and line.startswith(" " * 12):
            descriptions[name] += " " + line.strip()
        else:
            name = ""
    return descriptions


def default_text(attribute: Any) -> str:
    """A setting's default for people."""
    default = attribute.default
    if attribute.name == "node":
        return "the host's name"
    if isinstance(default, attrs.Factory) or default in (None, "", ()):  # type: ignore[arg-type]
        return "none"
    if default is attrs.NOTHING:
        return "required"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, int) and default >= MIB:
        return f"`{default}` ({default // MIB} MiB)"
    return f"`{default}`"


def metrics(part: str) -> str:
    """A table of the Prometheus metrics that a package defines."""
    found: dict[str, list[str]] = {}
    for file in sorted((ROOT / PACKAGES[part] / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            row = metric_row(node)
            if row is not None:
                found[row[0]] = row
    return table(
        ["Metric", "Type", "Labels", "Description"], [found[name] for name in sorted(found)]
    )


def metric_row(node: ast.AST) -> list[str] | None:
    """The row of a call that defines a metric; None for any other node."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) >= 2):
        return None
    kind = node.func.id
    if kind not in ("Counter", "Gauge", "Histogram"):
        return None
    name, description, *rest = (literal(argument) for argument in node.args)
    if not (isinstance(name, str) and isinstance(description, str)):
        return None
    labels = rest[0] if rest else []
    for keyword in node.keywords:
        if keyword.arg == "labelnames":
            labels = literal(keyword.value)
    if kind == "Counter":
        name += "_total"
    return [f"`{name}`", kind.lower(), ", ".join(f"`{label}`" for label in labels), description]


def literal(node: ast.expr) -> Any:
    """The value of a literal; None for any other expression."""
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None


def columns(probe: str) -> str:
    """A table of a probe's own columns, or of those of every event for `header`."""
    is_header = probe == "header"
    name = "execve" if is_header else probe
    schema = plugins().schemas()[name]
    definition = define_table(name, schema)
    header = EventHeader.DESCRIPTOR
    message = header if is_header else schema.message.DESCRIPTOR
    comments = field_comments()
    rows = []
    for column in definition.columns:
        if (column.name in definition.own_columns) == is_header:
            continue
        description = comments.get(f"{message.full_name}.{column.name}", "")
        if not column.stored:
            expression = " ".join(column.expression.split())
            description = "Computed when a query reads it; `SELECT *` omits it."
            if len(expression) <= MAX_EXPRESSION:
                description = f"Computed: `{expression}`. `SELECT *` omits it."
        rows.append([f"`{column.name}`", f"`{column.type}`", description])
    return table(["Column", "Type", "Description"], rows)


@cache
def plugins() -> PluginManager:
    """The probes of this repository."""
    return PluginManager.discover(["accept", "chmod", "connect", "execve", "open"])


@cache
def field_comments() -> dict[str, str]:
    """The comment of every protobuf field of the events, by the field's full name."""
    comments: dict[str, str] = {}
    for source in [ROOT / "proto", *sorted(ROOT.glob("infrasight-probe-*/src"))]:
        names = [str(file.relative_to(source)) for file in sorted(source.rglob("*.proto"))]
        with tempfile.NamedTemporaryFile() as described:
            well_known = Path(grpc_tools.__file__).parent / "_proto"
            paths = [f"-I{source}", f"-I{ROOT / 'proto'}", f"-I{well_known}"]
            output = ["--include_source_info", f"--descriptor_set_out={described.name}"]
            if protoc.main(["protoc", *paths, *output, *names]) != 0:
                sys.exit(f"protoc failed on {source}")
            files = FileDescriptorSet.FromString(described.read())
        for file in files.file:
            for location in file.source_code_info.location:
                path = list(location.path)
                if len(path) == 4 and path[0] == 4 and path[2] == 2:
                    message = file.message_type[path[1]]
                    name = f"{file.package}.{message.name}.{message.field[path[3]].name}"
                    comments[name] = " ".join(location.leading_comments.split())
    return comments


def sample(probe: str, row: str) -> str:
    """One golden row of a probe, without what enrichers add."""
    folders = [
        path.parent
        for path in sorted(ROOT.glob("infrasight-probe-*/tests/golden/**/rows.json"))
        if probe in (path.parent.name, path.parents[2].name.removeprefix("infrasight-probe-"))
    ]
    rows = json.loads((folders[0] / "rows.json").read_text(encoding="utf-8"))
    values = {name: value for name, value in rows[int(row)].items() if value not in ("", [])}
    values["quality"] = [flag for flag in values["quality"] if not ENRICHED.fullmatch(flag)]
    return "```json\n" + json.dumps(values, indent=2, ensure_ascii=False) + "\n```"


def file(path: str) -> str:
    """A file of the repository as a code block."""
    text = (ROOT / path).read_text(encoding="utf-8").rstrip()
    return f"```{LANGUAGES.get(Path(path).suffix, '')}\n{text}\n```"


def layers(part: str) -> str:
    """A table of a package's layers, from the import contracts: each may import those below it."""
    contracts = configparser.ConfigParser()
    contracts.read(ROOT / ".importlinter", encoding="utf-8")
    contract = contracts[f"importlinter:contract:{part}_layers"]
    container = contract["containers"].strip()
    folder = ROOT / container.replace("_", "-") / "src" / container
    rows = []
    for layer in contract["layers"].split("\n"):
        modules = [module.strip() for module in layer.split("|") if module.strip()]
        for module in modules:
            file = folder / module / "__init__.py"
            if not file.exists():
                file = folder / f"{module}.py"
            docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
            rows.append([f"`{module}`", docstring.split("\n\n")[0].replace("\n", " ")])
    return table([f"`{container}`", "Contents"], rows)


def attacks() -> str:
    """Tables of the attack tests, one for each attacker: the attempt and what holds."""
    found: dict[str, list[tuple[str, str]]] = {attacker: [] for attacker in ATTACKERS}
    for file in sorted((ROOT / "tests" / "security").glob("test_*.py")):
        attacker = attacker_of(file)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if not node.name.startswith("test_"):
                continue
            sentence = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
            if not sentence:
                sys.exit(f"{file.relative_to(ROOT)}: {node.name} has no docstring")
            found[attacker].append((file.name, sentence))
    total = sum(len(sentences) for sentences in found.values())
    parts = [f"{total} attacks."]
    for attacker, sentences in found.items():
        rows = [[sentence, f"[`{name}`](../tests/security/{name})"] for name, sentence in sentences]
        parts.append(f"## {ATTACKERS[attacker]}\n\n{len(rows)} attacks.")
        parts.append(table(["Attack", "Test"], rows))
    return "\n\n".join(parts)


def attacker_of(file: Path) -> str:
    """The attacker that the name of an attack test's file begins with."""
    for attacker in ATTACKERS:
        if file.stem.startswith(f"test_{attacker}_"):
            return attacker
    allowed = ", ".join(f"test_{attacker}_<subject>.py" for attacker in ATTACKERS)
    sys.exit(f"{file.relative_to(ROOT)}: the name of an attack test is one of {allowed}")


def vocabulary() -> str:
    """A table of the words that `tools/vocabulary.py` rejects in prose."""
    rows = [
        [f"`{word.pattern}`", word.instead, f"`{word.allowed}`" if word.allowed else ""]
        for word in WORDS
    ]
    return table(["Pattern", "Use instead", "Allowed"], rows)


def table(heading: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(heading) + " |", "|" + "---|" * len(heading)]
    for row in rows:
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |")
    return "\n".join(lines)


GENERATORS: Final[dict[str, Callable[..., str]]] = {
    "attacks": attacks,
    "settings": settings,
    "options": options,
    "plugins-without-options": plugins_with_options,
    "metrics": metrics,
    "columns": columns,
    "sample": sample,
    "file": file,
    "layers": layers,
    "vocabulary": vocabulary,
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
