"""The command: `python -m infrasight_testbed.fuzz --mutations 1000000 --seed 1`."""

import argparse
import sys
import tempfile
from pathlib import Path

from infrasight_testbed.fuzz.campaign import Campaign, Result
from infrasight_testbed.process_memory import MIB


def main() -> int:
    """Runs a campaign and prints what it found; the status is 1 if anything is wrong."""
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("--mutations", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(arguments.seed, lambda line: print(line, flush=True))
        result = campaign.run(Path(folder), arguments.mutations)
    print_result(result)
    is_good = not (result.crashes or result.hangs or result.wrong_rows or result.missing_rows)
    return 0 if is_good else 1


def print_result(result: Result) -> None:
    """Prints a line for each number."""
    server, store, control = (size // MIB for size in result.peak_bytes)
    print(f"mutations sent: {result.mutations} in {result.seconds:.0f} s")
    print(f"crashes: {len(result.crashes)}")
    for crash in sorted(set(result.crashes))[:20]:
        print(f"  {crash}")
    print(f"messages without an answer: {result.hangs}")
    print(f"rows stored: {result.stored_rows}")
    print(f"rows stored that should not be: {result.wrong_rows}")
    print(f"acknowledged rows that are not stored: {result.missing_rows}")
    for problem in result.store_errors:
        print(f"rejected by the store alone: {problem}")
    print(f"peak memory: server {server} MiB, store {store} MiB, control service {control} MiB")
    for outcome, count in result.outcomes.most_common():
        print(f"  {count:9} {outcome}")


if __name__ == "__main__":
    sys.exit(main())
