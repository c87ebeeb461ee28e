"""Finds words that the project has replaced in documents, comments, docstrings and messages.

    python tools/vocabulary.py                         the whole repository
    python tools/vocabulary.py infrasight-server docs  these files and folders
    python tools/vocabulary.py --list                  the words and their replacements

Prints `file:line: word: use replacement` for each and exits with status 1 if there is one. Code
between backticks and fenced blocks of Markdown are not prose. docs/glossary.md defines the
project's own terms.
"""

import argparse
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Word:
    """A pattern that prose must not match.

    pattern: A regular expression; a space in it also matches a line break.
    instead: The replacements, for the message.
    allowed: Phrases in which the word is right, as a regular expression.
    """

    pattern: str
    instead: str
    allowed: str = ""


WORDS: Final = (
    Word(r"told|untold", "configured, sent, reported"),
    Word(r"said|says so|say so|saying so", "reported, declared, flagged, logged"),
    Word(r"hangs? on|hung on|hanging on", "attaches to, attached to"),
    Word(r"away", "unavailable", r"(right|straight|throws?|thrown) away"),
    Word(r"lets? go|letting go", "releases, discards"),
    Word(r"(in|into) force", "active, applied"),
    Word(r"news", "updates"),
    Word(
        r"kept",
        "cached, persisted, held, retained",
        r"kept (alive|open|apart|out|free|private|in sync|up to date)",
    ),
    Word(r"strangers?(['’]s?)?", "third-party"),
    Word(r"others['’] (packages?|plugins?|code|enrichers?|probes?|objects?)", "third-party"),
    Word(r"mend(s|ed|ing)?", "fix"),
    Word(r"at work", "running, in progress"),
    Word(r"under way", "in progress"),
    Word(r"(go|goes|going|gone|went) without", "lacks, omits"),
    Word(r"anew", "again, or drop it"),
    Word(r"for ever", "indefinitely, permanently, or drop it"),
    Word(r"in earnest", "drop it"),
    Word(r"all the same", "still, anyway"),
    Word(r"but for", "except for"),
    Word(r"of (its|their|our|your|one's|his) own", "`its own …`, separate, or drop it"),
    Word(r"of ours", "`our …`, InfraSight's"),
    Word(
        r"nobody (has|had|knows|knew|else|can|could|reads|asks|asked|will|fills|filled|waits|"
        r"listens|needs|is|was|must|may|does|did|uses|wants|looks|takes)",
        "no …, unknown, nothing",
    ),
    Word(r"heed(s|ed)?", "applied, honoured"),
    Word(r"whoever", "users who …, the caller"),
    Word(r"the house|house's", "the project"),
    Word(r"(can|could|may|to|cannot|not) be had", "is available, is unavailable"),
    Word(r"what (became|becomes|came|comes|has become) of", "the outcome of"),
    Word(r"(tells?|hears?|heard|spoke|speaks?) of", "reports, learns of, names"),
    # Loss has four words: dropped, skipped, missing, rejected.
    Word(r"unseen", "untraced (a reason for dropped operations)"),
    Word(r"missed", "dropped (an event), skipped (a run of a program)"),
    Word(
        r"(events?|rows?|operations?|updates?|none|nothing)( that)?"
        r"( (is|are|was|were|be|been|has been))? lost"
        r"|lost (events?|rows?|operations?|updates?)",
        "dropped",
    ),
    Word(r"loses? (nothing|events?|rows?|no event|no row)", "drops"),
    Word(
        r"refus(e|es|ed|ing|als?)",
        "rejected, not accepted, not permitted",
        r"(connections?|connects?|ports?|sockets?|network)( \w+){0,4} refus\w+"
        r"|refus\w+( \w+){0,3} (connections?|to (connect|start|answer|run|load))",
    ),
    Word(r"configuration files?", "settings file"),
)

