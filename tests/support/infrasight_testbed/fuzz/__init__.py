"""Sends mutated messages to real processes: `python -m infrasight_testbed.fuzz --help`."""
