"""Containers: which one a cgroup belongs to."""
