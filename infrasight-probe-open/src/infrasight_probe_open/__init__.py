"""The open probe of InfraSight."""
