"""Generated from execve.proto."""
