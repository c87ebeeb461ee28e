"""Containers: which one a cgroup belongs to, and what its runtime says of it."""
