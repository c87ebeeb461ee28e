"""Talks to other processes: addresses, TLS, gRPC channels and streams, and the status server."""
