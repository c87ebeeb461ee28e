"""Addresses, TLS, gRPC channels and clients, and the status server."""
