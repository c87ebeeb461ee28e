"""Establishes who the peers on this machine are: by their Unix socket, or by their token."""
