"""Kills and freezes the server and its store under a steady load, and counts every event."""
