"""Packages that a node's policies want beside the agent's own: installed into a folder before the agent starts."""
