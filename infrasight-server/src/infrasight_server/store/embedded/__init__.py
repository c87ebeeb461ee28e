"""The embedded store: chDB in its own process, which reaches nothing but its data."""