# Names that the code no longer has, and their successors.
RETIRED: Final = {
    "AgentStream": "EventUplink (agent), AgentSession (server)",
    "ProbeError": "PluginError",
    "StoreAwayError": "StoreUnavailableError",
    "RuntimeAwayError": "RuntimeUnavailableError",
    "ClusterAwayError": "ClusterUnavailableError",
}

# The parts of an identifier in Python that its reader cannot guess from.
NAME_PARTS: Final = {
    "told": "sent, reported",
    "untold": "dropped",
    "said": "reported, the value's own name",
    "away": "unavailable",
    "news": "updates",
    "stranger": "third_party",
    "anew": "again",
    "unseen": "untraced",
    "missed": "skipped, dropped",
    "refusal": "rejection",
}

EXEMPT: Final = (
    "LICENSE",
    "_pb2.py",
    "_pb2.pyi",
    "_pb2_grpc.py",
    "requirements.lock",
    "go.sum",
    "go.mod",
    "tools/vocabulary.py",
    "tests/test_vocabulary.py",
)
HASH_COMMENTS: Final = {".toml", ".sh", ".cfg", ".Containerfile"}
HASH_COMMENT_NAMES: Final = {"Makefile", "Containerfile", "Dockerfile", ".importlinter", "run"}
C_COMMENTS: Final = {".c", ".h", ".proto", ".go", ".js"}
WHOLE: Final = {".yaml", ".yml", ".tpl", ".txt", ".json", ".svg"}

_FENCE = re.compile(r"^( *)(```|~~~).*?^\1\2", re.MULTILINE | re.DOTALL)
_C_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
_SQL_COMMENT = re.compile(r"/\*.*?\*/|--[^\n]*", re.DOTALL)
_HASH_COMMENT = re.compile(r"(?:^|(?<=\s))#[^\n]*", re.MULTILINE)
_INLINE_CODE = re.compile(r"(`+)[^`]+?\1")
_STRING = re.compile(r"^([a-zA-Z]*)(\"\"\"|'''|\"|')(.*)\2$", re.DOTALL)
_PLACEHOLDER = re.compile(r"\{[^{}]*\}")
_LEADERS = re.compile(r"^[ \t]*(#+|//+|/?\*+|--)", re.MULTILINE)
_NAME_PART = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


def _blank(match: re.Match[str]) -> str:
    """Text that no pattern matches, of the same length and lines."""
    return re.sub(r"[^\s]", "\0", match[0])


def _spaces(match: re.Match[str]) -> str:
    """A comment's leader, as spaces, so that a phrase continues on the next line."""
    return " " * len(match[0])


def _only(spans: Iterator[tuple[int, int]], text: str) -> str:
    """A text with everything but these spans blanked out."""
    parts: list[str] = []
    position = 0
    for start, end in spans:
        parts += [re.sub(r"\S", "\0", text[position:start]), text[start:end]]
        position = end
    parts.append(re.sub(r"\S", "\0", text[position:]))
    return "".join(parts)


def _comments(pattern: re.Pattern[str], text: str) -> str:
    """The comments of a text, everything else blanked out."""
    prose = _only((match.span() for match in pattern.finditer(text)), text)
    return _LEADERS.sub(_spaces, prose)


def _python_prose(text: str) -> str:
    """The comments of Python code, and its strings that hold more than one word."""
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    characters = list(re.sub(r"\S", "\0", text))
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in (tokenize.COMMENT, tokenize.STRING):
            continue
        start = starts[token.start[0] - 1] + token.start[1]
        content = token.string
        if token.type == tokenize.COMMENT:
            content = re.sub(r"^#+", lambda match: " " * len(match[0]), content)
        else:
            string = _STRING.match(content)
            if string is None or not re.search(r"\s", string[3].strip()):
                continue
            body = string[3]
            if "f" in string[1].lower():
                body = _PLACEHOLDER.sub(_blank, body)
            opening = len(string[1]) + len(string[2])
            content = " " * opening + body + " " * len(string[2])
        characters[start : start + len(content)] = content
    return "".join(characters)


