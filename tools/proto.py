"""Generates the Python code of every `.proto` file, and runs buf on the files.

    python tools/proto.py                  generates the code
    python tools/proto.py --check          names each file that is stale, missing or left over
    python tools/proto.py --buf COMMAND …  runs buf; every folder of `.proto` files is a module

The code of the wire's files in `proto/` goes into infrasight-core, together with copies of the
`.proto` files, so that other projects can compile theirs against an installed wheel. A probe's own
files are in its package. `--check` exits with status 1 if it names any file.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parents[1]
WIRE = ROOT / "proto"
CORE = ROOT / "infrasight-core" / "src"


BUF_RULES = {"lint": {"use": ["STANDARD"]}, "breaking": {"use": ["FILE"]}}


def main(arguments: list[str]) -> int:
    """Generates, compares, or runs buf; returns the status."""
    if arguments[:1] == ["--buf"] and len(arguments) > 1:
        return run_buf(arguments[1:])
    if arguments not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    stale: list[str] = []
    for source in source_folders(ROOT):
        with tempfile.TemporaryDirectory() as scratch:
            generate(source, Path(scratch))
            target = CORE if source == WIRE else source
            stale += find_differences(Path(scratch), target, write=not arguments)
    for line in stale:
        print(line)
    if stale and arguments:
        print("run `make proto` and commit the result", file=sys.stderr)
        return 1
    return 0


def source_folders(root: Path) -> list[Path]:
    """The roots of `.proto` imports: of the wire, of packages and examples, and of the tests."""
    core = root / CORE.relative_to(ROOT)
    packages = [folder for folder in sorted(root.glob("infrasight-*/src")) if folder != core]
    examples = sorted(root.glob("tests/examples/*/src"))
    return [root / "proto", *packages, *examples, root / "tests" / "support"]


def buf_modules(root: Path) -> list[str]:
    """The source folders that hold `.proto` files, relative to the root."""
    return [
        str(folder.relative_to(root))
        for folder in source_folders(root)
        if any(folder.rglob("*.proto"))
    ]


def run_buf(arguments: list[str]) -> int:
    """Runs a buf command with all modules; returns its status."""
    modules = [{"path": path} for path in buf_modules(ROOT)]
    settings = json.dumps({"version": "v2", "modules": modules, **BUF_RULES})
    command = [str(Path(sys.executable).with_name("buf")), *arguments, "--config", settings]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def generate(source: Path, into: Path) -> None:
    """Runs protoc on a folder's files; also copies the files of the wire."""
    for file in sorted(source.rglob("*.proto")):
        name = file.relative_to(source)
        (into / name).parent.mkdir(parents=True, exist_ok=True)
        outputs = [f"--python_out={into}", f"--pyi_out={into}"]
        if "\nservice " in file.read_text(encoding="utf-8"):
            outputs.append(f"--grpc_python_out={into}")
        well_known = Path(grpc_tools.__file__).parent / "_proto"
        includes = [f"-I{source}", f"-I{WIRE}", f"-I{well_known}"]
        if protoc.main(["protoc", *includes, *outputs, str(name)]) != 0:
            sys.exit(f"protoc failed on {file}")
        if source == WIRE:
            shutil.copyfile(file, into / name)


def find_differences(generated: Path, target: Path, *, write: bool) -> list[str]:
    """One line per file of `target` that differs from the generated one; `write` updates it."""
    lines = []
    names = {file.relative_to(generated) for file in generated.rglob("*") if file.is_file()}
    for name in sorted(names):
        committed = target / name
        if committed.exists() and committed.read_bytes() == (generated / name).read_bytes():
            continue
        lines.append(f"{'written' if write else 'stale'}: {committed.relative_to(ROOT)}")
        if write:
            shutil.copyfile(generated / name, committed)
    for file in sorted(target.rglob("*_pb2*.py*")):
        if file.suffix not in (".py", ".pyi") or file.relative_to(target) in names:
            continue
        lines.append(f"{'deleted' if write else 'left over'}: {file.relative_to(ROOT)}")
        if write:
            file.unlink()
    return lines


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
