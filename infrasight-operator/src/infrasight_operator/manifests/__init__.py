"""Builds the agents' Kubernetes objects from the installation; pure."""
