"""The connect and accept probes of InfraSight."""
