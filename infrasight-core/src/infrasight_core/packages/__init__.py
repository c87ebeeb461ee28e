"""Plugin packages that a node's policies require, installed into a folder before the agent starts."""