def prose(file: Path, text: str) -> str:
    """The prose of a file at its own places; whatever else the file holds is blanked out."""
    if file.suffix == ".py":
        selected = _python_prose(text)
    elif file.suffix == ".md":
        selected = _FENCE.sub(_blank, text)
    elif file.suffix in C_COMMENTS:
        selected = _comments(_C_COMMENT, text)
    elif file.suffix == ".sql":
        selected = _comments(_SQL_COMMENT, text)
    elif file.suffix in HASH_COMMENTS or file.name in HASH_COMMENT_NAMES:
        selected = _comments(_HASH_COMMENT, text)
    elif file.suffix in WHOLE:
        selected = _LEADERS.sub(_spaces, text)
    else:
        return ""
    return _INLINE_CODE.sub(_blank, selected)


def _compiled(pattern: str) -> re.Pattern[str]:
    """A pattern for whole words, over line breaks."""
    return re.compile(
        r"(?<![\w-])(?:" + pattern.replace(" ", r"\s+") + r")(?![\w-])", re.IGNORECASE
    )


_PATTERNS = [
    (word, _compiled(word.pattern), _compiled(word.allowed) if word.allowed else None)
    for word in WORDS
]
_RETIRED = re.compile(r"\b(" + "|".join(RETIRED) + r")\b")


def findings(file: Path, text: str) -> Iterator[tuple[int, str, str]]:
    """The words of a file to replace: line, word, replacement."""
    searched = prose(file, text)
    for word, pattern, allowed in _PATTERNS:
        exceptions = [match.span() for match in allowed.finditer(searched)] if allowed else []
        for match in pattern.finditer(searched):
            if any(start <= match.start() and match.end() <= end for start, end in exceptions):
                continue
            line = searched.count("\n", 0, match.start()) + 1
            yield line, " ".join(match[0].split()), word.instead
    for match in _RETIRED.finditer("" if file.suffix == ".md" else text):
        yield text.count("\n", 0, match.start()) + 1, match[0], RETIRED[match[0]]
    if file.suffix == ".py":
        yield from _names(text)


def _names(text: str) -> Iterator[tuple[int, str, str]]:
    """The identifiers of Python code with a part to replace."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.NAME:
            for part in _NAME_PART.findall(token.string):
                instead = NAME_PARTS.get(part.lower())
                if instead:
                    yield token.start[0], f"the name {token.string}", instead


def files(paths: list[str]) -> list[Path]:
    """The files below these paths that are in git, or are going to be."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *paths],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [
        ROOT / name
        for name in sorted(set(listed.split("\0")))
        if name and (ROOT / name).is_file() and not any(part in name for part in EXEMPT)
    ]


def main() -> int:
    """Print what is found; the status is 1 if there is anything."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("paths", nargs="*", help="files and folders, from the repository's root")
    parser.add_argument("--paths", nargs="+", dest="more", default=[], help="the same")
    parser.add_argument(
        "--list", action="store_true", help="print the words and their replacements"
    )
    arguments = parser.parse_args()
    if arguments.list:
        entries = [(word.pattern, word.instead) for word in WORDS]
        entries += [(f"the name {name}", instead) for name, instead in RETIRED.items()]
        entries += [(f"the name {part}", instead) for part, instead in NAME_PARTS.items()]
        for pattern, instead in entries:
            print(f"{pattern:60} {instead}")
        return 0
    count = 0
    for file in files([*arguments.paths, *arguments.more]):
        text = file.read_text(encoding="utf-8", errors="replace")
        for line, word, instead in sorted(findings(file, text)):
            print(f"{file.relative_to(ROOT)}:{line}: {word}: use {instead}")
            count += 1
    if count:
        print(
            f"{count} words to replace; docs/glossary.md defines the project's terms",
            file=sys.stderr,
        )
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
