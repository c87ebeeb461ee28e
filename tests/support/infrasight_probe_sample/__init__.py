"""A third-party probe for tests and benchmarks: openat(2), which is cheap and frequent."""
