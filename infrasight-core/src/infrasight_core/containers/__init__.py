"""Which container a process is in, and what its runtime says of it."""
