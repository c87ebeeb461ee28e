"""Containers: which container a cgroup belongs to, and the metadata that its runtime has."""
