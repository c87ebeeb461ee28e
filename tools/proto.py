"""Generates the Python code of every `.proto` file: python tools/proto.py [--check]

The wire's files in `proto/` go into infrasight-core, and with them copies of the `.proto` files themselves, so that others
compile theirs against an installed wheel. A probe's own files lie in its package. `--check` writes nothing: it names each
committed file that is stale, missing or left over, and ends with status 1.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parents[1]
WIRE = ROOT / "proto"
CORE = ROOT / "infrasight-core" / "src"


def main(arguments: list[str]) -> int:
    """Generates, or compares what it would generate."""
    if arguments not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    stale: list[str] = []
    packages = [*sorted(ROOT.glob("infrasight-*/src")), *sorted(ROOT.glob("tests/examples/*/src"))]
    for source in [WIRE, *packages, ROOT / "tests" / "support"]:
        if source == CORE:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            generate(source, Path(scratch))
            stale += differences(
                Path(scratch), CORE if source == WIRE else source, write=not arguments
            )
    for line in stale:
        print(line)
    if stale and arguments:
        print("type `make proto` and commit the result", file=sys.stderr)
        return 1
    return 0


def generate(source: Path, into: Path) -> None:
    """Runs protoc over a folder's files; those of the wire are copied too."""
    for file in sorted(source.rglob("*.proto")):
        name = file.relative_to(source)
        (into / name).parent.mkdir(parents=True, exist_ok=True)
        outputs = [f"--python_out={into}", f"--pyi_out={into}"]
        if "\nservice " in file.read_text(encoding="utf-8"):
            outputs.append(f"--grpc_python_out={into}")
        well_known = Path(grpc_tools.__file__).parent / "_proto"
        if (
            protoc.main(
                ["protoc", f"-I{source}", f"-I{WIRE}", f"-I{well_known}", *outputs, str(name)]
            )
            != 0
        ):
            sys.exit(f"protoc failed on {file}")
        if source == WIRE:
            shutil.copyfile(file, into / name)


def differences(made: Path, target: Path, *, write: bool) -> list[str]:
    """One line for each file of `target` that is not as it was made; `write` makes it so."""
    lines = []
    files = {f.relative_to(made) for f in made.rglob("*") if f.is_file()}
    for name in sorted(files):
        there = target / name
        if there.exists() and there.read_bytes() == (made / name).read_bytes():
            continue
        lines.append(f"{'written' if write else 'stale'}: {there.relative_to(ROOT)}")
        if write:
            shutil.copyfile(made / name, there)
    for left in sorted(f for f in target.rglob("*_pb2*.py*") if f.suffix in (".py", ".pyi")):
        if left.relative_to(target) not in files:
            lines.append(f"{'deleted' if write else 'left over'}: {left.relative_to(ROOT)}")
            if write:
                left.unlink()
    return lines


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
