"""The events of the probe `mkdir`."""
