"""The InfraSight probe `mkdir`: every directory created."""
