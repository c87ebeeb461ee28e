"""Prepares a program's C for the compiler and reads the compiler's output.

BCC rewrites map accesses in the main file alone, so the loader compiles one text with every header
in place of its include. The names of the kernel fields that the text uses are found here, too, so
that the loader can define their offsets.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources.abc import Traversable
from itertools import accumulate
from pathlib import Path

from attrs import frozen

from infrasight_core.errors import KernelError

# Enabled for all programs. A BPF program must take its context whether it uses it or not, and the
# declarations of `with_programs` have no parameters.
WARNING_FLAGS = (
    "-Wall",
    "-Wextra",
    "-Wno-unused-parameter",
    "-Wno-unknown-warning-option",
    "-Wno-deprecated-non-prototype",
)

_INCLUDE = re.compile(r'\s*#\s*include\s+"(\w+\.bpf\.h)"\s*')
_LINE_MARKER = re.compile(r'# (\d+) "([^"]*)"')
_COMMENT_OR_STRING = re.compile(
    r"""/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])+'""", re.DOTALL
)
_DEFINITION = re.compile(r"#\s*define\s+(\w+)(?:\(([^)]*)\))?(.*)")
_OFFSET = re.compile(r"\bOFFSET_(\w+?__\w+)")
_PASTED_OFFSET = re.compile(r"\bOFFSET_\s*##\s*(\w+)")
_FIELD_NAME = re.compile(r"\w+?__\w+")
_OPTIONAL = "OPTIONAL_FIELDS"
_WARNING = re.compile(r"^([\w.-]+\.bpf\.[ch]:\d+):\d+: (warning: .*)$", re.MULTILINE)


@frozen
class KernelField:
    """A member of a kernel struct that a program uses.

    Attributes:
        name: `struct.member`, or `struct.member.member` for a member of a member.
        place: The first line that uses it, as `file:line`.
        optional: Whether the kernel may lack it.
    """

    name: str
    place: str
    optional: bool = False

    @property
    def define(self) -> str:
        """The macro that stands for its offset in C."""
        return f"OFFSET_{self.name.replace('.', '__')}"


def inline_headers(
    source: Path | Traversable, headers: Mapping[str, Path | Traversable], flag: str = ""
) -> str:
    """Returns the source with every header in place of its include.

    Line markers tell the compiler which file each line comes from and that a header is a header:
    it then names the right place in its messages and does not warn about functions that a header
    offers and the program does not use.

    Raises:
        KernelError: A header belongs neither to the core nor to the program.
    """
    lines = [f'# 1 "{source.name}"{flag}']
    for number, line in enumerate(source.read_text(encoding="utf-8").splitlines(), 1):
        include = _INCLUDE.fullmatch(line)
        if include is None:
            lines.append(line)
            continue
        name = include[1]
        if name not in headers:
            raise KernelError(
                f"{source.name}:{number}: {name} is neither a header of the core "
                "nor one of the program's `headers`"
            )
        lines.append(inline_headers(headers[name], headers, flag=" 1"))
        lines.append(f'# {number + 1} "{source.name}" 2')
    return "\n".join(lines)


def with_programs(text: str, functions: Mapping[str, str]) -> str:
    """Makes programs of a C text's functions: adds the macros of handler.bpf.h.

    Each function is declared static before its definition, so that it becomes a part of its
    program, `<function>__run`, although the author does not write `static`.

    Args:
        text: The result of `inline_headers`.
        functions: The macro for each function.

    Raises:
        KernelError: The text does not define a function.
    """
    for function in functions:
        if not re.search(rf"^int {function}\(", text, re.MULTILINE):
            raise KernelError(f"the C has no function `int {function}(…)`")
    lines = ['# 1 "attached.bpf.h" 1']
    for function in functions:
        lines.append(f"static inline __attribute__((always_inline, unused)) int {function}();")
    lines.append(text)
    lines.append('# 1 "attached.bpf.h" 1')
    for function, macro in functions.items():
        lines.append(f"{macro}({function})")
    return "\n".join(lines)


def kernel_fields(text: str) -> list[KernelField]:
    """Finds the kernel fields that a C text uses, without preprocessing it.

    A field is used where `OFFSET_struct__member` stands, and where `struct__member` is the argument
    of a macro that pastes it to `OFFSET_`, or passes it on to such a macro: FIELD, MEMBER, or a
    macro of the probe's own. Offsets that the text itself defines are not kernel fields.
    Conditional compilation is ignored: a field in a branch that is not compiled counts, too.

    Args:
        text: The result of `inline_headers`.

    Raises:
        KernelError: An argument that must name a field does not.
    """
    definitions, code = _split(text)
    field_macros = _field_macros(definitions)
    derived = {definition.name for definition in definitions}
    optional: set[str] = set()
    places: dict[str, str] = {}
    for part in (*definitions, code):
        used = [(match.start(), match[1]) for match in _OFFSET.finditer(part.body)]
        for macro, position in field_macros.items():
            for call in _calls(part.body, macro):
                name = call.argument(position)
                if name in part.parameters:
                    continue
                if not _FIELD_NAME.fullmatch(name):
                    raise KernelError(
                        f"{part.place(call.offset)}: {macro}: {name!r} names no kernel field, "
                        "which is written struct__member"
                    )
                used.append((call.offset, name))
        if part is code:
            for call in _calls(part.body, _OPTIONAL):
                optional.update(call.arguments)
                used += [(call.offset, name) for name in call.arguments]
        for offset, name in sorted(used):
            if f"OFFSET_{name}" not in derived:
                places.setdefault(name, part.place(offset))
    return [
        KernelField(_member_path(name), place, name in optional) for name, place in places.items()
    ]


