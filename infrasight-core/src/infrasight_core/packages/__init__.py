"""Installs the plugin packages that a node's policies require, before the agent starts."""
