"""Measures all figures of docs/performance.md.

usage: run.py [ROUNDS]   (as root; 5 rounds by default)
"""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    """Runs the benchmarks one after the other."""
    rounds = sys.argv[1] if len(sys.argv) > 1 else "5"
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent / "tests/support")}
    for script, *arguments in (
        ("reader.py", rounds),
        ("enriching.py", rounds),
        ("cost.py", rounds),
        ("start.py", rounds),
        ("agent.py",),
        ("memory.py",),
        ("latency.py",),
        ("growth.py", rounds),
        ("server.py", rounds),
        ("insert.py", rounds),
        ("size.py",),
        ("queries.py",),
        ("cluster_operator.py",),
    ):
        subprocess.run([sys.executable, HERE / script, *arguments], env=environment, check=True)


if __name__ == "__main__":
    main()
