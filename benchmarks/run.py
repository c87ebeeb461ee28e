"""All figures that the README quotes.

usage: run.py [ROUNDS]   (as root; 5 rounds by default)
"""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "tests/support")]

import agent
import reader


def main() -> None:
    """Runs one after the other."""
    reader.main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
    agent.main()


if __name__ == "__main__":
    main()
