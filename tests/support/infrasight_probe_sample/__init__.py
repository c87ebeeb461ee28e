"""A probe that a stranger could have written: openat(2) as given, cheap and frequent, for tests and benchmarks."""
