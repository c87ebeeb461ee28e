"""Builds the status of each custom resource; pure."""
