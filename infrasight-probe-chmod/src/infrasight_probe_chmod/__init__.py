"""The chmod probe of InfraSight."""
