"""Computes the status of each custom resource. Pure: no I/O."""
