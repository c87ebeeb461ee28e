"""The documents: links lead somewhere, names exist, and each term is defined once."""

import re
import subprocess
from pathlib import Path

import pytest
from infrasight_core.cli.group import COMMANDS

import docs

ROOT = Path(__file__).parents[1]
PATTERNS = ("*.md", "docs/**/*.md", "infrasight-*/*.md", "helm/**/*.md")
PAGES = sorted(page for pattern in PATTERNS for page in ROOT.glob(pattern))
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
ENDINGS = {".bpf.c", ".bpf.h", ".proto", ".sql"}
METRIC = re.compile(r"\binfrasight_[a-z0-9_]+(?=[`{(\[])")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


def text_of(page: Path) -> str:
    """A page without its code blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub derives them."""
    headings = HEADING.findall(text_of(page))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_links_lead_to_files_and_headings(page: Path) -> None:
    """Every relative link of a page names an existing file and, with an anchor, a heading in it."""
    broken = []
    for path, anchor in LINK.findall(text_of(page)):
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(f"{path}#{anchor}" if anchor else path)
    assert broken == []


def test_index_lists_every_page() -> None:
    """docs/README.md, or the index of its folder, links to every page in docs/."""
    indices = (ROOT / "docs/README.md", ROOT / "docs/probes/README.md", ROOT / "ARCHITECTURE.md")
    linked = {
        (index.parent / path).resolve()
        for index in indices
        for path, _ in LINK.findall(text_of(index))
    }
    pages = {page for page in PAGES if page.is_relative_to(ROOT / "docs")}
    assert pages - linked - set(indices) == set()


def test_every_probe_has_a_page() -> None:
    """docs/probes/ has a page for each probe of this repository."""
    pages = {page.stem for page in (ROOT / "docs/probes").glob("*.md")} - {"README"}
    assert pages == set(docs.plugins().probes())


def test_glossary_defines_each_term_once() -> None:
    """No term of the glossary has two entries, and the words of loss are among them."""
    terms = re.findall(r"^\| \*\*([^*]+)\*\* \|", text_of(ROOT / "docs/glossary.md"), re.MULTILINE)
    assert len(terms) == len(set(terms))
    assert {"dropped", "skipped", "missing", "rejected"} <= set(terms)


def metrics() -> dict[str, set[str]]:
    """The labels of every metric in the generated reference."""
    reference = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(infrasight_\w+)` \| \w+ \| ([^|]*) \|", reference, re.MULTILINE)
    return {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows}


def test_documented_labels_exist() -> None:
    """Every label that a document names in braces behind a metric is one of that metric's."""
    unknown = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for name, labels in re.findall(r"\b(infrasight_\w+)\{([^}]*)\}", text):
            used = set(re.findall(r"(\w+)(?=[=,]|$)", re.sub(r'"[^"]*"', "", labels)))
            if used - metrics().get(name, set()):
                unknown.append(f"{page.relative_to(ROOT)}: {name}{{{labels}}}")
    assert unknown == []


def test_documented_metrics_exist() -> None:
    """Every metric that a document names is in the generated reference."""
    existing = metrics().keys()
    modules = {path.parent.name for path in ROOT.glob("infrasight-*/src/*/__init__.py")}
    unknown = [
        f"{page.relative_to(ROOT)}: {name}"
        for page in PAGES
        if page.name != "CHANGELOG.md"
        for name in METRIC.findall(text_of(page))
        if name not in existing | modules
        and not name.startswith(("infrasight_options", "infrasight_api"))
    ]
    assert unknown == []


@each_page
def test_named_source_files_exist(page: Path) -> None:
    """Every source file that a page names between backticks is in the repository."""
    text = re.sub(r"\[`[^`]+`\]\(", "", text_of(page))  # links are tested by their targets
    names = set(re.findall(r"`([\w./-]+\.(?:py|bpf\.[ch]|proto|sql))`", text))
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.check_output(command, cwd=ROOT, text=True).splitlines()
    endings = {path[index:] for path in listed for index in starts(path)}
    assert names - endings - ENDINGS == set()


def starts(path: str) -> list[int]:
    """The places in a path where a part begins."""
    return [0, *(match.end() for match in re.finditer("/", path))]


def test_documented_commands_exist() -> None:
    """Every subcommand of `infrasight` that a code block of a document runs exists."""
    used = {
        command
        for page in PAGES
        for block in FENCE.findall(page.read_text(encoding="utf-8"))
        for command in re.findall(r"^(?:\$ )?(?:sudo )?infrasight ([a-z]+)", block, re.MULTILINE)
    }
    assert used - set(COMMANDS) == set()
    assert {"doctor", "trace", "agent", "query", "verify"} <= used


def test_makefile_has_the_documented_targets() -> None:
    """Every `make` target that a document names exists."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    targets |= {f"bench-{script.stem}" for script in (ROOT / "benchmarks").glob("*.py")}
    named = {
        target
        for page in PAGES
        for target in re.findall(
            r"(?:`|^\$? ?)make ([a-z-]+)", page.read_text(encoding="utf-8"), re.MULTILINE
        )
    }
    assert named - targets == set()


def test_picture_is_that_of_a_trace() -> None:
    """The README's picture exists and shows events of every probe."""
    (picture,) = re.findall(
        r"!\[[^]]*\]\(([^)]+)\)", (ROOT / "README.md").read_text(encoding="utf-8")
    )
    svg = (ROOT / picture).read_text(encoding="utf-8")
    assert all(f">{probe}" in svg or probe in svg for probe in docs.plugins().probes())


def test_generated_part_replaces_a_stale_one() -> None:
    """A generated part that differs from the code is replaced; the text around it stays."""
    text = "before\n<!-- generated: metrics server -->\noutdated\n<!-- /generated -->\nafter\n"
    made = docs.generated(text)
    assert made.startswith("before\n")
    assert made.endswith("\nafter\n")
    assert "infrasight_server_rows_stored_total" in made
    assert "outdated" not in made
    assert docs.generated(made) == made


def test_documents_are_generated() -> None:
    """The committed documents are what `make docs` writes."""
    command = [str(ROOT / ".venv/bin/python"), str(ROOT / "tools/docs.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
