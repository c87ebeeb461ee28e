"""The command: `python -m infrasight_testbed.soak --rate 50000 --faults 20 --seed 1`."""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from attrs import asdict

from infrasight_testbed.soak.trial import Result, Trial


def main() -> int:
    """Runs a trial and prints its account; the status is 1 if it does not add up."""
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--rate", type=int, default=50_000, help="events a second")
    parser.add_argument("--faults", type=int, default=20, help="how often each fault occurs")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        trial = Trial(arguments.seed, lambda line: print(line, flush=True))
        result = trial.run(Path(folder), arguments.rate, arguments.faults)
    print_result(result)
    return 0 if result.is_exact else 1


def print_result(result: Result) -> None:
    """Prints the account, and as the last line the same as JSON."""
    for fault, times in result.faults.items():
        print(f"{fault}: {times} times")
    print(f"events made: {result.made:,} in {result.seconds:.0f} s")
    print(f"rows: {result.rows:,}")
    print(f"dropped and counted: {result.dropped:,}")
    print(f"missing: {result.missing:,}")
    print(f"doubled: {result.doubled:,}")
    print(json.dumps({"benchmark": "soak", **asdict(result)}))


if __name__ == "__main__":
    sys.exit(main())