def compiler_warnings(output: str) -> tuple[str, ...]:
    """Returns the compiler's warnings about a program's C and its headers, each once.

    A warning reads `file:line: warning: …`. Those about BCC's own headers are left out.
    """
    warnings = (f"{place}: {warning}" for place, warning in _WARNING.findall(output))
    return tuple(dict.fromkeys(warnings))


@frozen
class _Part:
    """A macro's body, or the code outside of all macros, without comments and strings.

    Attributes:
        name: The macro's name; empty for the code.
        parameters: The macro's parameters.
        body: The text.
        starts: The offsets in the body at which lines begin.
        lines: The place of each of these lines.
    """

    name: str
    parameters: tuple[str, ...]
    body: str
    starts: tuple[int, ...]
    lines: tuple[str, ...]

    def place(self, offset: int) -> str:
        """The line that an offset in the body lies in, as `file:line`."""
        return self.lines[bisect_right(self.starts, offset) - 1]


@frozen
class _Call:
    """The use of a macro: its offset and its arguments."""

    offset: int
    arguments: tuple[str, ...]

    def argument(self, position: int) -> str:
        """One argument, empty if there are fewer."""
        return self.arguments[position] if position < len(self.arguments) else ""


def _split(text: str) -> tuple[list[_Part], _Part]:
    """Splits a text into the bodies of its macros and the code outside of them."""
    definitions: list[_Part] = []
    code: list[tuple[str, str]] = []
    for place, line in _logical_lines(text):
        match = _DEFINITION.match(line)
        if match is None:
            code.append((place, line))
            continue
        parameters = tuple(name.strip() for name in match[2].split(",")) if match[2] else ()
        definitions.append(_Part(match[1], parameters, match[3], (0,), (place,)))
    starts = tuple(accumulate((len(line) + 1 for _, line in code[:-1]), initial=0))
    body = "\n".join(line for _, line in code)
    return definitions, _Part("", (), body, starts, tuple(place for place, _ in code))


def _logical_lines(text: str) -> Iterator[tuple[str, str]]:
    """Yields each line and its place, without comments and strings; continued lines are joined."""
    places: list[str] = []
    lines: list[str] = []
    file = ""
    number = 0
    for line in text.split("\n"):
        if marker := _LINE_MARKER.match(line):
            number = int(marker[1])
            file = marker[2]
            continue
        places.append(f"{file}:{number}")
        lines.append(line)
        number += 1
    bare = _COMMENT_OR_STRING.sub(lambda match: "\n" * match[0].count("\n"), "\n".join(lines))
    joined = ""
    first = ""
    for place, line in zip(places, bare.split("\n"), strict=True):
        first = first or place
        if line.endswith("\\"):
            joined += line[:-1] + " "
            continue
        yield first, joined + line
        joined = ""
        first = ""


def _field_macros(definitions: Sequence[_Part]) -> dict[str, int]:
    """Finds the macros that take the name of a field, and which of their arguments it is."""
    macros: dict[str, int] = {}
    for definition in definitions:
        for pasted in _PASTED_OFFSET.findall(definition.body):
            if pasted in definition.parameters:
                macros[definition.name] = definition.parameters.index(pasted)
    found = dict(macros)
    while found:
        passed_on = {
            definition.name: definition.parameters.index(call.argument(position))
            for definition in definitions
            for macro, position in found.items()
            for call in _calls(definition.body, macro)
            if call.argument(position) in definition.parameters
        }
        found = {name: at for name, at in passed_on.items() if name not in macros}
        macros |= found
    return macros


def _calls(text: str, macro: str) -> Iterator[_Call]:
    """Yields each use of a macro in a text."""
    for match in re.finditer(rf"\b{macro}\s*\(", text):
        arguments = [""]
        depth = 1
        for character in text[match.end() :]:
            if character in "([{":
                depth += 1
            elif character in ")]}":
                depth -= 1
            if depth == 0:
                break
            if character == "," and depth == 1:
                arguments.append("")
            else:
                arguments[-1] += character
        yield _Call(match.start(), tuple(argument.strip() for argument in arguments))


def _member_path(name: str) -> str:
    """`struct__member` as `struct.member`; a member may itself begin with two underscores."""
    parts: list[str] = []
    prefix = ""
    for part in name.split("__"):
        if part:
            parts.append(prefix + part)
            prefix = ""
        else:
            prefix = "__"
    return ".".join(parts)
