"""The execve probe of InfraSight."""
