"""Builds the agents' Kubernetes objects from the installation. Pure: no I/O."""
